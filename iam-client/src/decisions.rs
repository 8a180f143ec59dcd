//! May this user do this?

use iam_schema::decisions::{Check, Decision};
use iam_schema::{ErrorKind, IamRequest, IamResponse, OperationName, Secret, UserId};
use serde::Serialize;

use crate::client::Client;
use crate::error::ClientError;
use crate::reply;
use crate::sessions::Identity;
use crate::users::UserRef;

/// About whom a question is asked.
#[derive(Debug, Clone, Copy)]
pub enum About<'a> {
    /// The caller, on the API plane.
    Oneself,
    User(UserId),
    /// Whoever this credential stands for; the answer then says who that is.
    Credential(&'a Secret),
}

/// A decision about one check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorisation {
    pub decision: Decision,
    /// Present where the question was asked about a credential.
    pub identity: Option<Identity>,
}

/// Decisions about many checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorisations {
    /// One for each check, in the same order.
    pub decisions: Vec<Decision>,
    /// Present where the question was asked about a credential.
    pub identity: Option<Identity>,
}

/// A decision, and which role allowed it or what each lacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    pub allow: bool,
    pub reason: String,
}

/// Decisions.
///
/// # Errors
/// Each method as [`Client::call`]. A deny is an answer, not an error, and an error is never an allow.
impl Client {
    /// May they do this?
    pub async fn authorise(&self, about: About<'_>, check: &Check) -> Result<Authorisation, ClientError> {
        let mut request = question(check)?;
        about.put(&mut request)?;
        let mut response = self.call(OperationName::Authorise, request).await?;
        let allow = reply::required("decision_allow", response.decision_allow)?;
        Ok(Authorisation {
            decision: Decision { allow, ttl: response.decision_ttl_seconds },
            identity: about.identity(&mut response)?,
        })
    }

    /// Up to [`MAX_CHECKS`](iam_schema::decisions::MAX_CHECKS) such questions about one user, in one request.
    pub async fn authorise_many(
        &self,
        about: About<'_>,
        checks: &[Check],
    ) -> Result<Authorisations, ClientError> {
        let mut request = IamRequest {
            authorise_checks: json("authorise_checks", checks)?.into(),
            ..IamRequest::default()
        };
        about.put(&mut request)?;
        let mut response = self.call(OperationName::AuthoriseMany, request).await?;
        Ok(Authorisations {
            decisions: decisions(&response.decisions_json, checks.len())?,
            identity: about.identity(&mut response)?,
        })
    }

    /// The decision that [`Client::authorise`] takes, with its reason in words. `None` is oneself, on the API
    /// plane.
    pub async fn explain(
        &self,
        user: Option<UserRef<'_>>,
        check: &Check,
    ) -> Result<Explanation, ClientError> {
        let mut request = question(check)?;
        if let Some(user) = user {
            user.put(&mut request)?;
        }
        let response = self.call(OperationName::Explain, request).await?;
        Ok(Explanation {
            allow: reply::required("decision_allow", response.decision_allow)?,
            reason: response.decision_reason,
        })
    }
}

impl About<'_> {
    fn put(self, request: &mut IamRequest<'_>) -> Result<(), ClientError> {
        match self {
            About::Oneself => {}
            About::User(id) => request.user_id = id.to_string().into(),
            About::Credential(credential) if credential.is_empty() => {
                // On the wire it would be absent, and the question one about the caller.
                return Err(ClientError::refused(ErrorKind::AuthFailed, "the credential is empty"));
            }
            About::Credential(credential) => request.credential = credential.clone(),
        }
        Ok(())
    }

    fn identity(self, response: &mut IamResponse) -> Result<Option<Identity>, ClientError> {
        match self {
            About::Oneself | About::User(_) => Ok(None),
            About::Credential(_) => Identity::read(response).map(Some),
        }
    }
}

fn question<'a>(check: &'a Check) -> Result<IamRequest<'a>, ClientError> {
    let object = |field, map: &serde_json::Map<_, _>| match map.is_empty() {
        true => Ok(String::new()),
        false => json(field, map),
    };
    Ok(IamRequest {
        capability: check.capability.as_str().into(),
        resource_json: object("resource_json", &check.resource)?.into(),
        parameters_json: object("parameters_json", &check.parameters)?.into(),
        ..IamRequest::default()
    })
}

pub(crate) fn json<T: Serialize + ?Sized>(field: &str, value: &T) -> Result<String, ClientError> {
    serde_json::to_string(value)
        .map_err(|e| ClientError::refused(ErrorKind::InvalidArgument, format!("`{field}`: {e}")))
}

/// Reads `decisions_json`. Nobody may be left without a decision, or with that of another check.
pub(crate) fn decisions(text: &str, asked: usize) -> Result<Vec<Decision>, ClientError> {
    let fault = |rule: String| ClientError::reply("decisions_json", rule);
    let decisions: Vec<Decision> = serde_json::from_str(text).map_err(|e| fault(e.to_string()))?;
    if decisions.len() == asked {
        Ok(decisions)
    } else {
        Err(fault(format!("has {} decisions for {asked} checks", decisions.len())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_has_its_decision_or_none_is_believed() {
        let two = r#"[{"allow":true,"ttl":60},{"allow":false,"ttl":5}]"#;
        assert!(decisions(two, 2).unwrap()[0].allow);
        for (text, asked) in [(two, 1), (two, 3), ("", 0), ("{}", 0), (r#"[{"ttl":1}]"#, 1)] {
            assert!(decisions(text, asked).is_err(), "{text:?} for {asked}");
        }
    }

    #[test]
    fn empty_credential_never_stands_for_oneself() {
        let error = About::Credential(&Secret::default()).put(&mut IamRequest::default()).unwrap_err();
        assert_eq!(error.kind(), Some(ErrorKind::AuthFailed));
    }

    #[test]
    fn question_without_resource_leaves_the_field_out() {
        let mut check = Check { capability: "llm".to_owned(), ..Check::default() };
        assert_eq!(question(&check).unwrap().resource_json, "");
        check.resource.insert("workspace".to_owned(), "acme".into());
        assert_eq!(question(&check).unwrap().resource_json, r#"{"workspace":"acme"}"#);
    }
}
