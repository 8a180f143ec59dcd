//! Which operation of a service needs what, as data: so that a service on the bus or behind HTTP has its own.

use std::collections::BTreeMap;

use iam_schema::decisions::Check;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::question::Question;
use crate::error::ClientError;
use crate::sessions::Identity;

/// Operations by name, each with its rule. One that has none is unknown, and nobody may do it.
///
/// As data, for instance in TOML:
///
/// ```toml
/// [restart-engine]
/// capability = "engine:write"
/// [restart-engine.resource]
/// workspace = ["engine.workspace", "workspace", "@workspace"]
///
/// [list-my-engines]
/// authenticated = true
/// ```
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(transparent)]
pub struct Registry(BTreeMap<String, Rule>);

/// What an operation needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Needs {
    Nothing,
    /// Any credential that is good.
    Authenticated,
    Capability(String),
}

/// What an operation needs, and where its resource and parameters are in a request.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "Written")]
pub struct Rule {
    pub needs: Needs,
    pub resource: BTreeMap<String, Sources>,
    pub parameters: BTreeMap<String, Sources>,
}

/// Where a component comes from: the first of these that is a text and not empty. A dotted path into the request, or
/// `@workspace` for the caller's own.
pub type Sources = Vec<String>;

/// The caller's own workspace.
const OWN_WORKSPACE: &str = "@workspace";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    public: bool,
    #[serde(default)]
    authenticated: bool,
    #[serde(default)]
    capability: Option<String>,
    #[serde(default)]
    resource: BTreeMap<String, Sources>,
    #[serde(default)]
    parameters: BTreeMap<String, Sources>,
}

impl TryFrom<Written> for Rule {
    type Error = &'static str;

    fn try_from(written: Written) -> Result<Self, &'static str> {
        let needs = match (written.public, written.authenticated, written.capability) {
            (true, false, None) => Needs::Nothing,
            (false, true, None) => Needs::Authenticated,
            (false, false, Some(capability)) if !capability.is_empty() => Needs::Capability(capability),
            _ => return Err("must have one of `public = true`, `authenticated = true` and `capability`"),
        };
        let sources = written.resource.values().chain(written.parameters.values());
        if sources.flatten().any(|source| source.starts_with('@') && source != OWN_WORKSPACE) {
            return Err("a source with @ can be `@workspace` alone");
        }
        Ok(Self { needs, resource: written.resource, parameters: written.parameters })
    }
}

impl Registry {
    /// Adds an operation, or replaces its rule.
    #[must_use]
    pub fn with(mut self, operation: &str, rule: Rule) -> Self {
        self.0.insert(operation.to_owned(), rule);
        self
    }

    /// The rule of an operation.
    pub fn rule(&self, operation: &str) -> Option<&Rule> {
        self.0.get(operation)
    }

    /// Every operation with its rule.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Rule)> {
        self.0.iter().map(|(operation, rule)| (operation.as_str(), rule))
    }
}

impl FromIterator<(String, Rule)> for Registry {
    fn from_iter<I: IntoIterator<Item = (String, Rule)>>(rules: I) -> Self {
        Self(rules.into_iter().collect())
    }
}

impl Rule {
    /// An operation that needs this, and whose decision depends on nothing of the request.
    pub fn new(needs: Needs) -> Self {
        Self { needs, resource: BTreeMap::new(), parameters: BTreeMap::new() }
    }

    /// Adds a parameter.
    #[must_use]
    pub fn parameter(mut self, name: &str, sources: &[&str]) -> Self {
        self.parameters.insert(name.to_owned(), sources.iter().map(|source| (*source).to_owned()).collect());
        self
    }

    /// What is to be asked about a caller; `None` where no capability is needed.
    ///
    /// # Errors
    /// As [`Question::of`].
    pub fn question(&self, request: &Value, caller: &Identity) -> Result<Option<Question>, ClientError> {
        let Needs::Capability(capability) = &self.needs else { return Ok(None) };
        let filled = |components: &BTreeMap<String, Sources>| -> Map<String, Value> {
            let component = |(name, sources): (&String, &Sources)| {
                let found = sources.iter().find_map(|source| found(source, request, caller))?;
                Some((name.clone(), Value::from(found)))
            };
            components.iter().filter_map(component).collect()
        };
        let check = Check {
            capability: capability.clone(),
            resource: filled(&self.resource),
            parameters: filled(&self.parameters),
        };
        Question::of(&check).map(Some)
    }
}

fn found<'r>(source: &str, request: &'r Value, caller: &'r Identity) -> Option<&'r str> {
    let text = match source {
        OWN_WORKSPACE => caller.workspace.as_str(),
        path => path.split('.').try_fold(request, |value, name| value.get(name))?.as_str()?,
    };
    Some(text).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::sessions::IdentitySource;

    fn caller() -> Identity {
        Identity {
            user_id: "01a0ce87-ea1a-7bb6-ae10-295948688e1d".parse().unwrap(),
            workspace: "home".parse().unwrap(),
            roles: Vec::new(),
            source: IdentitySource::ApiKey,
            key_id: None,
            expires: None,
        }
    }

    #[test]
    fn first_source_that_is_not_empty_fills_a_component() {
        let sources = ["user.workspace", "workspace", "@workspace"];
        let rule = Rule::new(Needs::Capability("users:admin".to_owned())).parameter("workspace", &sources);
        for (request, workspace) in [
            (json!({ "user": { "workspace": "a" }, "workspace": "b" }), "a"),
            (json!({ "user": { "workspace": "" }, "workspace": "b" }), "b"),
            (json!({ "user": "a", "workspace": 7 }), "home"),
            (json!({}), "home"),
            (json!([]), "home"),
        ] {
            let question = rule.question(&request, &caller()).unwrap().unwrap();
            let workspace = workspace.parse().unwrap();
            assert_eq!(question.parameters_json(), format!(r#"{{"workspace":"{workspace}"}}"#), "{request}");
            assert_eq!(question.targets(), [workspace]);
        }
    }

    #[test]
    fn rules_are_data_and_say_one_thing() {
        let read = |text: &str| serde_json::from_str::<Registry>(text);
        let registry =
            read(r#"{"a":{"capability":"x:y","resource":{"workspace":["w"]}},"b":{"public":true}}"#);
        let registry = registry.unwrap();
        assert_eq!(registry.rule("a").unwrap().needs, Needs::Capability("x:y".to_owned()));
        assert_eq!(registry.rule("b").unwrap().needs, Needs::Nothing);
        assert!(registry.rule("c").is_none());
        for bad in [
            r#"{"a":{}}"#,
            r#"{"a":{"public":true,"capability":"x"}}"#,
            r#"{"a":{"capability":""}}"#,
            r#"{"a":{"capability":"x","resource":{"workspace":["@home"]}}}"#,
            r#"{"a":{"public":true,"extra":1}}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
