//! The vocabulary of capabilities and the roles made of it.
//!
//! Names are resolved once, at start: a capability becomes a bit, a role a set of bits. After that a decision
//! compares integers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use iam_schema::decisions::{capability, role};

/// The most capabilities in a vocabulary: so many bits has a [`CapabilitySet`].
pub const MAX_CAPABILITIES: usize = 256;
/// The most roles of a policy: far more than anybody can keep apart, and few enough to check each against each.
pub const MAX_ROLES: usize = 512;
/// The longest name of a role or capability, in bytes.
const MAX_NAME: usize = 128;

/// The name of a role. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoleName(Arc<str>);

impl RoleName {
    /// The name as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RoleName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        if is_name(text) { Ok(Self(text.into())) } else { Err("must be 1 to 128 printable ASCII characters") }
    }
}

impl fmt::Display for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_name(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

/// A capability of the vocabulary in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Capability(u8);

/// A set of capabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CapabilitySet([u64; MAX_CAPABILITIES / 64]);

impl CapabilitySet {
    fn place(capability: Capability) -> (usize, u64) {
        (usize::from(capability.0 / 64), 1 << (capability.0 % 64))
    }

    /// Adds a capability.
    pub fn insert(&mut self, capability: Capability) {
        let (word, bit) = Self::place(capability);
        if let Some(word) = self.0.get_mut(word) {
            *word |= bit;
        }
    }

    /// Whether a capability is in the set.
    pub fn contains(&self, capability: Capability) -> bool {
        let (word, bit) = Self::place(capability);
        self.0.get(word).is_some_and(|word| word & bit != 0)
    }

    /// All that is in either.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        let mut both = self;
        for (word, more) in both.0.iter_mut().zip(other.0) {
            *word |= more;
        }
        both
    }

    /// Whether all of this is in `other`.
    pub fn is_subset(&self, other: &Self) -> bool {
        self.0.iter().zip(other.0).all(|(mine, theirs)| mine & !theirs == 0)
    }
}

/// Where the capabilities of a role hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// In the home workspace.
    Assigned,
    /// In every workspace, and for the deployment as a whole: `*`.
    Everywhere,
}

/// What a user may do, folded from the roles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Grants {
    /// From roles of scope `*`.
    pub everywhere: CapabilitySet,
    /// From roles of scope `assigned`.
    pub assigned: CapabilitySet,
}

/// A role as it is written in a policy file.
#[derive(Debug, Clone)]
pub struct RoleSource {
    pub name: String,
    pub scope: String,
    pub includes: Vec<String>,
    pub capabilities: Vec<String>,
}

/// A policy as it is written: additions to the vocabulary, and all roles.
#[derive(Debug, Clone)]
pub struct PolicySource {
    pub capabilities: Vec<String>,
    pub roles: Vec<RoleSource>,
}

impl Default for PolicySource {
    /// The compiled-in policy. Source: protocol section 6.
    fn default() -> Self {
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let role = |name: &str, scope: &str, includes: &[&str], capabilities: &[&str]| RoleSource {
            name: name.to_owned(),
            scope: scope.to_owned(),
            includes: owned(includes),
            capabilities: owned(capabilities),
        };
        Self {
            capabilities: Vec::new(),
            roles: vec![
                role(role::READER, "assigned", &[], capability::READER),
                role(role::WRITER, "assigned", &[role::READER], capability::WRITER),
                role(role::ADMIN, "*", &[role::WRITER], capability::ADMIN),
            ],
        }
    }
}

/// The policy in force.
#[derive(Debug)]
pub struct Policy {
    vocabulary: HashMap<String, Capability>,
    names: Vec<String>,
    roles: BTreeMap<RoleName, Role>,
    users_admin: Capability,
}

#[derive(Debug, Clone, Copy)]
struct Role {
    scope: Scope,
    capabilities: CapabilitySet,
}

