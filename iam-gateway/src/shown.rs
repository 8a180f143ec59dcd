//! Answers as clients see them: every field of a record is there, and the home workspace under both of its names.

use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use iam_schema::api_keys::ApiKeyRecord;
use iam_schema::users::UserRecord;
use iam_schema::workspaces::WorkspaceRecord;
use iam_schema::{IamResponse, OperationName, Timestamp};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::failure::Failure;

/// What an operation answered.
#[derive(Debug)]
pub struct Answer {
    pub operation: OperationName,
    pub response: IamResponse,
}

#[derive(Serialize)]
struct User<'a> {
    id: &'a str,
    username: &'a str,
    name: &'a str,
    email: &'a str,
    roles: &'a [String],
    enabled: bool,
    must_change_password: bool,
    created: String,
    workspace: &'a str,
    default_workspace: &'a str,
    version: u64,
}

#[derive(Serialize)]
struct Workspace<'a> {
    id: &'a str,
    name: &'a str,
    enabled: bool,
    created: String,
    version: u64,
}

#[derive(Serialize)]
struct ApiKey<'a> {
    id: &'a str,
    user_id: &'a str,
    name: &'a str,
    prefix: &'a str,
    expires: String,
    created: String,
    last_used: String,
}

/// RFC 3339, or nothing.
fn time(time: Option<Timestamp>) -> String {
    time.map(|time| time.to_string()).unwrap_or_default()
}

fn user(record: &UserRecord) -> User<'_> {
    User {
        id: &record.id,
        username: &record.username,
        name: &record.name,
        email: &record.email,
        roles: &record.roles,
        enabled: record.enabled,
        must_change_password: record.must_change_password,
        created: time(record.created),
        workspace: &record.workspace,
        default_workspace: &record.workspace,
        version: record.version,
    }
}

fn workspace(record: &WorkspaceRecord) -> Workspace<'_> {
    Workspace {
        id: &record.id,
        name: &record.name,
        enabled: record.enabled,
        created: time(record.created),
        version: record.version,
    }
}

fn api_key(record: &ApiKeyRecord) -> ApiKey<'_> {
    ApiKey {
        id: &record.id,
        user_id: &record.user_id,
        name: &record.name,
        prefix: &record.prefix,
        expires: time(record.expires),
        created: time(record.created),
        last_used: time(record.last_used),
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self) {
            Ok(body) => ([(CONTENT_TYPE, "application/json")], body).into_response(),
            Err(_) => Failure::unavailable("the answer cannot be written").into_response(),
        }
    }
}

impl Serialize for Answer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use OperationName::*;
        let response = &self.response;
        let mut map = serializer.serialize_map(None)?;
        let texts = [
            ("api_key_plaintext", response.api_key_plaintext.expose()),
            ("jwt", response.jwt.expose()),
            ("signing_key_public", &response.signing_key_public),
            ("jwks_json", &response.jwks_json),
            ("temporary_password", response.temporary_password.expose()),
            ("bootstrap_admin_user_id", &response.bootstrap_admin_user_id),
            ("bootstrap_admin_api_key", response.bootstrap_admin_api_key.expose()),
            ("next_page_token", &response.next_page_token),
        ];
        for (name, text) in texts.iter().filter(|(_, text)| !text.is_empty()) {
            map.serialize_entry(name, text)?;
        }
        if let Some(record) = &response.user {
            map.serialize_entry("user", &user(record))?;
        }
        if let Some(record) = &response.workspace {
            map.serialize_entry("workspace", &workspace(record))?;
        }
        if let Some(record) = &response.api_key {
            map.serialize_entry("api_key", &api_key(record))?;
        }
        // A list is there also when nothing is in it.
        match self.operation {
            ListUsers => {
                map.serialize_entry("users", &response.users.iter().map(user).collect::<Vec<_>>())?;
            }
            ListWorkspaces | ListMyWorkspaces => {
                let records: Vec<_> = response.workspaces.iter().map(workspace).collect();
                map.serialize_entry("workspaces", &records)?;
            }
            ListApiKeys => {
                let records: Vec<_> = response.api_keys.iter().map(api_key).collect();
                map.serialize_entry("api_keys", &records)?;
            }
            Login => {
                map.serialize_entry("jwt_expires", &time(response.jwt_expires))?;
                map.serialize_entry("must_change_password", &response.must_change_password)?;
            }
            BootstrapStatus => {
                map.serialize_entry("bootstrap_available", &response.bootstrap_available.unwrap_or(false))?;
            }
            _ => {}
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn records_have_every_field_and_both_names_of_the_home() {
        let record = UserRecord { id: "u".to_owned(), workspace: "acme".to_owned(), ..UserRecord::default() };
        let response = IamResponse { user: Some(record), ..IamResponse::default() };
        let shown = json!(Answer { operation: OperationName::Whoami, response });
        let expected = json!({ "user": {
            "id": "u", "username": "", "name": "", "email": "", "roles": [], "enabled": false,
            "must_change_password": false, "created": "", "workspace": "acme", "default_workspace": "acme",
            "version": 0,
        } });
        assert_eq!(shown, expected);
    }

    #[test]
    fn lists_and_answers_yes_or_no_are_there_also_when_empty() {
        let shown = |operation| json!(Answer { operation, response: IamResponse::default() });
        assert_eq!(shown(OperationName::ListUsers), json!({ "users": [] }));
        assert_eq!(shown(OperationName::ListMyWorkspaces), json!({ "workspaces": [] }));
        assert_eq!(shown(OperationName::ListApiKeys), json!({ "api_keys": [] }));
        assert_eq!(shown(OperationName::BootstrapStatus), json!({ "bootstrap_available": false }));
        assert_eq!(shown(OperationName::DisableUser), json!({}));
    }
}
