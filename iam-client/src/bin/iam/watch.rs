//! `iam watch`: change and audit events as they happen.

use std::time::Duration;

use async_nats::{Message, Subscriber};
use futures_util::stream::{self, BoxStream, StreamExt};
use iam_client::Client;
use iam_client::schema::audit::AuditEvent;
use iam_client::schema::changes::{ChangeEvent, DELETED};
use iam_client::schema::codec;
use serde_json::json;

use crate::app::App;
use crate::failure::{Exit, Failure};
use crate::out::{Reader, harmless};

/// How long the NATS server has to take note of a subscription.
const FLUSH_WINDOW: Duration = Duration::from_secs(5);
/// How long the driver has to hand on what the server complained of.
const COMPLAINT_WINDOW: Duration = Duration::from_millis(100);

pub async fn run(app: &App) -> Result<(), Failure> {
    let client = app.open().await?;
    let subjects = [client.subjects().changed(), client.subjects().audit_all()];
    let [changes, audit] = &subjects;
    let listeners = (listen(&client, changes).await?, listen(&client, audit).await?);
    for (subject, listener) in [(changes, &listeners.0), (audit, &listeners.1)] {
        app.out.note(match listener {
            Some(_) => format!("listening on {subject}"),
            None => format!("NATS does not let this account listen on {subject}"),
        });
    }
    let (mut changes, mut audit) = match listeners {
        (None, None) => {
            return Err(Failure::new(Exit::NoAnswer, "there is nothing that this NATS account may watch"));
        }
        (changes, audit) => (or_silence(changes), or_silence(audit)),
    };
    loop {
        let written = tokio::select! {
            ended = tokio::signal::ctrl_c() => {
                return ended.map_err(|e| Failure::unexpected(format!("cannot wait for Ctrl-C: {e}")));
            }
            Some(message) = changes.next() => show_change(app, &message)?,
            Some(message) = audit.next() => show_audit(app, &message)?,
            else => return Err(Failure::new(Exit::NoAnswer, "the connection to NATS has ended")),
        };
        if written == Reader::Gone {
            return Ok(());
        }
    }
}

fn or_silence(listener: Option<Subscriber>) -> BoxStream<'static, Message> {
    match listener {
        Some(listener) => listener.boxed(),
        None => stream::empty().boxed(),
    }
}

/// Subscribes; `None` if NATS does not let this account listen there. A refused subscription looks just like one
/// where nothing happens, so the server's complaints are listened to as well.
pub async fn listen(client: &Client, subject: &str) -> Result<Option<Subscriber>, Failure> {
    let broken =
        |e: &dyn std::error::Error| Failure::new(Exit::NoAnswer, format!("cannot listen on {subject}: {e}"));
    let mut complaints = client.complaints();
    let listener = client.nats().subscribe(subject.to_owned()).await.map_err(|e| broken(&e))?;
    // The server judges in order: once it has answered the flush, a complaint is only still to be handed on.
    let flushed = tokio::time::timeout(FLUSH_WINDOW, client.nats().flush()).await;
    flushed.map_err(|e| broken(&e))?.map_err(|e| broken(&e))?;
    let quoted = format!("\"{subject}\"");
    let refused = async {
        while let Ok(complaint) = complaints.recv().await {
            if complaint.contains(&quoted) {
                return;
            }
        }
    };
    let heard = tokio::time::timeout(COMPLAINT_WINDOW, refused).await.is_ok();
    Ok(if heard { None } else { Some(listener) })
}

fn show_change(app: &App, message: &Message) -> Result<Reader, Failure> {
    let event: ChangeEvent = match codec::decode(&message.payload) {
        Ok(event) => event,
        Err(error) => return Ok(unreadable(app, message, &error)),
    };
    if event.changes.is_empty() && !event.bye {
        // A heartbeat.
        return Ok(Reader::Listening);
    }
    if app.out.is_json() {
        return json_line(app, message, &event);
    }
    let mut lines: Vec<String> = event
        .changes
        .iter()
        .map(|change| {
            let version = match change.version {
                DELETED => "deleted".to_owned(),
                version => format!("version {version}"),
            };
            format!("change\t{}\t{}\t{version}", change.kind.as_str(), harmless(&change.id))
        })
        .collect();
    if event.bye {
        lines.push(format!("bye\tinstance\t{}", harmless(&event.instance)));
    }
    app.out.line(&lines.join("\n"))
}

fn show_audit(app: &App, message: &Message) -> Result<Reader, Failure> {
    let event: AuditEvent = match codec::decode(&message.payload) {
        Ok(event) => event,
        Err(error) => return Ok(unreadable(app, message, &error)),
    };
    if app.out.is_json() {
        return json_line(app, message, &event);
    }
    app.out.line(&audit_line(&event))
}

/// `audit`, the time, the type, the operation, the outcome, and then what applies as `name=value`.
fn audit_line(event: &AuditEvent) -> String {
    let payload = &event.payload;
    let outcome = payload.outcome.and_then(|outcome| serde_json::to_value(outcome).ok());
    let outcome = outcome.as_ref().and_then(|word| word.as_str()).unwrap_or("-").to_owned();
    let mut columns = vec![
        "audit".to_owned(),
        event.timestamp.to_string(),
        event.event_type.as_str().to_owned(),
        if payload.operation.is_empty() { "-".to_owned() } else { payload.operation.clone() },
        outcome,
    ];
    let count = payload.count.map(|count| count.to_string()).unwrap_or_default();
    for (name, value) in [
        ("actor", &payload.actor),
        ("user", &payload.user_id),
        ("username", &payload.username),
        ("capability", &payload.capability),
        ("workspace", &payload.workspace),
        ("resource", &payload.resource),
        ("reason", &payload.reason),
        ("ip", &payload.client_ip),
        ("plane", &payload.plane),
        ("count", &count),
    ] {
        if !value.is_empty() {
            columns.push(format!("{name}={value}"));
        }
    }
    columns.iter().map(|column| harmless(column)).collect::<Vec<_>>().join("\t")
}

fn json_line<T: serde::Serialize>(app: &App, message: &Message, event: &T) -> Result<Reader, Failure> {
    // One line each, on a terminal too.
    app.out.line(&json!({ "subject": message.subject.as_str(), "event": event }).to_string())
}

fn unreadable(app: &App, message: &Message, error: &codec::DecodeError) -> Reader {
    app.out.note(format!("an event on {} cannot be read: {error}", message.subject));
    Reader::Listening
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn audit_event_is_one_line_whatever_it_holds() {
        let text = r#"{"schema_version":1,"event_id":"e","event_type":"management",
            "timestamp":"2027-01-31T12:00:00Z","producer":"p",
            "payload":{"operation":"create-user","outcome":"denied","actor":"a","reason":"x\ny"}}"#;
        let event: AuditEvent = codec::decode(text.as_bytes()).unwrap();
        assert_eq!(
            audit_line(&event),
            "audit\t2027-01-31T12:00:00.000Z\tmanagement\tcreate-user\tdenied\tactor=a\treason=x\u{fffd}y"
        );
    }
}