impl Policy {
    /// Checks a policy and resolves its names.
    ///
    /// # Errors
    /// All faults at once: a bad or unknown name, a cycle, a role twice, too large a vocabulary, or no role
    /// that can make a root admin.
    pub fn build(source: &PolicySource) -> Result<Self, Vec<String>> {
        let mut faults = Vec::new();
        let mut vocabulary = HashMap::new();
        let mut names = Vec::new();
        let added = source.capabilities.iter().map(String::as_str);
        for name in capability::VOCABULARY.iter().copied().chain(added) {
            if !is_name(name) {
                faults.push(format!("capability `{name}`: must be 1 to 128 printable ASCII characters"));
            } else if !vocabulary.contains_key(name) {
                match u8::try_from(names.len()) {
                    Ok(n) => {
                        vocabulary.insert(name.to_owned(), Capability(n));
                        names.push(name.to_owned());
                    }
                    Err(_) => {
                        faults.push(format!("capability `{name}`: more than {MAX_CAPABILITIES} capabilities"))
                    }
                }
            }
        }

        if source.roles.len() > MAX_ROLES {
            return Err(vec![format!("more than {MAX_ROLES} roles")]);
        }
        let mut sources: BTreeMap<&str, &RoleSource> = BTreeMap::new();
        for role in &source.roles {
            if !is_name(&role.name) {
                faults.push(format!("role `{}`: must be 1 to 128 printable ASCII characters", role.name));
            }
            if sources.insert(&role.name, role).is_some() {
                faults.push(format!("role `{}`: defined twice", role.name));
            }
        }
        let mut roles = BTreeMap::new();
        for (name, role) in &sources {
            let scope = match role.scope.as_str() {
                "*" => Scope::Everywhere,
                "assigned" => Scope::Assigned,
                other => {
                    faults.push(format!("role `{name}`: scope `{other}` is neither `assigned` nor `*`"));
                    Scope::Assigned
                }
            };
            let mut capabilities = CapabilitySet::default();
            for (name, included) in with_included(role, &sources, &mut faults) {
                for capability in &included.capabilities {
                    match vocabulary.get(capability) {
                        Some(capability) => capabilities.insert(*capability),
                        None => faults.push(format!("role `{name}`: unknown capability `{capability}`")),
                    }
                }
            }
            if let Ok(name) = name.parse::<RoleName>() {
                roles.insert(name, Role { scope, capabilities });
            }
        }
        // A fault in an included role is found once for each role that includes it.
        faults.sort();
        faults.dedup();

        // It is in the compiled-in vocabulary, which a file can only add to.
        let users_admin = vocabulary.get(capability::USERS_ADMIN).copied().unwrap_or(Capability(0));
        let policy = Self { vocabulary, names, roles, users_admin };
        if faults.is_empty() && policy.root_roles().is_empty() {
            faults.push("no role of scope `*` holds `users:admin`: nobody could be a root admin".to_owned());
        }
        if faults.is_empty() { Ok(policy) } else { Err(faults) }
    }

    /// The capability of a name, if the vocabulary has it.
    pub fn capability(&self, name: &str) -> Option<Capability> {
        self.vocabulary.get(name).copied()
    }

    /// Whether there is such a role.
    pub fn knows_role(&self, role: &RoleName) -> bool {
        self.roles.contains_key(role)
    }

    /// Whether a role has a capability, and where; `None` if it lacks it or does not exist.
    pub fn role_grants(&self, role: &RoleName, capability: Capability) -> Option<Scope> {
        self.roles.get(role).filter(|role| role.capabilities.contains(capability)).map(|role| role.scope)
    }

    /// All that some roles grant. Unknown roles grant nothing.
    pub fn grants<'r>(&self, roles: impl IntoIterator<Item = &'r RoleName>) -> Grants {
        let mut grants = Grants::default();
        for role in roles.into_iter().filter_map(|name| self.roles.get(name)) {
            let place = match role.scope {
                Scope::Everywhere => &mut grants.everywhere,
                Scope::Assigned => &mut grants.assigned,
            };
            *place = place.union(role.capabilities);
        }
        grants
    }

    /// The roles of which any one makes its holder a root admin: scope `*`, with users:admin.
    pub fn root_roles(&self) -> BTreeSet<RoleName> {
        let root =
            |role: &Role| role.scope == Scope::Everywhere && role.capabilities.contains(self.users_admin);
        self.roles.iter().filter(|(_, role)| root(role)).map(|(name, _)| name.clone()).collect()
    }

    /// Whether any of these roles has scope `*`, and so is at home in every workspace.
    pub fn any_everywhere<'r>(&self, roles: impl IntoIterator<Item = &'r RoleName>) -> bool {
        roles.into_iter().any(|name| self.roles.get(name).is_some_and(|role| role.scope == Scope::Everywhere))
    }

    /// All roles with their scope and the names of their capabilities, for the role matrix.
    pub fn roles(&self) -> impl Iterator<Item = (&RoleName, Scope, Vec<&str>)> {
        self.roles.iter().map(|(name, role)| {
            let held = self.names.iter().map(String::as_str);
            let held = held.filter(|n| self.capability(n).is_some_and(|c| role.capabilities.contains(c)));
            (name, role.scope, held.collect())
        })
    }
}

