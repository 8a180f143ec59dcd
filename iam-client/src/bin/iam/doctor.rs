//! `iam doctor`: what is wrong between here and an answer, step by step.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use iam_client::schema::subject::{Plane, QUEUE_GROUP};
use iam_client::schema::{ErrorKind, Timestamp};
use iam_client::{Client, ClientError};
use serde_json::{Value, json};

use crate::credential::{self, Found, Origin};
use crate::failure::{Exit, Failure};
use crate::jwt::Claims;
use crate::out::{Out, harmless};
use crate::settings::{Globals, Settings};
use crate::time;
use crate::watch::listen;

/// How long replicas have to answer a `$SRV.PING`.
const PING_WINDOW: Duration = Duration::from_millis(500);
/// Clocks may differ by what the service allows for. Source: protocol section 5, leeway of times.
const LEEWAY_S: i64 = 60;

/// Runs all steps that can be run; the exit code is that of the first failure.
pub async fn run(globals: &Globals) -> Result<Exit, Failure> {
    let mut report = Report { out: Out::new(globals.json, globals.quiet), exit: Exit::Done };
    let settings = match Settings::read(globals) {
        Ok(settings) => settings,
        Err(failure) => {
            report.failed("settings", failure)?;
            return Ok(report.exit);
        }
    };
    let urls = settings.connection.shown_urls();
    report.ok("settings", format!("{urls}, from {}", settings.connection_from))?;
    let Some(client) = connect(&mut report, &settings).await? else { return Ok(report.exit) };
    let service_answers = responder(&mut report, &client).await?;
    replicas(&mut report, &client).await?;
    if settings.plane == Plane::Service {
        report.ok("credential", "not looked at: the service plane asks for none".to_owned())?;
    } else {
        credential_of(&mut report, &settings, client.clone(), service_answers).await?;
    }
    eavesdropping(&mut report, &client, &settings).await?;
    Ok(report.exit)
}

/// The lines printed so far, as far as they matter for the exit code.
struct Report {
    out: Out,
    exit: Exit,
}

impl Report {
    fn ok(&mut self, step: &str, found: String) -> Result<(), Failure> {
        self.line("ok", step, &found)
    }

    fn warn(&mut self, step: &str, found: String) -> Result<(), Failure> {
        self.line("warn", step, &found)
    }

    fn failed(&mut self, step: &str, failure: Failure) -> Result<(), Failure> {
        if self.exit == Exit::Done {
            self.exit = failure.exit;
        }
        self.line("fail", step, &failure.message)
    }

    fn line(&mut self, status: &str, step: &str, found: &str) -> Result<(), Failure> {
        let line = match self.out.is_json() {
            true => json!({ "status": status, "step": step, "found": found }).to_string(),
            false => format!("{status:4}  {step:11} {}", harmless(found)),
        };
        self.out.line(&line).map(drop)
    }
}

async fn connect(report: &mut Report, settings: &Settings) -> Result<Option<Client>, Failure> {
    match Client::connect(&settings.connection).await {
        Ok(client) => {
            let server = client.nats().server_info();
            report.ok("nats", format!("connected to {}, version {}", server.server_name, server.version))?;
            Ok(Some(client.on(settings.plane)))
        }
        Err(error) => {
            report.failed("nats", error.into())?;
            Ok(None)
        }
    }
}

/// Asks for what needs no credential and changes nothing.
async fn responder(report: &mut Report, client: &Client) -> Result<bool, Failure> {
    let asked = Instant::now();
    match client.bootstrap_status().await {
        Ok(available) => {
            report.ok("service", format!("answered within {} ms", asked.elapsed().as_millis()))?;
            if available {
                report.warn("bootstrap", "this deployment is still empty: run `iam bootstrap`".to_owned())?;
            }
            Ok(true)
        }
        Err(error) => {
            let answered = matches!(error, ClientError::Refused(_) | ClientError::Decode(_));
            let failure = match error {
                ClientError::NoResponder { subject } => Failure::new(
                    Exit::NoAnswer,
                    format!(
                        "nobody listens on {subject}: start iam-svc on this NATS, in this NATS account and \
                         with this --subject-prefix"
                    ),
                ),
                other => other.into(),
            };
            report.failed("service", failure)?;
            Ok(answered)
        }
    }
}

/// Counts the replicas by NATS's own service discovery. It may be forbidden here, so silence is a warning.
async fn replicas(report: &mut Report, client: &Client) -> Result<(), Failure> {
    let found = match ping(client).await {
        Ok(found) => found,
        Err(error) => return report.warn("replicas", format!("cannot ask for them: {error}")),
    };
    match found.as_slice() {
        [] => {
            let subject = format!("$SRV.PING.{QUEUE_GROUP}");
            report.warn("replicas", format!("none answered {subject}, or this account may not ask it"))
        }
        found => report.ok("replicas", format!("{}: {}", found.len(), found.join(", "))),
    }
}

