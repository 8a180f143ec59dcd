//! Pages: how long they are, and where the next begins.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use iam_schema::OperationName;
use iam_schema::subject::MAX_PAYLOAD;

use crate::error::OpError;

/// The page size when none is asked for. Source: protocol section 3, lists.
const DEFAULT_SIZE: u32 = 100;
/// The largest page size.
const MAX_SIZE: u32 = 1000;
/// What one reply may hold of records, in bytes: the bound of the wire less room for the envelope.
const ROOM: usize = MAX_PAYLOAD - 4096;

/// Where a page begins: opaque to callers, bound to the list it was made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageToken(pub String);

/// A request for a page, before the token is read.
#[derive(Debug, Clone, Default)]
pub struct PageRequest {
    pub size: u32,
    pub token: String,
}

impl PageRequest {
    /// The number of records asked for.
    ///
    /// # Errors
    /// `Invalid`, over 1,000.
    pub fn limit(&self) -> Result<usize, OpError> {
        match self.size {
            0 => Ok(DEFAULT_SIZE as usize),
            size if size <= MAX_SIZE => Ok(size as usize),
            _ => Err(OpError::invalid("page_size", "must be 1 to 1000")),
        }
    }

    /// The record after which the page begins.
    ///
    /// # Errors
    /// `Invalid`, when the token is not one of this list's.
    pub fn after<C: std::str::FromStr>(
        &self,
        list: OperationName,
        filter: &str,
    ) -> Result<Option<C>, OpError> {
        if self.token.is_empty() {
            return Ok(None);
        }
        let bad = || OpError::invalid("page_token", "is not a token of this list");
        let bytes = URL_SAFE_NO_PAD.decode(&self.token).map_err(|_| bad())?;
        let text = String::from_utf8(bytes).map_err(|_| bad())?;
        let rest = text.strip_prefix(&preamble(list, filter)).ok_or_else(bad)?;
        rest.parse().map(Some).map_err(|_| bad())
    }
}

fn preamble(list: OperationName, filter: &str) -> String {
    format!("{list}\n{filter}\n")
}

/// The token of the page that begins after `cursor`.
pub fn token(list: OperationName, filter: &str, cursor: &impl ToString) -> PageToken {
    let text = format!("{}{}", preamble(list, filter), cursor.to_string());
    PageToken(URL_SAFE_NO_PAD.encode(text))
}

/// Cuts a page to what fits a reply: how many of these records, with the texts of each.
///
/// Every byte of text is counted twice, since JSON may escape it, with an allowance for ids, times and names.
pub fn fitting<'t, I>(records: impl IntoIterator<Item = I>) -> usize
where
    I: IntoIterator<Item = &'t str>,
{
    const ALLOWANCE: usize = 400;
    let mut room = ROOM;
    let mut count = 0;
    for record in records {
        let size = ALLOWANCE + record.into_iter().map(|text| 2 * text.len() + 8).sum::<usize>();
        // A page of none would never end; no single record comes near the bound.
        if size > room && count > 0 {
            break;
        }
        room = room.saturating_sub(size);
        count += 1;
    }
    count
}

#[cfg(test)]
mod tests {
    use iam_schema::UserId;

    use super::*;

    fn request(token: &str) -> PageRequest {
        PageRequest { size: 0, token: token.to_owned() }
    }

    #[test]
    fn token_is_bound_to_its_list_and_filter() {
        let id: UserId = "01a0ce87-ea1a-7bb6-ae10-295948688e1d".parse().unwrap();
        let PageToken(text) = token(OperationName::ListUsers, "acme", &id);
        let read = |list, filter, text: &str| request(text).after::<UserId>(list, filter);
        assert_eq!(read(OperationName::ListUsers, "acme", &text).unwrap(), Some(id));
        assert!(read(OperationName::ListUsers, "", &text).is_err());
        assert!(read(OperationName::ListApiKeys, "acme", &text).is_err());
        for bad in ["x", "####", &text[1..], &format!("{text}A")] {
            assert!(read(OperationName::ListUsers, "acme", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn page_is_cut_to_fit_and_never_empty() {
        let long = "x".repeat(1024);
        assert_eq!(fitting((0..1000).map(|_| [""])), 632);
        assert!(fitting((0..1000).map(|_| [long.as_str(), long.as_str()])) < 60);
        let huge = "x".repeat(MAX_PAYLOAD);
        assert_eq!(fitting([[huge.as_str()]]), 1);
        assert_eq!(fitting(Vec::<[&str; 0]>::new()), 0);
    }
}
