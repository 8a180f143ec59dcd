//! `iam can`, `iam why`.

use clap::Args;
use iam_client::decisions::About;
use iam_client::schema::WorkspaceId;
use iam_client::schema::decisions::Check;
use iam_client::schema::subject::Plane;
use iam_client::users::UserRef;
use serde_json::{Map, Value, json};

use crate::app::App;
use crate::failure::{Exit, Failure};
use crate::out::harmless;

#[derive(Debug, Args)]
pub struct Can {
    /// Capability, such as graph:read
    capability: String,
    /// The workspace that it is about: goes into the resource
    #[arg(long)]
    workspace: Option<WorkspaceId>,
    /// Resource: a JSON object
    #[arg(long, value_name = "JSON", value_parser = object)]
    resource: Option<Object>,
    /// Parameters: a JSON object
    #[arg(long, value_name = "JSON", value_parser = object)]
    parameters: Option<Object>,
    /// Ask about another user, by id or username; needs iam:admin
    #[arg(long)]
    user: Option<String>,
}

#[derive(Debug, Args)]
pub struct Why {
    /// User, by id or username
    user: String,
    /// Capability, such as graph:read
    capability: String,
    /// The workspace that it is about
    workspace: Option<WorkspaceId>,
}

type Object = Map<String, Value>;

fn object(text: &str) -> Result<Object, String> {
    serde_json::from_str(text).map_err(|e| format!("must be a JSON object: {e}"))
}

pub async fn can(app: &App, args: Can) -> Result<Exit, Failure> {
    let check = Check {
        capability: args.capability,
        resource: resource(args.resource.unwrap_or_default(), args.workspace.as_ref())?,
        parameters: args.parameters.unwrap_or_default(),
    };
    let (allow, record) = match &args.user {
        Some(user) => {
            let client = app.signed_in().await?;
            let answer = client.explain(Some(UserRef::from(user.as_str())), &check).await?;
            app.out.note(&answer.reason);
            (answer.allow, json!({ "decision_allow": answer.allow, "decision_reason": answer.reason }))
        }
        None => {
            let decision = about_the_caller(app, &check).await?;
            let record = json!({ "decision_allow": decision.allow, "decision_ttl_seconds": decision.ttl });
            (decision.allow, record)
        }
    };
    app.out.value(word(allow), &record)?;
    Ok(if allow { Exit::Done } else { Exit::Denied })
}

/// On the service plane nobody is the caller: whoever the credential stands for is asked about instead.
async fn about_the_caller(
    app: &App,
    check: &Check,
) -> Result<iam_client::schema::decisions::Decision, Failure> {
    let answer = match app.settings.plane {
        Plane::Api => app.signed_in().await?.authorise(About::Oneself, check).await?,
        Plane::Service => {
            let found = app.settings.credential()?.ok_or_else(Failure::not_logged_in)?;
            app.open().await?.authorise(About::Credential(&found.credential), check).await?
        }
    };
    Ok(answer.decision)
}

pub async fn why(app: &App, args: Why) -> Result<(), Failure> {
    let check = Check {
        capability: args.capability,
        resource: resource(Object::new(), args.workspace.as_ref())?,
        ..Check::default()
    };
    let client = app.signed_in().await?;
    let answer = client.explain(Some(UserRef::from(args.user.as_str())), &check).await?;
    let record = json!({ "decision_allow": answer.allow, "decision_reason": answer.reason });
    app.out.value(&format!("{}: {}", word(answer.allow), harmless(&answer.reason)), &record).map(drop)
}

fn word(allow: bool) -> &'static str {
    if allow { "allowed" } else { "denied" }
}

/// Puts the workspace into the resource.
fn resource(mut resource: Object, workspace: Option<&WorkspaceId>) -> Result<Object, Failure> {
    if let Some(id) = workspace {
        match resource.insert("workspace".to_owned(), id.as_str().into()) {
            Some(other) if other != id.as_str() => {
                return Err(Failure::usage("--workspace and the workspace in --resource are not the same"));
            }
            _ => {}
        }
    }
    Ok(resource)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workspace_goes_into_the_resource_and_contradicts_nothing() {
        let acme: WorkspaceId = "acme".parse().unwrap();
        let given = object(r#"{"flow":"f"}"#).unwrap();
        let merged = resource(given.clone(), Some(&acme)).unwrap();
        assert_eq!(Value::from(merged), json!({ "flow": "f", "workspace": "acme" }));
        assert_eq!(resource(given.clone(), None).unwrap(), given);
        assert!(resource(object(r#"{"workspace":"acme"}"#).unwrap(), Some(&acme)).is_ok());
        for other in [r#"{"workspace":"b"}"#, r#"{"workspace":null}"#] {
            assert!(resource(object(other).unwrap(), Some(&acme)).is_err(), "{other}");
        }
        assert!(object("[]").is_err() && object("{").is_err());
    }
}
