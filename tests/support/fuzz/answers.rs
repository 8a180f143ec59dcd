//! What may be answered to somebody who has no credential and knows no id, whatever they send.

use iam_schema::codec::{Payload, decode};
use iam_schema::subject::{MAX_PAYLOAD, Plane};
use iam_schema::{ErrorKind, IamRequest, IamResponse, Needs, OperationName};
use serde_json::Value;

use super::CANARY;

/// The longest message of an error, in bytes.
const LONGEST_MESSAGE: usize = 512;

/// A hostile request: of somebody without a good credential, to a deployment that is seeded.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    pub plane: Plane,
    pub operation: &'a str,
    pub payload: &'a [u8],
}

/// What is wrong with an answer, if anything: `header` is the kind in its headers.
pub fn wrong_answer(asked: &Asked<'_>, reply: &[u8], header: Option<&str>) -> Option<String> {
    check(asked, reply, header).err()
}

fn check(asked: &Asked<'_>, reply: &[u8], header: Option<&str>) -> Result<(), String> {
    let holds = |what: &str, holds: bool| if holds { Ok(()) } else { Err(what.to_owned()) };
    holds("an answer that is too large", reply.len() <= MAX_PAYLOAD)?;
    holds("another form than asked in", Payload::format_of(reply) == Payload::format_of(asked.payload))?;
    let response: IamResponse = decode(reply).map_err(|e| format!("an answer that cannot be read: {e}"))?;
    let shown = serde_json::to_value(&response).map_err(|e| e.to_string())?;
    let Some(error) = &response.error else {
        holds("headers of an error", header.is_none())?;
        return succeeded(asked, &response, &shown);
    };
    let kind = error.known_kind().ok_or_else(|| format!("unknown kind `{}`", error.kind))?;
    holds("headers that say something else", header == Some(kind.as_str()))?;
    holds("more than an error", shown.as_object().is_some_and(|fields| fields.len() == 1))?;
    holds("a message that goes on", error.message.len() <= LONGEST_MESSAGE && !error.message.is_empty())?;
    holds("a message that repeats a secret", !error.message.contains(CANARY))?;
    holds(&format!("a bug: {}", error.message), kind != ErrorKind::InternalError)?;
    if kind == ErrorKind::Unavailable {
        return Ok(());
    }
    if !sound(asked) {
        holds(&format!("{kind} for a request that cannot be read"), kind == ErrorKind::InvalidArgument)?;
    } else if asked.plane == Plane::Api {
        let refusals = [ErrorKind::InvalidArgument, ErrorKind::AuthFailed, ErrorKind::Throttled];
        holds(&format!("{kind} for a stranger"), refusals.contains(&kind))?;
    }
    Ok(())
}

/// Whether a request can be read at all: before that nothing else counts.
fn sound(asked: &Asked<'_>) -> bool {
    let Ok(operation) = asked.operation.parse::<OperationName>() else { return false };
    let Ok(payload) = Payload::read(asked.payload) else { return false };
    let Ok(request) = payload.decode::<IamRequest<'_>>() else { return false };
    request.operation.is_empty() || request.operation == operation.as_str()
}

fn succeeded(asked: &Asked<'_>, response: &IamResponse, shown: &Value) -> Result<(), String> {
    let operation = asked.operation;
    let holds = |what: &str, holds: bool| {
        if holds { Ok(()) } else { Err(format!("{operation}: {what}")) }
    };
    holds("success of what cannot be read", sound(asked))?;
    if asked.plane == Plane::Api {
        let public = operation.parse::<OperationName>().is_ok_and(|name| name.needs() == Needs::Public);
        holds("success for a stranger", public)?;
    }
    // Nobody here has a credential, a password or somebody's id.
    holds("an allow", response.decision_allow != Some(true) && !response.decisions_json.contains("true"))?;
    for field in [
        "jwt",
        "api_key_plaintext",
        "temporary_password",
        "bootstrap_admin_api_key",
        "resolved_user_id",
        "resolved_roles",
        "api_keys",
    ] {
        holds(field, shown.get(field).is_none())?;
    }
    holds("bootstrap is over", response.bootstrap_available != Some(true))
}
