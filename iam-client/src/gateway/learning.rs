//! Asking the service what memory does not hold.
//!
//! A question goes out with the floors of what it rests on; its answer is kept if nothing of that has changed
//! meanwhile, and else it is asked anew.

use std::hash::{BuildHasher, Hash};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use iam_schema::changes::{ChangeKind, Floors};
use iam_schema::decisions::Decision;
use iam_schema::tokens::{Claims, Expect, KeySetError, TokenError, VerifyKeys};
use iam_schema::{ErrorKind, IamRequest, KeyKid, OperationName, Secret, Timestamp};

use super::decided::{Matter, Ruling, Uses};
use super::keys::Fetched;
use super::memory::{Asked, CredentialHash, Rest};
use super::question::Question;
use super::{GatewayError, Shared};
use crate::error::ClientError;
use crate::reply;
use crate::sessions::{Identity, IdentitySource};

/// How long an identity is remembered at most, in milliseconds. Source: protocol section 5.
const IDENTITY_MS: i64 = 60_000;
/// How long it is remembered that a credential is not good, in milliseconds.
const REFUSED_MS: i64 = 5_000;
/// How often a question is asked anew because changes overtook its answer.
const TRIES: usize = 5;

impl Shared {
    /// Whether questions can be answered: tries to fetch the keys, if a heartbeat was heard.
    pub(super) async fn begin(&self) -> bool {
        if !self.follower().heard_any() {
            return false;
        }
        if !self.begun.load(Ordering::Acquire) && self.keys(None).await.is_ok() {
            self.begun.store(true, Ordering::Release);
        }
        self.begun.load(Ordering::Acquire)
    }

    pub(super) fn not_ready(&self) -> GatewayError {
        let lacks = match self.follower().heard_any() {
            false => "no heartbeat of the service was heard yet",
            true => "the keys of tokens were not fetched yet",
        };
        GatewayError::Unavailable(lacks.to_owned())
    }

    /// Asks, one at a time for what shares a lane and so many in all: the others wait, and find the answer in memory.
    pub(super) async fn learn<T, F>(
        &self,
        about: impl Hash,
        ask: impl FnOnce() -> F,
    ) -> Result<T, GatewayError>
    where
        F: Future<Output = Result<T, GatewayError>>,
    {
        let lane = self.hasher.hash_one(about) % 64;
        let lane = usize::try_from(lane).ok().and_then(|lane| self.lanes.get(lane));
        let asked = async {
            if !self.begin().await {
                return Err(self.not_ready());
            }
            let _turn = match lane {
                Some(lane) => Some(lane.lock().await),
                None => None,
            };
            let _room = self.room.acquire().await;
            ask().await
        };
        self.in_time(asked).await
    }

    /// Waits no longer than callers are to wait.
    pub(super) async fn in_time<T>(
        &self,
        asked: impl Future<Output = Result<T, GatewayError>>,
    ) -> Result<T, GatewayError> {
        let within = self.setting.deadline;
        let late = |_| GatewayError::Unavailable(format!("no answer within {within:?}"));
        tokio::time::timeout(within, asked).await.map_err(late)?
    }

    /// The versions that are known of what a request rests on.
    pub(super) fn floors_of(&self, request: &IamRequest<'_>) -> Floors {
        let user = |id: &str| Rest::Record(ChangeKind::User, id.to_owned());
        let mut rests: Vec<Rest> = [&request.actor, &request.user_id]
            .iter()
            .filter(|id| !id.is_empty())
            .map(|id| user(id))
            .collect();
        let record = request.workspace_record.as_ref().and_then(|record| record.id.as_deref());
        let workspaces = [Some(request.workspace.as_ref()), record];
        rests.extend(workspaces.into_iter().flatten().filter(|id| !id.is_empty()).map(Rest::workspace));
        if !request.key_id.is_empty() {
            rests.push(Rest::Record(ChangeKind::ApiKey, request.key_id.clone().into_owned()));
        }
        self.memory.floors(&rests)
    }

