//! A request to a replica, with its headers, and those that follow from it.

use std::time::Instant;

use iam_schema::changes::Change;
use iam_schema::codec::{Format, decode, encode};
use iam_schema::subject::Plane;
use iam_schema::{ErrorKind, IamResponse};
use iam_svc::dispatch::{Answer, Answered, Headers, Incoming};
use serde_json::Value;

use super::{Play, REPLICAS};
use crate::model::ask::{Ask, Call, Credential, Floors, Held, Whom};
use crate::model::state::Rec;

/// Wrong passwords for a name until a sequence stops trying: short of what is throttled.
const MOST_FAILURES: usize = 12;

impl Play<'_> {
    /// Asks, by whichever replica is connected, and lets events go their way.
    pub(super) async fn ask(&mut self, slot: usize, ask: &Ask) -> Result<(), String> {
        // Requests come by the connection that events come by.
        let slot = if self.bus.is_cut(slot) { (slot + 1) % REPLICAS } else { slot };
        if self.bus.is_cut(slot) {
            return Ok(());
        }
        let tokens = self.state.tokens.len();
        self.tell_bus(slot, ask).await?;
        if ask.call.from_memory() {
            // Warm by now, and nothing else may come of it.
            self.one(slot, ask).await?;
        }
        let changed = self.state.changed.clone();
        self.learn_changed_ring(ask).await?;
        if self.state.tokens.len() > tokens {
            let token = Credential::Token(u8::try_from(tokens).unwrap_or(u8::MAX));
            self.show(token, Floors::Acknowledged, true).await?;
        }
        self.probe(changed.first().copied()).await
    }

    /// After a change, asks everywhere whose credential it is that the change may have ended: half of the times with
    /// floors, after which nobody may know it late.
    async fn probe(&mut self, changed: Option<Rec>) -> Result<(), String> {
        let number = |n: usize| u8::try_from(n).unwrap_or(u8::MAX);
        let user = match changed {
            None => return Ok(()),
            Some(Rec::User(user)) => Some(user),
            Some(Rec::Workspace(id)) => {
                let keyed = (0..self.state.keys.len()).rev().filter_map(|key| self.state.key(key));
                let at_home = |owner: &usize| self.state.user(*owner).is_some_and(|user| user.home == id);
                keyed.map(|key| key.owner).find(at_home)
            }
            Some(Rec::Key(_) | Rec::Kid(_)) => None,
        };
        let credential = match (changed, user) {
            (Some(Rec::Key(key)), _) => Credential::Key(number(key)),
            (Some(Rec::Kid(_)), _) => Credential::Token(number(self.state.tokens.len().saturating_sub(1))),
            (_, Some(user)) if self.played.requests.is_multiple_of(3) => Credential::TokenOf(number(user)),
            (_, Some(user)) => Credential::KeyOf(number(user)),
            _ => return Ok(()),
        };
        let floors = if self.played.requests.is_multiple_of(2) { Floors::Acknowledged } else { Floors::None };
        self.show(credential, floors, self.played.requests.is_multiple_of(4)).await
    }

    /// Shows a credential to every replica: by its holder's own request, which is recognised first, or by somebody who
    /// asks about it.
    async fn show(&mut self, credential: Credential, floors: Floors, own: bool) -> Result<(), String> {
        let (plane, call, held) = match own {
            true => (Plane::Api, Call::Whoami, credential),
            false => (Plane::Service, Call::Authenticate(credential), Credential::Missing),
        };
        for slot in (0..REPLICAS).filter(|&slot| !self.bus.is_cut(slot)).collect::<Vec<_>>() {
            let ask = Ask { plane, actor: Whom::Missing, credential: held, floors, call: call.clone() };
            self.one(slot, &ask).await?;
        }
        Ok(())
    }

    /// One request, with its changes put on the bus.
    pub(super) async fn tell_bus(&mut self, slot: usize, ask: &Ask) -> Result<(), String> {
        if let Some(changes) = self.one(slot, ask).await? {
            let recs = self.state.changed.iter().map(|&rec| (rec, self.state.last(rec))).collect();
            self.bus.publish(slot, &changes, recs);
            self.deliver_promptly();
        }
        Ok(())
    }

    pub(super) async fn learn_changed_ring(&mut self, ask: &Ask) -> Result<(), String> {
        let ring = matches!(ask.call, Call::Bootstrap | Call::RotateSigningKey | Call::RetireSigningKey(_));
        if ring && !self.state.changed.is_empty() { self.learn_ring().await } else { Ok(()) }
    }

    /// One request to one replica, held against the model; the changes that are to be published.
    pub(super) async fn one(&mut self, slot: usize, ask: &Ask) -> Result<Option<Vec<Change>>, String> {
        self.state.changed.clear();
        let Some(name) = self.worth_asking(ask) else { return Ok(None) };
        let request = self.state.request(ask);
        let payload = encode(&request, Format::MessagePack).map_err(|error| error.to_string())?;
        let credential = self.state.credential_text(ask.credential);
        let authorization = match ask.credential {
            Credential::Missing => None,
            Credential::OtherScheme => Some(format!("Basic {credential}")),
            _ => Some(format!("bearer {credential}")),
        };
        let strict = self.strict(slot, ask);
        let floors = self.floors(slot, ask);
        let keys = self.keys_shown(ask);
        let headers = Headers {
            authorization: authorization.as_deref().filter(|_| ask.plane == Plane::Api),
            several_authorizations: ask.credential == Credential::Twice,
            iam_min: floors.as_deref(),
            ..Headers::default()
        };
        let operation = ask.call.operation();
        let (reply, changes) = self.send(slot, ask.plane, operation.as_str(), &headers, &payload).await;
        self.played.requests += 1;
        let outcome = reply.pointer("/error/type").and_then(Value::as_str);
        let kind = outcome.map_or("success", |kind| {
            ErrorKind::ALL.iter().find(|k| k.as_str() == kind).map_or("?", |k| k.as_str())
        });
        *self.played.outcomes.entry((ask.plane.as_str(), operation, kind)).or_default() += 1;
        self.note(|| {
            let shown = serde_json::to_string(&request).unwrap_or_default();
            let floors = floors.as_deref().map(|floors| format!(" Iam-Min: {floors}")).unwrap_or_default();
            let by = match ask.plane {
                Plane::Api => format!("{:?} as ", ask.credential),
                Plane::Service => String::new(),
            };
            format!("{by}{} {operation} {shown}{floors} at replica {slot}: {reply}", ask.plane.as_str())
        });
        if let Some(name) = name.filter(|_| kind == "auth-failed") {
            *self.failures.entry(name).or_default() += 1;
        }
        self.judge(slot, ask, strict, &reply, &changes)?;
        if kind == "success" {
            let now_ms = self.state.now_ms;
            self.uses[slot].extend(keys.into_iter().map(|key| (key, now_ms)));
        }
        Ok(Some(changes))
    }

    /// Whether to ask at all: not where so many passwords were wrong that throttling is near. The name that would be
    /// throttled, if any.
    fn worth_asking(&self, ask: &Ask) -> Option<Option<String>> {
        let name = match &ask.call {
            Call::Login(name, ..) => self.state.name_text(ask, *name).to_ascii_lowercase(),
            Call::ChangePassword(whom, ..) => self.state.id_text(ask, *whom),
            _ => return Some(None),
        };
        (self.failures.get(&name).is_none_or(|&failures| failures < MOST_FAILURES)).then_some(Some(name))
    }

    fn floors(&self, slot: usize, ask: &Ask) -> Option<String> {
        let floor = |(kind, id, version): (&str, String, u64)| format!("{kind}:{id}={version}");
        match ask.floors {
            Floors::None => None,
            Floors::Malformed => Some("user:x".to_owned()),
            Floors::Ahead(k) => {
                let index = usize::from(k).checked_rem(self.state.users.len())?;
                let (kind, id, version) = self.state.change(Rec::User(index));
                let ahead = if self.state.user(index).is_some() { version + 5 } else { version };
                Some(floor((kind, id, ahead)))
            }
            Floors::Acknowledged => {
                let behind = self.behind(slot);
                let floors = behind.into_iter().take(64).map(|rec| floor(self.state.change(rec)));
                let text = floors.collect::<Vec<_>>().join(",");
                (!text.is_empty()).then_some(text)
            }
        }
    }

    /// The keys by which a request is recognised, if it is.
    fn keys_shown(&self, ask: &Ask) -> Vec<usize> {
        let given = match &ask.call {
            Call::Authenticate(credential) | Call::ResolveApiKey(credential) => Some(*credential),
            Call::Authorise(_, credential, ..) | Call::AuthoriseMany(_, credential, _) => *credential,
            _ => None,
        };
        let public = matches!(
            ask.call,
            Call::Login(..)
                | Call::GetSigningKeyPublic
                | Call::GetJwks
                | Call::Bootstrap
                | Call::BootstrapStatus
        );
        let own = (ask.plane == Plane::Api && !public).then_some(ask.credential);
        let held = [given, own].into_iter().flatten().map(|credential| self.state.held(credential));
        held.filter_map(|held| if let Held::Key(key) = held { Some(key) } else { None }).collect()
    }

    pub(super) async fn send(
        &self,
        slot: usize,
        plane: Plane,
        operation: &str,
        headers: &Headers<'_>,
        payload: &[u8],
    ) -> (Value, Vec<Change>) {
        let dispatch = &self.worlds[slot].dispatch;
        let incoming = Incoming { plane, operation, headers: *headers, payload, received: Instant::now() };
        let (reply, changes) = match dispatch.answer_now(incoming) {
            Answer::Now(reply) => (reply, Vec::new()),
            Answer::Later(later) => {
                let Answered { reply, changes, .. } = dispatch.answer_later(later).await;
                (reply.expect("no deadline was given"), changes)
            }
        };
        let response: IamResponse = decode(&reply.payload).expect("a reply that can be read");
        let kind = response.error.as_ref().and_then(|error| error.known_kind());
        assert_eq!(kind, reply.error, "the headers must say what the reply says");
        (serde_json::to_value(&response).expect("a reply"), changes)
    }
}