/// A role and all that it includes, by whatever way. Each is visited once, however many ways lead to it: the files of
/// people who include everything in everything must not take for ever.
fn with_included<'s>(
    role: &'s RoleSource,
    sources: &BTreeMap<&'s str, &'s RoleSource>,
    faults: &mut Vec<String>,
) -> BTreeMap<&'s str, &'s RoleSource> {
    let mut found = BTreeMap::from([(role.name.as_str(), role)]);
    let mut next = vec![role];
    while let Some(by) = next.pop() {
        for included in &by.includes {
            match sources.get(included.as_str()) {
                Some(_) if *included == role.name => {
                    faults.push(format!("role `{}`: includes itself", role.name));
                }
                Some(source) => {
                    if found.insert(included, source).is_none() {
                        next.push(source);
                    }
                }
                None => faults.push(format!("role `{}`: includes unknown role `{included}`", by.name)),
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(name: &str, scope: &str, includes: &[&str], capabilities: &[&str]) -> RoleSource {
        let owned = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect();
        RoleSource {
            name: name.into(),
            scope: scope.into(),
            includes: owned(includes),
            capabilities: owned(capabilities),
        }
    }

    #[test]
    fn default_policy_stands() {
        let policy = Policy::build(&PolicySource::default()).unwrap();
        let counts: Vec<_> = policy.roles().map(|(n, s, c)| (n.to_string(), s, c.len())).collect();
        let rows = [
            ("admin", Scope::Everywhere, 42),
            ("reader", Scope::Assigned, 24),
            ("writer", Scope::Assigned, 33),
        ];
        assert_eq!(counts, rows.map(|(n, s, c)| (n.to_owned(), s, c)));
        assert_eq!(policy.root_roles().len(), 1);
    }

    #[test]
    fn faults_are_all_reported() {
        let source = PolicySource {
            capabilities: vec!["extra:read".into(), "has space".into()],
            roles: vec![
                role("a", "assigned", &["b"], &["extra:read"]),
                role("b", "assigned", &["a"], &["no:such"]),
                role("c", "galaxy", &["nobody"], &[]),
                role("c", "assigned", &[], &[]),
            ],
        };
        let faults = Policy::build(&source).unwrap_err().join("\n");
        for part in ["has space", "includes itself", "no:such", "defined twice"] {
            assert!(faults.contains(part), "{part} in {faults}");
        }
        let without_root =
            PolicySource { capabilities: vec![], roles: vec![role("a", "assigned", &[], &["users:admin"])] };
        assert!(Policy::build(&without_root).unwrap_err().join("").contains("root admin"));
    }

    #[test]
    fn roles_that_include_each_other_in_every_way_are_resolved_at_once() {
        // 2^200 ways lead from the first to the last, and a chain of hundreds is no deeper than a stack.
        let doubled =
            |i: usize| role(&format!("r{i}"), "assigned", &[format!("r{}", i + 1).as_str(); 2], &[]);
        let roles = (0..MAX_ROLES - 2).map(doubled);
        let last = role(&format!("r{}", MAX_ROLES - 2), "assigned", &[], &["graph:read"]);
        let root = role("root", "*", &["r0"], &["users:admin"]);
        let roles: Vec<RoleSource> = roles.chain([last, root]).collect();
        let policy = Policy::build(&PolicySource { capabilities: vec![], roles: roles.clone() }).unwrap();
        let read = policy.capability("graph:read").unwrap();
        for (name, scope) in [("root", Scope::Everywhere), ("r0", Scope::Assigned)] {
            assert_eq!(policy.role_grants(&name.parse().unwrap(), read), Some(scope));
        }
        let more = roles.into_iter().chain([role("more", "assigned", &[], &[])]).collect();
        let faults = Policy::build(&PolicySource { capabilities: vec![], roles: more }).unwrap_err();
        assert_eq!(faults, ["more than 512 roles"]);
    }

    #[test]
    fn vocabulary_is_bounded() {
        let source = PolicySource {
            capabilities: (0..300).map(|i| format!("x:{i}")).collect(),
            roles: PolicySource::default().roles,
        };
        assert!(Policy::build(&source).unwrap_err().join("").contains("more than 256"));
    }
}