    /// Learns whose credential this is.
    pub(super) async fn identify(
        &self,
        hash: CredentialHash,
        credential: &Secret,
    ) -> Result<Arc<Identity>, GatewayError> {
        if let Some(known) = self.remembered(&hash) {
            return known;
        }
        // What it turned out to rest on, in the last try.
        let mut rests = Vec::new();
        for _ in 0..TRIES {
            let now_ms = self.clock.monotonic_ms();
            let refusing = self.memory.asking(&[Rest::Absence]);
            if credential.expose().bytes().filter(|byte| *byte == b'.').count() == 2 {
                match self.verify(credential, &self.setting.audience).await? {
                    Ok((claims, kid)) => {
                        let signed = Rest::Record(ChangeKind::SigningKey, kid.as_str().to_owned());
                        rests = vec![Rest::user(claims.sub), signed, Rest::AnyWorkspace];
                    }
                    Err(error) => {
                        self.tell(self.rulings.refused(&error.to_string()));
                        if self.refuse(hash, refusing, now_ms) {
                            return Err(GatewayError::Refused);
                        }
                        continue;
                    }
                }
            }
            let (asked, floors) = (self.memory.asking(&rests), self.memory.floors(&rests));
            let request = IamRequest { credential: credential.clone(), ..IamRequest::default() };
            let answer =
                self.bus.ask(OperationName::Authenticate, request, &floors, self.setting.deadline).await;
            let mut response = match answer {
                Ok(response) => response,
                Err(error) if error.kind() == Some(ErrorKind::AuthFailed) => {
                    if self.refuse(hash, refusing, now_ms) {
                        return Err(GatewayError::Refused);
                    }
                    continue;
                }
                Err(error) => return Err(unavailable(&error)),
            };
            let identity = Identity::read(&mut response).map_err(|error| unavailable(&error))?;
            let mut shown = rests_of(&identity);
            shown.retain(|rest| !rests.contains(rest));
            let asked = self.memory.asking_too(asked, &shown);
            rests.append(&mut shown);
            if self.memory.behind(&floors, &rests) {
                continue;
            }
            let until_ms = self.until_ms(now_ms, IDENTITY_MS).min(self.expiry_ms(&identity));
            if let Some(kept) = self.memory.keep(asked, Arc::new(identity), until_ms) {
                let identity = kept.value.clone();
                self.memory.put_identity(hash, kept);
                return Ok(identity);
            }
        }
        Err(changing_too_fast())
    }

    /// When an identity ends, in milliseconds of the monotonic clock.
    fn expiry_ms(&self, identity: &Identity) -> i64 {
        let left_ms = |expires: Timestamp| expires.as_millis().saturating_sub(self.clock.now().as_millis());
        identity
            .expires
            .map_or(i64::MAX, |expires| self.clock.monotonic_ms().saturating_add(left_ms(expires)))
    }

    /// Remembers that a credential is not good; `false` if that may have changed meanwhile.
    fn refuse(&self, hash: CredentialHash, asked: Asked, now_ms: i64) -> bool {
        let kept = self.memory.keep(asked, (), now_ms + REFUSED_MS);
        kept.map(|kept| self.memory.put_refused(hash, kept)).is_some()
    }

    /// Verifies a token with the keys that are known, or fetched for its sake.
    pub(super) async fn verify(
        &self,
        token: &Secret,
        audience: &str,
    ) -> Result<Result<(Claims, KeyKid), TokenError>, GatewayError> {
        let mut keys = self.keys(None).await?;
        loop {
            let now = self.clock.now();
            let expect = Expect { issuer: &self.setting.issuer, audience, now };
            let signed = keys.keys.signed_claims(token.expose(), now);
            let checked = signed.and_then(|(claims, kid)| claims.check(&expect).map(|()| (claims, kid)));
            match checked {
                Err(TokenError::UnknownKid) if self.keys.may_fetch(&keys, self.clock.monotonic_ms()) => {
                    keys = self.keys(Some(keys)).await?;
                }
                checked => return Ok(checked),
            }
        }
    }

