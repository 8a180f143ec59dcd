//! Every statement, prepared once.

use scylla::client::session::Session;
use scylla::statement::prepared::PreparedStatement;

use super::session::{Kind, Profiles};
use crate::store::StoreError;

macro_rules! statements {
    ($($name:ident: $kind:ident $cql:literal;)*) => {
        /// The statements, each with the consistency and the retry policy of its kind.
        #[derive(Debug)]
        pub(super) struct Statements {
            $(pub $name: PreparedStatement,)*
        }

        impl Statements {
            pub(super) async fn prepare(session: &Session, profiles: &Profiles) -> Result<Self, StoreError> {
                Ok(Self { $($name: profiles.prepare(session, Kind::$kind, $cql).await?,)* })
            }
        }
    };
}

statements! {
    user: Read "SELECT user_id, version, workspace, workspace_epoch, username, name, email, roles, enabled,
        must_change_password, password_hash, temporary_until_ms, key_epoch, token_epoch, created_ms, dead
        FROM users WHERE user_id = ?";
    user_serial: Serial "SELECT user_id, version, workspace, workspace_epoch, username, name, email, roles, enabled,
        must_change_password, password_hash, temporary_until_ms, key_epoch, token_epoch, created_ms, dead
        FROM users WHERE user_id = ?";
    users_after: Read "SELECT user_id, version, workspace, workspace_epoch, username, name, email, roles, enabled,
        must_change_password, password_hash, temporary_until_ms, key_epoch, token_epoch, created_ms, dead
        FROM users WHERE token(user_id) > token(?) LIMIT ?";
    users_first: Read "SELECT user_id, version, workspace, workspace_epoch, username, name, email, roles, enabled,
        must_change_password, password_hash, temporary_until_ms, key_epoch, token_epoch, created_ms, dead
        FROM users LIMIT ?";
    user_trace: Serial "SELECT op, version FROM users WHERE user_id = ?";
    insert_user: Conditional "INSERT INTO users (user_id, version, op, workspace, workspace_epoch, username, name,
        email, roles, enabled, must_change_password, password_hash, temporary_until_ms, key_epoch, token_epoch,
        created_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) IF NOT EXISTS";
    update_user: Conditional "UPDATE users SET version = ?, op = ?, workspace_epoch = ?, name = ?, email = ?,
        roles = ?, enabled = ?, must_change_password = ?, password_hash = ?, temporary_until_ms = ?, key_epoch = ?,
        token_epoch = ? WHERE user_id = ? IF version = ?";
    delete_user: Conditional "DELETE FROM users WHERE user_id = ? IF version = ?";
    fence_user: Conditional "INSERT INTO users (user_id, op, dead) VALUES (?, ?, true) IF NOT EXISTS
        USING TTL 864000";

    username: Read "SELECT user_id, op, claimed_ms FROM usernames WHERE name_key = ?";
    username_serial: Serial "SELECT user_id, op, claimed_ms FROM usernames WHERE name_key = ?";
    username_trace: Serial "SELECT op FROM usernames WHERE name_key = ?";
    claim_username: Conditional "INSERT INTO usernames (name_key, user_id, op, claimed_ms) VALUES (?, ?, ?, ?)
        IF NOT EXISTS";
    take_username: Conditional "UPDATE usernames SET user_id = ?, op = ?, claimed_ms = ? WHERE name_key = ?
        IF op = ?";
    free_username: Conditional "DELETE FROM usernames WHERE name_key = ? IF op = ?";

    users_of_workspace: Read "SELECT user_id FROM users_by_workspace WHERE workspace = ? AND bucket = ? LIMIT ?";
    users_of_workspace_after: Read "SELECT user_id FROM users_by_workspace
        WHERE workspace = ? AND bucket = ? AND user_id > ? LIMIT ?";
    index_user: Plain "INSERT INTO users_by_workspace (workspace, bucket, user_id, created_ms) VALUES (?, ?, ?, ?)
        USING TIMESTAMP ?";
    unindex_user: Plain "DELETE FROM users_by_workspace USING TIMESTAMP ?
        WHERE workspace = ? AND bucket = ? AND user_id = ?";

    holders: Read "SELECT user_id FROM users_by_root_role WHERE role = ?";
    index_holder: Plain "INSERT INTO users_by_root_role (role, user_id) VALUES (?, ?)";

    workspace: Read "SELECT id, version, name, enabled, epoch, created_ms FROM workspaces WHERE id = ?";
    workspace_serial: Serial "SELECT id, version, name, enabled, epoch, created_ms FROM workspaces WHERE id = ?";
    workspaces_after: Read "SELECT id, version, name, enabled, epoch, created_ms FROM workspaces
        WHERE token(id) > token(?) LIMIT ?";
    workspaces_first: Read "SELECT id, version, name, enabled, epoch, created_ms FROM workspaces LIMIT ?";
    workspace_trace: Serial "SELECT op, version FROM workspaces WHERE id = ?";
    insert_workspace: Conditional "INSERT INTO workspaces (id, version, op, name, enabled, epoch, created_ms)
        VALUES (?, ?, ?, ?, ?, ?, ?) IF NOT EXISTS";
    update_workspace: Conditional "UPDATE workspaces SET version = ?, op = ?, name = ?, enabled = ?, epoch = ?
        WHERE id = ? IF version = ?";

    key: Read "SELECT hash, key_id, user_id, workspace, key_epoch, name, prefix, expires_ms, created_ms
        FROM api_keys WHERE hash = ?";
    insert_key: Plain "INSERT INTO api_keys (hash, key_id, user_id, workspace, key_epoch, name, prefix, expires_ms,
        created_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?";
    delete_key: Plain "DELETE FROM api_keys USING TIMESTAMP ? WHERE hash = ?";
    key_by_id: Read "SELECT hash, created_ms FROM api_keys_by_id WHERE key_id = ?";
    insert_key_by_id: Plain "INSERT INTO api_keys_by_id (key_id, hash, created_ms) VALUES (?, ?, ?)
        USING TIMESTAMP ?";
    delete_key_by_id: Plain "DELETE FROM api_keys_by_id USING TIMESTAMP ? WHERE key_id = ?";
    key_names: Read "SELECT name, key_id, hash, op, live, created_ms FROM api_key_names WHERE user_id = ?";
    key_name_trace: Serial "SELECT op FROM api_key_names WHERE user_id = ? AND name = ?";
    key_name_serial: Serial "SELECT name, key_id, hash, op, live, created_ms FROM api_key_names
        WHERE user_id = ? AND name = ?";
    claim_key_name: Conditional "INSERT INTO api_key_names (user_id, name, key_id, hash, op, live, created_ms)
        VALUES (?, ?, ?, ?, ?, false, ?) IF NOT EXISTS";
    take_key_name: Conditional "UPDATE api_key_names SET key_id = ?, hash = ?, op = ?, live = false, created_ms = ?
        WHERE user_id = ? AND name = ? IF op = ?";
    name_key: Conditional "INSERT INTO api_key_names (user_id, name, key_id, hash, op, live, created_ms)
        VALUES (?, ?, ?, ?, ?, true, ?) IF NOT EXISTS";
    confirm_key_name: Conditional "UPDATE api_key_names SET op = ?, live = true WHERE user_id = ? AND name = ?
        IF op = ?";
    free_key_name: Conditional "DELETE FROM api_key_names WHERE user_id = ? AND name = ? IF op = ?";
    key_uses: Read "SELECT key_id, last_used_ms FROM api_key_use WHERE user_id = ?";
    note_key_use: Note "INSERT INTO api_key_use (user_id, key_id, last_used_ms) VALUES (?, ?, ?)
        USING TIMESTAMP ?";

    keep_key_use: Plain "INSERT INTO api_key_use (user_id, key_id, last_used_ms) VALUES (?, ?, ?)
        USING TIMESTAMP ?";

    singleton: Read "SELECT version, body FROM singletons WHERE id = ?";
    singleton_serial: Serial "SELECT version, body FROM singletons WHERE id = ?";
    singleton_trace: Serial "SELECT op, version FROM singletons WHERE id = ?";
    insert_singleton: Conditional "INSERT INTO singletons (id, version, op, body) VALUES (?, ?, ?, ?) IF NOT EXISTS";
    replace_singleton: Conditional "UPDATE singletons SET version = ?, op = ?, body = ? WHERE id = ?
        IF version = ?";

    all_usernames: Scan "SELECT name_key, user_id, op, claimed_ms FROM usernames";
    all_index_rows: Scan "SELECT workspace, bucket, user_id, created_ms FROM users_by_workspace";
    all_keys: Scan "SELECT hash, key_id, user_id, workspace, key_epoch, name, prefix, expires_ms, created_ms
        FROM api_keys";
    all_keys_by_id: Scan "SELECT key_id, hash, created_ms FROM api_keys_by_id";
    all_key_names: Scan "SELECT user_id, name, key_id, hash, op, live, created_ms FROM api_key_names";

    ping: Read "SELECT version FROM singletons WHERE id = 'ping'";
}
