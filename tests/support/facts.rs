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
    count: usize,
}

impl Facts {
    /// Begins with a workspace and two users who may.
    ///
    /// # Panics
    /// When the deployment does not do as it is told.
    pub async fn begin(client: &Client) -> Self {
        let client = client.clone().on(Plane::Service);
        let home: WorkspaceId = "acme".parse().expect("an id");
        client.create_workspace(&home, WorkspaceInput::default()).await.expect("a workspace");
        let mut facts = Self { client, home, alive: Vec::new(), ended: Vec::new(), count: 0 };
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
        self.client.disable_user(first.user, None).await?;
        self.ended.push(first);
        Ok(())
    }

    /// Asks about everybody, and so brings all of them into the service's memory.
    ///
    /// # Panics
    /// At the first answer that is not as acknowledged.
    pub async fn check(&self) {
        let resource = [("workspace".to_owned(), self.home.as_str().into())].into_iter().collect();
        let check = Check { capability: "graph:read".into(), resource, ..Check::default() };
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

    /// How many users were ended.
    pub fn ended(&self) -> usize {
        self.ended.len()
    }
}
