//! What of a caller's text is shown: in audit events, in logs, and in words that say what was wrong with it.
//!
//! Callers mistake one field for another, so that any text may be a secret. One that has the form of a key or a
//! token is told from other texts by that form, and cut. A password has none: it is only ever in a field of its
//! own, or, by the commonest of slips, where the username belongs, and the audit event of a failed login names nobody who is not there.

use std::borrow::Cow;

/// How much of a text that a caller sent is shown, in bytes.
const MAX_TEXT: usize = 256;
/// The longest request id in a log, in bytes.
const MAX_REQUEST_ID: usize = 128;
/// What of a key may be known of it: the prefix that records show. Source: protocol section 5.
const KEY_SHOWN: usize = 7;
/// What begins like a key or token and is shorter than this is none, nor enough of one to be of use.
const SHORTEST: usize = 24;

/// What of a caller's text goes into an event or a message: its beginning, without control characters, keys and tokens.
pub fn clipped(text: &str) -> String {
    let masked = masked(text);
    let end = (0..=masked.len().min(MAX_TEXT)).rev().find(|end| masked.is_char_boundary(*end)).unwrap_or(0);
    masked.get(..end).unwrap_or_default().chars().filter(|c| !c.is_control()).collect()
}

/// A text as it may go into an event, borrowed where it may do so as it is.
pub fn plain(text: &str) -> Cow<'_, str> {
    if text.len() <= MAX_TEXT && text.bytes().all(|b| b.is_ascii_graphic()) && !suspicious(text) {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(clipped(text))
    }
}

/// A request id as a log may hold it: the caller's own text, if it is short and plain.
pub fn loggable(request_id: &str) -> &str {
    let plain = request_id.len() <= MAX_REQUEST_ID && request_id.bytes().all(|b| b.is_ascii_graphic());
    if plain && !suspicious(request_id) { request_id } else { "(odd)" }
}

/// Whether there may be a key or a token in a text.
fn suspicious(text: &str) -> bool {
    text.len() >= SHORTEST && (text.contains("tg_") || text.contains("eyJ"))
}

/// A text without what has the form of an API key or of a JWT in it, whole or the beginning of one.
fn masked(text: &str) -> Cow<'_, str> {
    if !suspicious(text) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let in_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        let (word, after) = rest.split_at(rest.find(|c| !in_word(c)).unwrap_or(rest.len()));
        let secret = ["tg_", "eyJ"].iter().filter_map(|start| word.find(start)).min();
        match secret.and_then(|at| word.split_at_checked(at)) {
            Some((before, secret)) if secret.len() >= SHORTEST => {
                shown.push_str(before);
                let known = if secret.starts_with("tg_") { KEY_SHOWN } else { 0 };
                shown.push_str(secret.get(..known).unwrap_or_default());
                shown.push('…');
            }
            _ => shown.push_str(word),
        }
        let next = after.chars().next().map_or(0, char::len_utf8);
        let (between, after) = after.split_at_checked(next).unwrap_or((after, ""));
        shown.push_str(between);
        rest = after;
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "tg_m3rq-BWbvXLG_YKerqucuPbujtpkMjha";
    const TOKEN: &str = "eyJhbGciOiJFZERTQSJ9.eyJpc3MiOiJpYW0ifQ.c2lnbmF0dXJl";

    #[test]
    fn keys_and_tokens_are_cut_wherever_they_stand() {
        for (text, shown) in [
            (KEY.to_owned(), "tg_m3rq…".to_owned()),
            (TOKEN.to_owned(), "…".to_owned()),
            (format!("Bearer {TOKEN}"), "Bearer …".to_owned()),
            (format!("x{KEY}"), "xtg_m3rq…".to_owned()),
            (
                format!(r#"{{"workspace":"{KEY}","b":"{TOKEN}"}}"#),
                r#"{"workspace":"tg_m3rq…","b":"…"}"#.to_owned(),
            ),
            (format!("ä {KEY}\u{1F680}{KEY}"), "ä tg_m3rq…\u{1F680}tg_m3rq…".to_owned()),
            // The beginning of a key alone, as where a text ends too early.
            (KEY.get(..30).unwrap_or_default().to_owned(), "tg_m3rq…".to_owned()),
            // Nothing is left of one that would be cut in half by the bound.
            (
                format!("{} {KEY}", "x".repeat(MAX_TEXT - 20)),
                format!("{} tg_m3rq…", "x".repeat(MAX_TEXT - 20)),
            ),
            (
                "a tg_short one, eyJ and an ordinary sentence".to_owned(),
                "a tg_short one, eyJ and an ordinary sentence".to_owned(),
            ),
        ] {
            assert_eq!(clipped(&text), shown);
            assert_eq!(plain(&text), shown);
        }
        assert_eq!(
            (loggable(KEY), loggable(TOKEN), loggable("a b"), loggable("r-1")),
            ("(odd)", "(odd)", "(odd)", "r-1")
        );
        let id = "01a0ce87-ea1a-7bb6-ae10-295948688e1d";
        assert_eq!((loggable(id), plain(id)), (id, Cow::Borrowed(id)));
    }

    #[test]
    fn text_is_clipped_at_a_character_and_loses_its_control_characters() {
        for shown in [clipped, |text: &str| plain(text).into_owned()] {
            assert_eq!(shown("a\u{0}b\r\nc\u{85}"), "abc");
            assert_eq!(shown(&"a".repeat(MAX_TEXT + 1)).len(), MAX_TEXT);
            assert_eq!(shown(&"ä".repeat(MAX_TEXT)).len(), MAX_TEXT);
            assert_eq!(shown(&format!("x{}", "ä".repeat(MAX_TEXT))).len(), MAX_TEXT - 1);
        }
    }
}