    /// The keys of tokens, as they are or newer than `than`.
    async fn keys(&self, than: Option<Arc<Fetched>>) -> Result<Arc<Fetched>, GatewayError> {
        let known = || {
            let known = self.keys.current(self.clock.monotonic_ms())?;
            let newer = than.as_ref().is_none_or(|than| !Arc::ptr_eq(than, &known));
            newer.then_some(known)
        };
        if let Some(known) = known() {
            return Ok(known);
        }
        let _turn = self.keys.turn.lock().await;
        if let Some(known) = known() {
            return Ok(known);
        }
        let fetch = self.keys.begin(self.clock.monotonic_ms());
        let (request, floors) = (IamRequest::default(), self.memory.floors(&self.keys.changed_lately()));
        let answer = self.bus.ask(OperationName::GetJwks, request, &floors, self.setting.deadline).await;
        let keys = match answer {
            Ok(response) => {
                let set =
                    reply::text("jwks_json", response.jwks_json).map_err(|error| unavailable(&error))?;
                let unusable = |error: KeySetError| {
                    GatewayError::Unavailable(format!("the keys of tokens cannot be used: {error}"))
                };
                VerifyKeys::from_jwks(&set).map_err(unusable)?
            }
            // Nothing was seeded yet: there are no tokens either.
            Err(error) if error.kind() == Some(ErrorKind::NotFound) => VerifyKeys::default(),
            Err(error) => return Err(unavailable(&error)),
        };
        Ok(self.keys.put(fetch, keys))
    }

    /// Learns whether somebody may.
    pub(super) async fn decide(
        &self,
        identity: &Identity,
        question: &Question,
    ) -> Result<Decision, GatewayError> {
        if let Some(known) = self.remembered_decision(identity, question) {
            return Ok(known);
        }
        let mut rests = vec![Rest::user(identity.user_id), home_of(identity)];
        rests.extend(question.targets().iter().map(Rest::workspace));
        for _ in 0..TRIES {
            let now_ms = self.clock.monotonic_ms();
            let (asked, floors) = (self.memory.asking(&rests), self.memory.floors(&rests));
            let request = IamRequest {
                user_id: identity.user_id.to_string().into(),
                capability: question.capability().into(),
                resource_json: question.resource_json().into(),
                parameters_json: question.parameters_json().into(),
                ..IamRequest::default()
            };
            let answer =
                self.bus.ask(OperationName::Authorise, request, &floors, self.setting.deadline).await;
            let response = match answer {
                Ok(response) => response,
                Err(error) if error.kind() == Some(ErrorKind::InvalidArgument) => {
                    return Err(GatewayError::Invalid(error.to_string()));
                }
                Err(error) => return Err(unavailable(&error)),
            };
            let allow = reply::required("decision_allow", response.decision_allow)
                .map_err(|error| unavailable(&error))?;
            let ttl = response.decision_ttl_seconds;
            if self.memory.behind(&floors, &rests) {
                continue;
            }
            let ruling = match allow {
                true => Ruling::Allow(Uses::none_yet(Matter::of(identity, question))),
                false => Ruling::Deny,
            };
            let until_ms = self.until_ms(now_ms, i64::from(ttl) * 1_000);
            if question.is_long() {
                return Ok(Decision { allow, ttl: 0 });
            }
            if let Some(kept) = self.memory.keep(asked, ruling, until_ms) {
                let told = |matter: &Matter, count| self.rulings.used(matter, count);
                self.memory.put_decision((identity.user_id, question.hash()), kept, now_ms, told);
                return Ok(Decision { allow, ttl });
            }
        }
        Err(changing_too_fast())
    }
}

/// What an identity rests on.
fn rests_of(identity: &Identity) -> Vec<Rest> {
    let key = identity.key_id.map(|id| Rest::Record(ChangeKind::ApiKey, id.to_string()));
    let mut rests = vec![Rest::user(identity.user_id), home_of(identity)];
    rests.extend(key);
    rests
}

/// The home of a user, where the credential tells it: a token names the workspace of its login.
fn home_of(identity: &Identity) -> Rest {
    match identity.source {
        IdentitySource::ApiKey => Rest::workspace(&identity.workspace),
        IdentitySource::Jwt | IdentitySource::Anonymous => Rest::AnyWorkspace,
    }
}

fn unavailable(error: &ClientError) -> GatewayError {
    GatewayError::Unavailable(error.to_string())
}

fn changing_too_fast() -> GatewayError {
    GatewayError::Unavailable("it changes faster than it can be asked about".to_owned())
}