/// Name, version and id of each service that answers. Source: NATS ADR-32.
async fn ping(client: &Client) -> Result<Vec<String>, async_nats::Error> {
    let nats = client.nats();
    let inbox = nats.new_inbox();
    let mut replies = nats.subscribe(inbox.clone()).await?;
    nats.publish_with_reply(format!("$SRV.PING.{QUEUE_GROUP}"), inbox, Vec::new().into()).await?;
    let mut found = Vec::new();
    let window = tokio::time::sleep(PING_WINDOW);
    tokio::pin!(window);
    loop {
        tokio::select! {
            () = &mut window => return Ok(found),
            Some(reply) = replies.next() => {
                if let Ok(pong) = serde_json::from_slice::<Value>(&reply.payload) {
                    let text = |field| pong.get(field).and_then(Value::as_str).unwrap_or("?").to_owned();
                    found.push(format!("{} {} ({})", text("name"), text("version"), text("id")));
                }
            }
        }
    }
}

async fn credential_of(
    report: &mut Report,
    settings: &Settings,
    client: Client,
    service_answers: bool,
) -> Result<(), Failure> {
    let found = match settings.credential() {
        Ok(Some(found)) => found,
        Ok(None) => return report.failed("credential", Failure::not_logged_in()),
        Err(failure) => return report.failed("credential", failure),
    };
    let claims = Claims::of(&found.credential);
    let kind = if claims.is_some() { "a JWT" } else { "an API key" };
    report.ok("credential", format!("{kind}, from {}", found.origin))?;
    if let Some(path) = found.origin.path()
        && credential::readable_by_others(path)
    {
        report.warn("credential", format!("others can read {}: chmod 600 it", found.origin))?;
    }
    let mut accepted = None;
    if service_answers {
        let client = client.with_credential(found.credential.clone());
        accepted = whoami(report, client, claims.is_some()).await?;
    }
    match claims {
        Some(claims) => clock(report, &found, &claims, accepted),
        None => Ok(()),
    }
}

/// Whether the credential is accepted, if the service said. A password that must be changed holds up whoever
/// logged in by it, and nobody who comes with a key.
async fn whoami(report: &mut Report, client: Client, by_login: bool) -> Result<Option<bool>, Failure> {
    match client.whoami().await {
        Ok(me) => {
            let roles = if me.roles.is_empty() { "none".to_owned() } else { me.roles.join(", ") };
            report.ok("whoami", format!("{} of workspace {}, roles: {roles}", me.username, me.workspace))?;
            if me.must_change_password && by_login {
                let advice = "the password must be changed before anything else: run `iam passwd`";
                report.warn("whoami", advice.to_owned())?;
            }
            Ok(Some(true))
        }
        Err(error) => {
            let accepted = (error.kind() == Some(ErrorKind::AuthFailed)).then_some(false);
            report.failed("whoami", error.into())?;
            Ok(accepted)
        }
    }
}

/// Compares this clock with what the JWT shows of the service's: it was stored as soon as it was issued, and
/// whether it is accepted says on which side of its end the service is.
fn clock(report: &mut Report, found: &Found, claims: &Claims, accepted: Option<bool>) -> Result<(), Failure> {
    let Some(expires) = claims.expires() else {
        return report.warn("clock", "the JWT does not say when it ends".to_owned());
    };
    let left_s = expires.as_secs() - time::now().as_secs();
    match accepted {
        Some(true) if left_s < -LEEWAY_S => {
            let ahead = format!("the JWT ended {} s ago by this clock, and is accepted", -left_s);
            return report.warn("clock", format!("{ahead}: this clock is ahead, set it"));
        }
        _ if left_s < 0 => {
            return report.warn("clock", format!("the JWT ended at {expires}: run `iam login`"));
        }
        _ => {}
    }
    match skew_s(found, claims) {
        Some(skew) if skew.abs() > LEEWAY_S => {
            let side = if skew > 0 { "ahead of" } else { "behind" };
            report.warn(
                "clock",
                format!("at login this clock was {} s {side} the service's: set it", skew.abs()),
            )
        }
        Some(skew) => {
            report.ok("clock", format!("{skew} s from the service's at login; the JWT ends at {expires}"))
        }
        None => report.ok("clock", format!("the JWT ends at {expires}")),
    }
}

/// Seconds by which this clock was ahead of the service's when `iam login` stored the JWT.
fn skew_s(found: &Found, claims: &Claims) -> Option<i64> {
    let Origin::Stored(path) = &found.origin else { return None };
    let stored = std::fs::metadata(path).and_then(|file| file.modified()).ok()?;
    let stored: Timestamp = time::from_system(stored);
    Some(stored.as_secs() - claims.issued()?.as_secs())
}

/// Tries for a moment whether NATS lets this account listen to what others say: then it reads their passwords.
async fn eavesdropping(report: &mut Report, client: &Client, settings: &Settings) -> Result<(), Failure> {
    let subjects = [format!("{}.v1.>", settings.connection.subject_prefix), "_INBOX.>".to_owned()];
    for subject in subjects {
        match listen(client, &subject).await {
            Err(failure) => report.warn("privacy", failure.message)?,
            Ok(Some(listener)) => {
                drop(listener);
                let harm = "so it can read the passwords and tokens of others";
                let remedy = "limit it by NATS permissions";
                report.warn(
                    "privacy",
                    format!("NATS lets this account listen on {subject}, {harm}: {remedy}"),
                )?;
            }
            Ok(None) => {
                report.ok("privacy", format!("NATS does not let this account listen on {subject}"))?
            }
        }
    }
    Ok(())
}
