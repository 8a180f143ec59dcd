//! What a deployment was told and acknowledged, to be found in force after every trouble.

use iam_client::api_keys::NewApiKey;
use iam_client::decisions::About;
use iam_client::{Client, ClientError};
use iam_schema::decisions::Check;
use iam_schema::subject::Plane;
use iam_schema::users::UserInput;
use iam_schema::workspaces::WorkspaceInput;
use iam_schema::{ErrorKind, Secret, UserId, WorkspaceId};

/// A user with a key.
#[derive(Debug, Clone)]
struct Holder {
    user: UserId,
    key: Secret,
}

/// Users who may and users who were ended, all of them acknowledged.
#[derive(Debug)]
pub struct Facts {
    client: Client,
    home: WorkspaceId,
    alive: Vec<Holder>,
    ended: Vec<Holder>,
    /// Whose end was asked for and not acknowledged.
    undecided: Option<Holder>,
    count: usize,
}

impl Facts {
    /// Begins with a workspace and two users who may, after a bootstrap where there was none yet.
    ///
    /// # Panics
    /// When the deployment does not do as it is told.
    pub async fn begin(client: &Client) -> Self {
        let client = client.clone().on(Plane::Service);
        let home: WorkspaceId = "acme".parse().expect("an id");
        if client.bootstrap_status().await.expect("an answer") {
            client.bootstrap().await.expect("seeded");
        }
        client.create_workspace(&home, WorkspaceInput::default()).await.expect("a workspace");
        let (alive, ended) = (Vec::new(), Vec::new());
        let mut facts = Self { client, home, alive, ended, undecided: None, count: 0 };
        for _ in 0..3 {
            facts.change().await.expect("a change");
        }
        facts.check().await;
        facts
    }

    /// The same over another client.
    pub fn set_client(&mut self, client: &Client) {
        self.client = client.clone().on(Plane::Service);
    }

    /// Adds a user whom the service then has in memory, and ends the oldest. What is not acknowledged is
    /// forgotten, since it may be either way.
    ///
    /// # Errors
    /// What the client said.
    pub async fn change(&mut self) -> Result<(), ClientError> {
        self.count += 1;
        self.undecided = None;
        let input = UserInput {
            username: Some(format!("user-{}", self.count)),
            roles: Some(vec!["reader".into()]),
            ..UserInput::default()
        };
        let user = self.client.create_user(&self.home, input).await?.id.parse().expect("an id");
        let key = NewApiKey { user: Some(user), name: "laptop", expires: None };
        let key = self.client.create_api_key(key, None).await?.plaintext;
        self.alive.push(Holder { user, key });
        if self.alive.len() > 2 {
            self.end_oldest().await?;
        }
        Ok(())
    }

    /// Disables the user who has been there for longest.
    ///
    /// # Errors
    /// What the client said.
    pub async fn end_oldest(&mut self) -> Result<(), ClientError> {
        let first = self.alive.remove(0);
        self.undecided = Some(first.clone());
        self.client.disable_user(first.user, None).await?;
        self.undecided = None;
        self.ended.push(first);
        Ok(())
    }

    /// After an error that says that nothing was done: whoever was to be ended counts as alive.
    pub fn put_back(&mut self) {
        if let Some(holder) = self.undecided.take() {
            self.alive.insert(0, holder);
        }
    }

    /// Asks about everybody, and so brings all of them into the service's memory.
    ///
    /// # Panics
    /// At the first answer that is not as acknowledged.
    pub async fn check(&self) {
        let check = self.question();
        for (holders, good) in [(&self.ended, false), (&self.alive, true)] {
            for holder in holders {
                match self.client.resolve_api_key(&holder.key).await {
                    Ok(identity) => assert!(good, "the key of {} works: {identity:?}", holder.user),
                    Err(error) => {
                        let refused = error.kind() == Some(ErrorKind::AuthFailed);
                        assert!(
                            !good && refused,
                            "the key of {}, which is good: {good}: {error}",
                            holder.user
                        );
                    }
                }
                let decided =
                    self.client.authorise(About::User(holder.user), &check).await.expect("a decision");
                assert_eq!(decided.decision.allow, good, "{}", holder.user);
            }
        }
    }

    /// Asks about those who were ended, where an answer may be missing but must not be an allow.
    ///
    /// # Panics
    /// At the first who gets in.
    pub async fn nobody_who_was_ended_gets_in(&self) {
        let check = self.question();
        // The last ones above all: who was ended long ago is dropped from every memory.
        for holder in self.ended.iter().rev().take(3) {
            let (user, key) = (holder.user, &holder.key);
            assert!(self.client.resolve_api_key(key).await.is_err(), "the key of {user} works");
            if let Ok(decided) = self.client.authorise(About::User(user), &check).await {
                assert!(!decided.decision.allow, "{user} is allowed");
            }
        }
    }

    /// Asks about everybody who is alive, again and again, so that every replica has them in memory.
    pub async fn remember(&self) {
        let check = self.question();
        for holder in self.alive.iter().cycle().take(4 * self.alive.len()) {
            // Whether there is an answer does not matter.
            let _ = self.client.resolve_api_key(&holder.key).await;
            let _ = self.client.authorise(About::User(holder.user), &check).await;
        }
    }

    fn question(&self) -> Check {
        let resource = [("workspace".to_owned(), self.home.as_str().into())].into_iter().collect();
        Check { capability: "graph:read".into(), resource, ..Check::default() }
    }

    /// How many users were ended.
    pub fn ended(&self) -> usize {
        self.ended.len()
    }
}
