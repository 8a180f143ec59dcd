//! Asking the service what memory does not hold.
//!
//! A question goes out with the floors of what it rests on; its answer is kept if nothing of that has changed
//! meanwhile, and else it is asked anew.

use std::collections::HashSet;
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::future::try_join_all;
use iam_schema::changes::{ChangeKind, Floors, MAX_FLOORS};
use iam_schema::decisions::{Decision, MAX_CHECKS};
use iam_schema::subject::MAX_PAYLOAD;
use iam_schema::tokens::{Claims, Expect, KeySetError, TokenError, VerifyKeys};
use iam_schema::{ErrorKind, IamRequest, KeyKid, OperationName, Secret, Timestamp, UserId};

use super::decided::{Matter, Ruling, Uses};
use super::keys::Fetched;
use super::memory::CredentialHash;
use super::question::Question;
use super::rests::{Asked, Rest};
use super::{GatewayError, Shared, seconds};
use crate::decisions::decisions;
use crate::error::ClientError;
use crate::reply;
use crate::sessions::{Identity, IdentitySource};

/// How long an identity is remembered at most, in milliseconds. Source: protocol section 5.
const IDENTITY_MS: i64 = 60_000;
/// How long it is remembered that a credential is not good, in milliseconds.
const REFUSED_MS: i64 = 5_000;
/// Records that every decision about somebody rests on: the user, and the home workspace.
const OF_ALL: usize = 2;
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

    /// Whether somebody may do each of these, out of memory and by as few requests as hold the rest.
    pub(super) async fn decide_many(
        &self,
        identity: &Identity,
        questions: &[Question],
    ) -> Result<Vec<Decision>, GatewayError> {
        let mut rests = vec![Rest::user(identity.user_id), home_of(identity)];
        rests.extend(questions.iter().flat_map(Question::targets).map(Rest::workspace));
        for _ in 0..TRIES {
            let asked = self.memory.asking(&rests);
            let known = |question: &Question| match question.capability() {
                // Denied among many, and an error alone.
                "" => Some(Decision { allow: false, ttl: 0 }),
                _ => self.remembered_decision(identity, question),
            };
            let known: Vec<Option<Decision>> = questions.iter().map(known).collect();
            let open = questions.iter().zip(&known).filter(|(_, known)| known.is_none());
            let groups = groups(&open.map(|(question, _)| question).collect::<Vec<_>>());
            let learning = groups.iter().map(|group| {
                let first = group.first().map(|question| question.hash());
                self.learn((identity.user_id, first), || self.decide(identity, group))
            });
            let mut learned = try_join_all(learning).await?.into_iter().flatten();
            // What was known at first may have ended while the rest was asked for.
            if groups.is_empty() || self.memory.stands(&asked) {
                let decisions = known.into_iter().map(|known| known.or_else(|| learned.next()));
                return decisions.collect::<Option<_>>().ok_or_else(no_decision);
            }
        }
        Err(changing_too_fast())
    }

    /// Learns whether somebody may do each of these, which one request can hold: one decision for each, in their order.
    pub(super) async fn decide(
        &self,
        identity: &Identity,
        questions: &[&Question],
    ) -> Result<Vec<Decision>, GatewayError> {
        let of_all = [Rest::user(identity.user_id), home_of(identity)];
        let rests_of = |question: &&Question| -> Vec<Rest> {
            of_all.iter().cloned().chain(question.targets().iter().map(Rest::workspace)).collect()
        };
        let of_each: Vec<Vec<Rest>> = questions.iter().map(rests_of).collect();
        let rests: HashSet<&Rest> = of_each.iter().flatten().collect();
        for _ in 0..TRIES {
            let now_ms = self.clock.monotonic_ms();
            let asked: Vec<Asked> = of_each.iter().map(|rests| self.memory.asking(rests)).collect();
            let floors = self.memory.floors(rests.iter().copied());
            let decisions = self.ask(identity.user_id, questions, &floors).await?;
            if self.memory.behind(&floors, rests.iter().copied()) {
                continue;
            }
            let decided = questions.iter().zip(decisions).zip(asked);
            let kept = decided.map(|((question, decision), asked)| {
                self.remember(identity, question, decision, asked, now_ms)
            });
            if let Some(decisions) = kept.collect() {
                return Ok(decisions);
            }
        }
        Err(changing_too_fast())
    }

    /// Asks the service.
    async fn ask(
        &self,
        user: UserId,
        questions: &[&Question],
        floors: &Floors,
    ) -> Result<Vec<Decision>, GatewayError> {
        let about = IamRequest { user_id: user.to_string().into(), ..IamRequest::default() };
        let (operation, request) = match questions {
            [question] => {
                let request = IamRequest {
                    capability: question.capability().into(),
                    resource_json: question.resource_json().into(),
                    parameters_json: question.parameters_json().into(),
                    ..about
                };
                (OperationName::Authorise, request)
            }
            many => {
                let checks: Vec<String> = many.iter().map(|question| question.as_check()).collect();
                let request =
                    IamRequest { authorise_checks: format!("[{}]", checks.join(",")).into(), ..about };
                (OperationName::AuthoriseMany, request)
            }
        };
        let response = match self.bus.ask(operation, request, floors, self.setting.deadline).await {
            Ok(response) => response,
            Err(error) if error.kind() == Some(ErrorKind::InvalidArgument) => {
                return Err(GatewayError::Invalid(error.to_string()));
            }
            Err(error) => return Err(unavailable(&error)),
        };
        let decisions = match operation {
            OperationName::Authorise => reply::required("decision_allow", response.decision_allow)
                .map(|allow| vec![Decision { allow, ttl: response.decision_ttl_seconds }]),
            _ => decisions(&response.decisions_json, questions.len()),
        };
        decisions.map_err(|error| unavailable(&error))
    }

    /// Remembers a decision, unless it was overtaken: then there is none.
    fn remember(
        &self,
        identity: &Identity,
        question: &Question,
        decision: Decision,
        asked: Asked,
        now_ms: i64,
    ) -> Option<Decision> {
        let Decision { allow, ttl } = decision;
        let ruling = match allow {
            true => Ruling::Allow(Uses::none_yet(Matter::of(identity, question))),
            false => Ruling::Deny,
        };
        let until_ms = self.until_ms(now_ms, i64::from(ttl) * 1_000);
        let kept = self.memory.keep(asked, ruling, until_ms)?;
        if question.is_long() {
            return Some(Decision { allow, ttl: 0 });
        }
        let told = |matter: &Matter, count| self.rulings.used(matter, count);
        self.memory.put_decision((identity.user_id, question.hash()), kept, now_ms, told);
        Some(Decision { allow, ttl: seconds(until_ms - self.clock.monotonic_ms()) })
    }
}

/// Questions as they go together in one request: no more than it holds, and about no more records than there may be
/// versions with it.
pub(super) fn groups<'q>(questions: &[&'q Question]) -> Vec<Vec<&'q Question>> {
    let mut groups: Vec<Vec<&Question>> = Vec::new();
    let (mut targets, mut bytes) = (HashSet::new(), 0);
    for question in questions {
        let more = question.targets().iter().filter(|target| !targets.contains(target)).count();
        let room = groups.last().is_some_and(|group| group.len() < MAX_CHECKS)
            && targets.len() + more + OF_ALL <= MAX_FLOORS
            && bytes + question.len() <= MAX_PAYLOAD / 2;
        match groups.last_mut().filter(|_| room) {
            Some(group) => group.push(question),
            None => {
                groups.push(vec![question]);
                targets.clear();
                bytes = 0;
            }
        }
        targets.extend(question.targets());
        bytes += question.len();
    }
    groups
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

/// Never: there are as many decisions as questions, which is held where they are read.
pub(super) fn no_decision() -> GatewayError {
    GatewayError::Unavailable("a decision is missing".to_owned())
}

fn changing_too_fast() -> GatewayError {
    GatewayError::Unavailable("it changes faster than it can be asked about".to_owned())
}
