//! Roles and capabilities, as section 6 of the protocol lists them, and a policy file's worth of roles between.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use iam_svc::domain::policy::{PolicySource, RoleSource};

/// What a role grants.
#[derive(Debug)]
pub struct Role {
    /// Scope `*`, else `assigned`.
    pub everywhere: bool,
    pub capabilities: BTreeSet<&'static str>,
}

const READER: &str = "agent graph:read triples:read sparql:read graph-rag:read graph-embeddings:read documents:read \
     document-rag:read document-embeddings:read entity-contexts:read rows:read nlp-query:read \
     structured-query:read row-embeddings:read llm embeddings reranker image-to-text mcp config:read flows:read \
     collections:read knowledge:read keys:self";
const WRITER: &str = "graph:write triples:write graph-embeddings:write document-embeddings:write \
     entity-contexts:write documents:write rows:write collections:write knowledge:write";
const ADMIN: &str = "config:write flows:write users:read users:write users:admin keys:admin workspaces:admin \
     iam:admin metrics:read";

/// Roles of a policy file, so that there is somebody between a writer and an admin: name, scope, what is included,
/// what is added.
const ADDED: &[(&str, &str, &[&str], &str)] = &[
    ("steward", "assigned", &["reader"], "users:read users:write users:admin keys:admin"),
    ("clerk", "*", &[], "users:read users:write keys:self"),
    ("warden", "*", &["reader"], "users:read users:write users:admin keys:admin"),
    ("auditor", "*", &[], "iam:admin users:read workspaces:admin"),
    ("tally", "assigned", &[], "users:read metrics:read iam:admin"),
];

/// The roles that users are given; the last is in no policy.
pub const NAMES: &[&str] =
    &["admin", "reader", "steward", "writer", "clerk", "warden", "auditor", "tally", "ghost"];

static ROLES: LazyLock<BTreeMap<&'static str, Role>> = LazyLock::new(|| {
    let set = |texts: &[&'static str]| texts.iter().flat_map(|text| text.split_whitespace()).collect();
    let mut roles = BTreeMap::from([
        ("reader", Role { everywhere: false, capabilities: set(&[READER]) }),
        ("writer", Role { everywhere: false, capabilities: set(&[READER, WRITER]) }),
        ("admin", Role { everywhere: true, capabilities: set(&[READER, WRITER, ADMIN]) }),
    ]);
    for (name, scope, includes, added) in ADDED {
        let mut capabilities: BTreeSet<&'static str> = set(&[added]);
        for included in *includes {
            capabilities.extend(roles.get(included).into_iter().flat_map(|role| &role.capabilities));
        }
        roles.insert(name, Role { everywhere: *scope == "*", capabilities });
    }
    roles
});

/// A role of the policy.
pub fn role(name: &str) -> Option<&'static Role> {
    ROLES.get(name)
}

/// Whether a capability is in the vocabulary: that of the admin, who has all.
pub fn known(capability: &str) -> bool {
    ROLES["admin"].capabilities.contains(capability)
}

/// The same policy, for the service.
pub fn source() -> PolicySource {
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
    let mut source = PolicySource::default();
    source.roles.extend(ADDED.iter().map(|(name, scope, includes, added)| RoleSource {
        name: (*name).to_owned(),
        scope: (*scope).to_owned(),
        includes: includes.iter().map(|&included| included.to_owned()).collect(),
        capabilities: words(added),
    }));
    source
}
