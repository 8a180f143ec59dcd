//! Capabilities, roles, and the JSON lists of authorise-many.

use serde::{Deserialize, Serialize};

/// The most checks of one authorise-many. Source: protocol section 3.
pub const MAX_CHECKS: usize = 1000;

/// One element of `decisions_json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    pub allow: bool,
    /// Seconds for which the answer may be cached; 0 means not at all.
    pub ttl: u32,
}

/// One element of `authorise_checks`, as a client writes it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Check {
    pub capability: String,
    #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
    pub resource: serde_json::Map<String, serde_json::Value>,
    #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
    pub parameters: serde_json::Map<String, serde_json::Value>,
}

/// The vocabulary of capabilities. A policy file may add to it.
///
/// Source: protocol section 6.
pub mod capability {
    pub const USERS_READ: &str = "users:read";
    pub const USERS_WRITE: &str = "users:write";
    pub const USERS_ADMIN: &str = "users:admin";
    pub const KEYS_SELF: &str = "keys:self";
    pub const KEYS_ADMIN: &str = "keys:admin";
    pub const WORKSPACES_ADMIN: &str = "workspaces:admin";
    pub const IAM_ADMIN: &str = "iam:admin";

    /// What the role `reader` adds.
    pub const READER: &[&str] = &[
        "agent",
        "graph:read",
        "triples:read",
        "sparql:read",
        "graph-rag:read",
        "graph-embeddings:read",
        "documents:read",
        "document-rag:read",
        "document-embeddings:read",
        "entity-contexts:read",
        "rows:read",
        "nlp-query:read",
        "structured-query:read",
        "row-embeddings:read",
        "llm",
        "embeddings",
        "reranker",
        "image-to-text",
        "mcp",
        "config:read",
        "flows:read",
        "collections:read",
        "knowledge:read",
        KEYS_SELF,
    ];

    /// What the role `writer` adds to `reader`.
    pub const WRITER: &[&str] = &[
        "graph:write",
        "triples:write",
        "graph-embeddings:write",
        "document-embeddings:write",
        "entity-contexts:write",
        "documents:write",
        "rows:write",
        "collections:write",
        "knowledge:write",
    ];

    /// What the role `admin` adds to `writer`.
    pub const ADMIN: &[&str] = &[
        "config:write",
        "flows:write",
        USERS_READ,
        USERS_WRITE,
        USERS_ADMIN,
        KEYS_ADMIN,
        WORKSPACES_ADMIN,
        IAM_ADMIN,
        "metrics:read",
    ];

    /// Every capability, whoever has it.
    pub const VOCABULARY: &[&str] = &{
        let mut all = [""; READER.len() + WRITER.len() + ADMIN.len()];
        let groups = [READER, WRITER, ADMIN];
        let (mut group, mut at) = (0, 0);
        #[expect(clippy::indexing_slicing, reason = "evaluated at compile time")]
        while group < groups.len() {
            let mut i = 0;
            while i < groups[group].len() {
                all[at] = groups[group][i];
                at += 1;
                i += 1;
            }
            group += 1;
        }
        all
    };
}

/// The roles that are compiled in.
pub mod role {
    pub const READER: &str = "reader";
    pub const WRITER: &str = "writer";
    pub const ADMIN: &str = "admin";
}
