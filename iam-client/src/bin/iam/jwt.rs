//! The claims of a JWT, unverified: to tell its owner about it, never to trust it.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use iam_client::schema::{Secret, Timestamp};
use serde::Deserialize;

/// What a JWT says of itself.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Claims {
    /// The workspace that it was issued for.
    pub workspace: String,
    iat: Option<i64>,
    exp: Option<i64>,
}

impl Claims {
    /// Reads the claims; `None` of what is no JWT, such as an API key.
    pub fn of(credential: &Secret) -> Option<Self> {
        let mut parts = credential.expose().split('.');
        let (_header, claims, _signature) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        let claims = URL_SAFE_NO_PAD.decode(claims).ok()?;
        Some(serde_json::from_slice(&claims).unwrap_or_default())
    }

    /// When it was issued, by the service's clock.
    pub fn issued(&self) -> Option<Timestamp> {
        self.iat.map(seconds)
    }

    /// When it ends, by the service's clock.
    pub fn expires(&self) -> Option<Timestamp> {
        self.exp.map(seconds)
    }
}

fn seconds(s: i64) -> Timestamp {
    Timestamp::from_millis(s.saturating_mul(1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_dots_make_a_jwt() {
        let claims = URL_SAFE_NO_PAD.encode(r#"{"workspace":"acme","iat":1,"exp":2,"aud":["x"]}"#);
        let claims = Claims::of(&Secret::new(format!("h.{claims}.s"))).unwrap();
        assert_eq!(claims.workspace, "acme");
        assert_eq!((claims.issued().unwrap().as_secs(), claims.expires().unwrap().as_secs()), (1, 2));
        for other in ["tg_abc", "a.b", "a.b.c.d", "", "a.!.c"] {
            assert!(Claims::of(&Secret::new(other)).is_none(), "{other}");
        }
    }
}
