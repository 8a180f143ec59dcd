//! What is asked about somebody.

use iam_schema::WorkspaceId;
use iam_schema::decisions::Check;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use smallvec::SmallVec;

use crate::error::ClientError;

/// The longest question whose answer is remembered, in bytes: a workspace id has 63 at most, a capability some 30.
const MAX_REMEMBERED: usize = 512;

/// The SHA-256 of a question's texts: memory tells questions apart by it.
pub(super) type QuestionHash = [u8; 32];

/// A capability, and on what: as `authorise` takes them, ready to be asked many times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    capability: Box<str>,
    resource: Box<str>,
    parameters: Box<str>,
    /// The workspaces that it is about.
    targets: SmallVec<[WorkspaceId; 2]>,
    hash: QuestionHash,
}

impl Question {
    /// Whether somebody has a capability, anywhere.
    pub fn new(capability: &str) -> Self {
        Self::about(capability, String::new(), String::new(), SmallVec::new())
    }

    /// Whether somebody has a capability in a workspace, which is the resource.
    pub fn within(capability: &str, workspace: &WorkspaceId) -> Self {
        let resource = format!(r#"{{"workspace":{}}}"#, Value::from(workspace.as_str()));
        Self::about(capability, resource, String::new(), [workspace.clone()].into_iter().collect())
    }

    /// A question of any form.
    ///
    /// # Errors
    /// Never for a map that came out of JSON.
    pub fn of(check: &Check) -> Result<Self, ClientError> {
        let text = |field, map: &Map<String, Value>| match map.is_empty() {
            true => Ok(String::new()),
            false => crate::decisions::json(field, map),
        };
        let target = |map: &Map<String, Value>| map.get("workspace")?.as_str()?.parse().ok();
        let targets = [&check.resource, &check.parameters].into_iter().filter_map(target).collect();
        let resource = text("resource_json", &check.resource)?;
        let parameters = text("parameters_json", &check.parameters)?;
        Ok(Self::about(&check.capability, resource, parameters, targets))
    }

    fn about(
        capability: &str,
        resource: String,
        parameters: String,
        targets: SmallVec<[WorkspaceId; 2]>,
    ) -> Self {
        let mut hash = Sha256::new();
        for text in [capability, &resource, &parameters] {
            hash.update(text.len().to_be_bytes());
            hash.update(text);
        }
        Self {
            capability: capability.into(),
            resource: resource.into(),
            parameters: parameters.into(),
            targets,
            hash: hash.finalize().into(),
        }
    }

    /// The capability that is asked for.
    pub fn capability(&self) -> &str {
        &self.capability
    }

    /// How long its texts are, in bytes.
    pub(super) fn len(&self) -> usize {
        self.capability.len() + self.resource.len() + self.parameters.len()
    }

    /// As an element of `authorise_checks`.
    pub(super) fn as_check(&self) -> String {
        let object = |text: &str| if text.is_empty() { "{}".to_owned() } else { text.to_owned() };
        let capability = Value::from(self.capability());
        let (resource, parameters) = (object(&self.resource), object(&self.parameters));
        format!(r#"{{"capability":{capability},"resource":{resource},"parameters":{parameters}}}"#)
    }

    /// Whether it is too long to be remembered. What stands in it may come from a caller, and memory is bounded by
    /// the number of answers.
    pub(super) fn is_long(&self) -> bool {
        self.len() > MAX_REMEMBERED
    }

    pub(super) fn resource_json(&self) -> &str {
        &self.resource
    }

    pub(super) fn parameters_json(&self) -> &str {
        &self.parameters
    }

    pub(super) fn targets(&self) -> &[WorkspaceId] {
        &self.targets
    }

    pub(super) fn hash(&self) -> QuestionHash {
        self.hash
    }
}
