use iam_schema::Timestamp;
use serde::Deserialize;

use super::{load, report};

#[derive(Deserialize)]
struct File {
    accept: Vec<Accept>,
    refuse: Vec<Refuse>,
}

#[derive(Deserialize)]
struct Accept {
    text: String,
    normalised: String,
    unix_ms: i64,
}

#[derive(Deserialize)]
struct Refuse {
    text: String,
    reason: String,
}

#[test]
fn timestamps_are_read_and_written_as_the_vectors_say() {
    let file: File = load("timestamps");
    let mut failures = Vec::new();
    for row in &file.accept {
        match row.text.parse::<Timestamp>() {
            Ok(t) if t.as_millis() == row.unix_ms && t.to_string() == row.normalised => {}
            other => failures.push(format!("{:?}: {other:?}, not {}", row.text, row.normalised)),
        }
    }
    for row in file.refuse.iter().filter(|row| !row.text.is_empty()) {
        if let Ok(t) = row.text.parse::<Timestamp>() {
            failures.push(format!("{:?} ({}) gave {t}", row.text, row.reason));
        }
    }
    report("timestamps", file.accept.len() + file.refuse.len(), failures);
}
