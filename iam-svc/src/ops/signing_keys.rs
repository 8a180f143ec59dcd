//! Signing keys: shown, rotated, retired.

use iam_schema::KeyKid;
use iam_schema::changes::ChangeKind;
use iam_schema::decisions::capability;

use super::{Call, Done, GONE};
use crate::crypto::seal::{self, Kek};
use crate::crypto::tokens;
use crate::ctx::Ctx;
use crate::domain::key_ring::{KeyRing, KeyState, MAX_KEYS, RingError};
use crate::error::{Noun, OpError};
use crate::store::{ReplaceKeyRing, StoreError};

/// The public key that signs now, in PEM. It never creates one.
///
/// # Errors
/// `NotFound` before the seeding.
pub async fn get_signing_key_public(ctx: &Ctx) -> Result<Done, OpError> {
    let ring = load(ctx).await?;
    let active = ring.active().ok_or(OpError::NotFound(Noun::SigningKey))?;
    Ok(Done::PublicKey(tokens::public_pem(active)))
}

/// Every key that verifies or is about to, as an RFC 7517 set. It never creates one.
///
/// # Errors
/// `NotFound` before the seeding.
pub async fn get_jwks(ctx: &Ctx, call: &Call) -> Result<Done, OpError> {
    Ok(Done::Jwks(tokens::jwks_json(&load(ctx).await?, call.now)))
}

async fn load(ctx: &Ctx) -> Result<KeyRing, OpError> {
    ctx.store.key_ring().await?.ok_or(OpError::NotFound(Noun::SigningKey))
}

/// The published key signs from now; the old one verifies for the grace period.
///
/// # Errors
/// `NotPermitted`; `Conflict` when the ring is full or another change won.
pub async fn rotate_signing_key(ctx: &Ctx, call: &mut Call) -> Result<Done, OpError> {
    call.caller.require_everywhere(&ctx.policy, capability::IAM_ADMIN)?;
    let ring = load(ctx).await?;
    let fresh = seal::fresh_key(&ctx.entropy, &ctx.kek).map_err(|e| OpError::Internal(e.to_string()))?;
    let grace_until = call.now.plus_secs(ctx.settings.grace_period_s);
    let to = match ring.rotated(fresh, grace_until, call.now) {
        Ok(to) => to,
        Err(RingError::Full) => {
            tracing::warn!(most = MAX_KEYS, "the key ring is full: wait for a grace period to end");
            return Err(OpError::Conflict);
        }
        Err(RingError::UnknownKid) => return Err(OpError::NotFound(Noun::SigningKey)),
    };
    replace(ctx, call, &ring, &to).await
}

/// Ends a key that leaked: it stops verifying at once. If it was signing, the published one takes over.
///
/// # Errors
/// `NotPermitted`, `NotFound`; `Conflict` when another change won.
pub async fn retire_signing_key(ctx: &Ctx, call: &mut Call, kid: KeyKid) -> Result<Done, OpError> {
    call.caller.require_everywhere(&ctx.policy, capability::IAM_ADMIN)?;
    let ring = load(ctx).await?;
    let fresh = seal::fresh_key(&ctx.entropy, &ctx.kek).map_err(|e| OpError::Internal(e.to_string()))?;
    let to = match ring.without(&kid, fresh, call.now) {
        Ok(to) => to,
        Err(RingError::UnknownKid) => return Err(OpError::NotFound(Noun::SigningKey)),
        Err(RingError::Full) => return Err(OpError::Conflict),
    };
    replace(ctx, call, &ring, &to).await
}

/// Writes the new ring, and notes every key that came, went or changed its place.
async fn replace(ctx: &Ctx, call: &mut Call, from: &KeyRing, to: &KeyRing) -> Result<Done, OpError> {
    let mut changes = Vec::new();
    for key in &to.keys {
        if !from.keys.contains(key) {
            changes.push((key.kid.clone(), 1));
        }
    }
    for key in &from.keys {
        if !to.keys.iter().any(|kept| kept.kid == key.kid) {
            changes.push((key.kid.clone(), GONE));
        }
    }
    let answer = ctx.store.replace_key_ring(to).await;
    let unknown = answer.as_ref().is_err_and(StoreError::outcome_unknown);
    for (kid, version) in &changes {
        match answer {
            // Of what may not have happened, only the version before is known.
            Err(_) if unknown => call.unsure(ChangeKind::SigningKey, kid, 1),
            Ok(ReplaceKeyRing::Replaced) => call.changed(ChangeKind::SigningKey, kid, *version),
            Ok(ReplaceKeyRing::LostRace) | Err(_) => {}
        }
    }
    match answer? {
        ReplaceKeyRing::Replaced => Ok(Done::Nothing),
        ReplaceKeyRing::LostRace => Err(OpError::Conflict),
    }
}

/// Why the keys at rest cannot be used.
#[derive(Debug)]
pub enum RingFault {
    /// A key does not open: the wrong key-encryption key, or a damaged ring.
    WrongKek(String),
    Store(StoreError),
}

/// Whether the keys at rest open with the key-encryption key; before the seeding there are none.
///
/// # Errors
/// As [`RingFault`] has them.
pub async fn check_ring(ctx: &Ctx) -> Result<(), RingFault> {
    let Some(ring) = ctx.store.key_ring().await.map_err(RingFault::Store)? else { return Ok(()) };
    check_kek(&ctx.kek, &ring)
}

/// Whether the keys of a ring that sign, or are about to, open with a key-encryption key.
///
/// # Errors
/// `WrongKek`.
pub fn check_kek(kek: &Kek, ring: &KeyRing) -> Result<(), RingFault> {
    let signs = |state| matches!(state, KeyState::Active | KeyState::Next);
    for key in ring.keys.iter().filter(|key| signs(key.state)) {
        tokens::Signer::open(kek, key).map_err(|_| {
            RingFault::WrongKek(format!("signing key {} does not open with this key-encryption key", key.kid))
        })?;
    }
    Ok(())
}
