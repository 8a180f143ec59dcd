//! What is asked about somebody.

use std::hash::{Hash, Hasher};

use iam_schema::WorkspaceId;
use iam_schema::decisions::Check;
use serde_json::{Map, Value};
use smallvec::SmallVec;

use crate::error::ClientError;

/// The longest question whose answer is remembered, in bytes: a workspace id has 63 at most, a capability some 30.
const MAX_REMEMBERED: usize = 512;

/// A capability, and on what: as `authorise` takes them, ready to be asked many times.
#[derive(Debug, Clone, Eq)]
pub struct Question {
    capability: Box<str>,
    resource: Box<str>,
    parameters: Box<str>,
    /// The workspaces that it is about.
    targets: SmallVec<[WorkspaceId; 2]>,
}

impl Question {
    /// Whether somebody has a capability, anywhere.
    pub fn new(capability: &str) -> Self {
        Self {
            capability: capability.into(),
            resource: "".into(),
            parameters: "".into(),
            targets: SmallVec::new(),
        }
    }

    /// Whether somebody has a capability in a workspace, which is the resource.
    pub fn within(capability: &str, workspace: &WorkspaceId) -> Self {
        Self {
            capability: capability.into(),
            resource: format!(r#"{{"workspace":{}}}"#, Value::from(workspace.as_str())).into(),
            parameters: "".into(),
            targets: [workspace.clone()].into_iter().collect(),
        }
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
        let targets = [&check.resource, &check.parameters].into_iter().filter_map(target);
        Ok(Self {
            capability: check.capability.as_str().into(),
            resource: text("resource_json", &check.resource)?.into(),
            parameters: text("parameters_json", &check.parameters)?.into(),
            targets: targets.collect(),
        })
    }

    /// The capability that is asked for.
    pub fn capability(&self) -> &str {
        &self.capability
    }

    /// Whether it is too long to be remembered. What stands in it may come from a caller, and memory is bounded by
    /// the number of answers.
    pub(super) fn is_long(&self) -> bool {
        self.capability.len() + self.resource.len() + self.parameters.len() > MAX_REMEMBERED
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
}

// The targets follow from the rest.
impl PartialEq for Question {
    fn eq(&self, other: &Self) -> bool {
        (&self.capability, &self.resource, &self.parameters)
            == (&other.capability, &other.resource, &other.parameters)
    }
}

impl Hash for Question {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.capability, &self.resource, &self.parameters).hash(state);
    }
}
