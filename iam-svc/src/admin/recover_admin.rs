//! `iam-svc recover-admin`: a way back into a deployment that lost its admin.
//!
//! It works on the store itself, so a service on the embedded store must be stopped first.

use std::io::Write;

use iam_client::Connection;
use iam_schema::audit::{AuditEvent, AuditOutcome, AuditPayload, AuditType, SCHEMA_VERSION};
use iam_schema::changes::{Change, ChangeEvent};
use iam_schema::codec::{Format, encode};
use iam_schema::subject::{Plane, Subjects};
use tokio::time::Instant;

use crate::bus;
use crate::config::{Config, IfMissing};
use crate::ctx::Ctx;
use crate::domain::caller::Caller;
use crate::domain::users::Username;
use crate::error::OpError;
use crate::exit::{Cause, Exit};
use crate::open::open;
use crate::ops::{Call, recovery};
use crate::{START, Serving};

/// Makes or enables that admin, prints the temporary password alone on stdout, and tells whoever listens.
///
/// # Errors
/// As [`open`]; `Configuration` before the deployment was seeded; `Internal`.
pub async fn run(config: Config, username: Username) -> Result<(), Exit> {
    let opened = open(config, IfMissing::DoWithout, Instant::now() + START).await?;
    let (ctx, serving) = (opened.ctx, opened.serving);
    let mut call = Call::new(Plane::Service, Caller::Service, ctx.now(), ctx.clock.monotonic_ms());
    let password = match recovery::recover_admin(&ctx, &mut call, &username).await {
        Ok(password) => password,
        Err(error) => {
            // Something may have been changed before it failed, or the store did not say.
            if !call.changes.is_empty() {
                tell(&ctx, &serving, &call, &username, AuditOutcome::Failure).await;
            }
            return Err(match error {
                OpError::Invalid { field, rule } => {
                    Exit::new(Cause::Configuration, format!("{field} {rule}"))
                }
                OpError::Unavailable(cause) => Exit::new(Cause::Unreachable, cause.into_owned()),
                other => Exit::new(Cause::Internal, format!("{other:?}")),
            });
        }
    };
    // A closed stdout must not end this before the events are out.
    let printed = writeln!(std::io::stdout(), "{}", password.expose());
    tell(&ctx, &serving, &call, &username, AuditOutcome::Success).await;
    printed.map_err(|error| Exit::new(Cause::Internal, format!("the password was not printed: {error}")))
}

/// Publishes what was done, or says on stderr that nobody heard of it.
async fn tell(ctx: &Ctx, serving: &Serving, call: &Call, username: &Username, outcome: AuditOutcome) {
    if let Err(reason) = publish(ctx, &serving.nats, &serving.subjects, call, username, outcome).await {
        eprintln!("iam-svc: no audit event and no change event was published: {reason}");
        eprintln!("iam-svc: whoever cached the admin's former state may go on with it for a minute");
    }
}

async fn publish(
    ctx: &Ctx,
    nats: &Connection,
    subjects: &Subjects,
    call: &Call,
    username: &Username,
    outcome: AuditOutcome,
) -> Result<(), String> {
    let event = AuditEvent {
        schema_version: SCHEMA_VERSION,
        event_id: ctx.entropy.uuid(call.now).to_string(),
        event_type: AuditType::Management,
        timestamp: call.now,
        producer: "iam-svc recover-admin".to_owned(),
        payload: AuditPayload {
            user_id: call.subject.map(|id| id.to_string()).unwrap_or_default(),
            username: username.to_string(),
            operation: "recover-admin".to_owned(),
            outcome: Some(outcome),
            reason: "run offline, by whoever holds the store and the key-encryption key".to_owned(),
            ..AuditPayload::default()
        },
    };
    let changes: Vec<Change> = call.changes.clone();
    // An instance of its own that says goodbye at once: nobody waits for its heartbeat.
    let changed = ChangeEvent {
        instance: ctx.entropy.uuid(call.now).to_string(),
        started: Some(call.now),
        seq: 1,
        changes,
        recent: Vec::new(),
        bye: true,
    };
    let audit = encode(&event, Format::Json).map_err(|e| e.to_string())?;
    let changed = encode(&changed, Format::MessagePack).map_err(|e| e.to_string())?;
    let messages = [(subjects.changed(), changed), (subjects.audit(AuditType::Management.as_str()), audit)];
    bus::publish_once(nats, messages).await
}
