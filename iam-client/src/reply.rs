//! Fields that a reply must have. One that is missing is [`ClientError::Decode`] and named, never a default: an
//! absent decision is not a deny, and an absent key is not an empty one.

use std::str::FromStr;

use iam_schema::Secret;

use crate::error::ClientError;

const MISSING: &str = "is missing";

/// A record, bool or time that must be there.
pub(crate) fn required<T>(field: &str, value: Option<T>) -> Result<T, ClientError> {
    value.ok_or_else(|| ClientError::reply(field, MISSING))
}

/// A text that must be there.
pub(crate) fn text(field: &str, value: String) -> Result<String, ClientError> {
    if value.is_empty() { Err(ClientError::reply(field, MISSING)) } else { Ok(value) }
}

/// A secret that must be there.
pub(crate) fn secret(field: &str, value: Secret) -> Result<Secret, ClientError> {
    if value.is_empty() { Err(ClientError::reply(field, MISSING)) } else { Ok(value) }
}

/// An id that must be there and have its form.
pub(crate) fn id<T: FromStr<Err: std::fmt::Display>>(field: &str, value: &str) -> Result<T, ClientError> {
    if value.is_empty() {
        return Err(ClientError::reply(field, MISSING));
    }
    value.parse().map_err(|e: T::Err| ClientError::reply(field, e.to_string()))
}
