//! What a token says, and what of it must be true. How one is signed and read is in `crypto`.

use iam_schema::{Timestamp, UserId, WorkspaceId};

/// How far clocks may differ, in seconds. Source: protocol section 5.
pub const LEEWAY_S: i64 = 60;
/// The `client_id` of every token of ours. Source: protocol section 5.
pub const CLIENT_ID: &str = "iam-login";
/// How long a token lives that is good for changing the password alone. Source: protocol section 5.
pub const CHANGE_PASSWORD_LIFETIME_S: i64 = 600;

/// The claims of a token.
///
/// Source: protocol section 5, RFC 7519 section 4.1, RFC 9068 section 2.2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    pub iss: String,
    pub sub: UserId,
    /// One in every token of ours; of others' lists all are kept.
    pub aud: Vec<String>,
    pub client_id: String,
    pub workspace: WorkspaceId,
    /// Seconds since the Unix epoch, as are `nbf` and `exp`; 0 to 2^53-1 where they were read.
    pub iat: i64,
    pub nbf: i64,
    pub exp: i64,
    pub jti: String,
    /// The user's token epoch when the token was issued; a token of another epoch is dead.
    pub epoch: u64,
}

/// What a token must fit.
#[derive(Debug, Clone, Copy)]
pub struct Expect<'a> {
    pub issuer: &'a str,
    pub audience: &'a str,
    pub now: Timestamp,
}

/// Why a token is refused: for log and audit, never for the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a token in compact form, or a header or claims of another form than ours.
    #[error("malformed token")]
    Malformed,
    /// An `alg` other than `EdDSA`, `none` included.
    #[error("token of another algorithm")]
    WrongAlgorithm,
    /// A `typ` other than that of an access token, or none.
    #[error("token of another type")]
    WrongType,
    /// A header member that would change how the token is to be verified.
    #[error("token header asks for what is never done")]
    ForbiddenHeader,
    /// No key of that name, or none any more; whoever holds a copy of the keys may fetch them again.
    #[error("token signed by an unknown key")]
    UnknownKid,
    #[error("token signature is wrong")]
    BadSignature,
    #[error("token of another issuer")]
    WrongIssuer,
    #[error("token for another audience")]
    WrongAudience,
    #[error("token expired")]
    Expired,
    /// Issued or beginning in the future.
    #[error("token not valid yet")]
    NotYet,
}

impl Claims {
    /// Checks issuer, audience and times. It says nothing about whether the user still may: that is the epoch.
    ///
    /// # Errors
    /// `WrongIssuer`, `WrongAudience`, `Expired` from [`LEEWAY_S`] after `exp` on, `NotYet` while `nbf` or `iat`
    /// is further ahead than that.
    pub fn check(&self, expect: &Expect<'_>) -> Result<(), TokenError> {
        if self.iss != expect.issuer {
            return Err(TokenError::WrongIssuer);
        }
        if !self.aud.iter().any(|aud| aud == expect.audience) {
            return Err(TokenError::WrongAudience);
        }
        self.check_times(expect.now)
    }

    /// Checks the times alone, for a token that passed [`Claims::check`] before.
    ///
    /// # Errors
    /// `Expired`, `NotYet`.
    pub fn check_times(&self, now: Timestamp) -> Result<(), TokenError> {
        let now_ms = now.as_millis();
        if now_ms >= millis(self.exp.saturating_add(LEEWAY_S)) {
            return Err(TokenError::Expired);
        }
        let latest_start_ms = now_ms.saturating_add(millis(LEEWAY_S));
        if millis(self.nbf) > latest_start_ms || millis(self.iat) > latest_start_ms {
            return Err(TokenError::NotYet);
        }
        Ok(())
    }

    /// When the token runs out, leeway left aside.
    pub fn expires(&self) -> Timestamp {
        Timestamp::from_millis(millis(self.exp))
    }
}

/// The audience of a token that is good for changing the password alone.
///
/// Source: protocol section 5.
pub fn change_password_audience(audience: &str) -> String {
    format!("{audience}:change-password")
}

fn millis(seconds: i64) -> i64 {
    seconds.saturating_mul(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_S: i64 = 1_790_000_000;

    fn claims() -> Claims {
        Claims {
            iss: "https://iam.test".to_owned(),
            sub: "01a0ce87-ea1a-7bb6-ae10-295948688e1d".parse().unwrap(),
            aud: vec!["iam".to_owned()],
            client_id: CLIENT_ID.to_owned(),
            workspace: "default".parse().unwrap(),
            iat: NOW_S,
            nbf: NOW_S,
            exp: NOW_S + 3600,
            jti: "1".to_owned(),
            epoch: 0,
        }
    }

    fn check(change: impl FnOnce(&mut Claims), now_ms: i64) -> Result<(), TokenError> {
        let mut claims = claims();
        change(&mut claims);
        let now = Timestamp::from_millis(now_ms);
        claims.check(&Expect { issuer: "https://iam.test", audience: "iam", now })
    }

    #[test]
    fn token_expires_exactly_a_minute_after_exp() {
        assert_eq!(check(|_| (), (NOW_S + 3660) * 1000 - 1), Ok(()));
        assert_eq!(check(|_| (), (NOW_S + 3660) * 1000), Err(TokenError::Expired));
        assert_eq!(check(|c| c.exp = (1 << 53) - 1, NOW_S * 1000), Ok(()));
        assert_eq!(check(|c| c.exp = i64::MAX, NOW_S * 1000), Ok(()));
    }

    #[test]
    fn token_from_more_than_a_minute_ahead_is_not_valid_yet() {
        for set in [|c: &mut Claims, t| c.nbf = t, |c: &mut Claims, t| c.iat = t] {
            assert_eq!(check(|c| set(c, NOW_S + 60), NOW_S * 1000), Ok(()));
            assert_eq!(check(|c| set(c, NOW_S + 60), NOW_S * 1000 - 1), Err(TokenError::NotYet));
            assert_eq!(check(|c| set(c, i64::MAX), NOW_S * 1000), Err(TokenError::NotYet));
        }
    }

    #[test]
    fn token_for_changing_the_password_is_good_for_nothing_else() {
        let limited = change_password_audience("iam");
        let now = NOW_S * 1000;
        assert_eq!(check(|c| c.aud = vec![limited.clone()], now), Err(TokenError::WrongAudience));
        assert_eq!(check(|c| c.aud = vec![], now), Err(TokenError::WrongAudience));
        assert_eq!(check(|c| c.iss.push('/'), now), Err(TokenError::WrongIssuer));
        assert_eq!(check(|c| c.aud.insert(0, "other".to_owned()), now), Ok(()));
    }
}
