//! Users named on the command line, by id or by username.

use iam_client::schema::subject::Plane;
use iam_client::schema::users::UserRecord;
use iam_client::schema::{ErrorKind, UserId};
use iam_client::users::UserRef;
use iam_client::{Client, ClientError};

use crate::failure::Failure;

/// The id of a user. Oneself is found by whoami, which needs no capability; only somebody else is looked up.
pub async fn user_id(client: &Client, named: &str) -> Result<UserId, Failure> {
    if let UserRef::Id(id) = UserRef::from(named) {
        return Ok(id);
    }
    if client.plane() == Plane::Api {
        let me = client.whoami().await?;
        if me.username.eq_ignore_ascii_case(named) {
            return id_of(&me);
        }
    }
    match client.get_user(UserRef::Name(named), None).await {
        Ok(user) => id_of(&user),
        Err(error) => Err(unknown(error)),
    }
}

/// The id in a record of the service.
pub fn id_of(user: &UserRecord) -> Result<UserId, Failure> {
    user.id.parse().map_err(|_| Failure::unexpected("the reply cannot be used: `user.id` is not an id"))
}

fn unknown(error: ClientError) -> Failure {
    let denied = error.kind() == Some(ErrorKind::OperationNotPermitted);
    let failure = Failure::from(error);
    if denied {
        failure.with("there is no such user, or looking one up by name needs users:read: give the id")
    } else {
        failure
    }
}
