use iam_svc::domain::users::Username;
use serde::Deserialize;

use super::{load, report};

#[derive(Deserialize)]
struct File {
    accept_names: Vec<Accept>,
    collide: Vec<Pair>,
    differ: Vec<Pair>,
    refuse_names: Vec<Refuse>,
}

#[derive(Deserialize)]
struct Accept {
    name: String,
    claim: String,
}

#[derive(Deserialize)]
struct Pair {
    a: String,
    b: String,
    claim: Option<String>,
}

#[derive(Deserialize)]
struct Refuse {
    name: String,
    reason: String,
}

/// What is claimed for a name, or why it is none.
fn claim(name: &str) -> Result<String, &'static str> {
    name.parse::<Username>().map(|name| name.key().as_str().to_owned())
}

#[test]
fn usernames_are_accepted_and_claimed_as_the_vectors_say() {
    let file: File = load("usernames");
    let mut failures = Vec::new();
    for row in &file.accept_names {
        let shown = row.name.parse::<Username>().map(|name| name.to_string());
        if claim(&row.name).as_ref() != Ok(&row.claim) || shown.as_ref() != Ok(&row.name) {
            failures.push(format!("{:?}: {:?}, not {:?}", row.name, claim(&row.name), row.claim));
        }
    }
    for row in &file.collide {
        if claim(&row.a).ok() != row.claim || claim(&row.b).ok() != row.claim {
            failures.push(format!("{:?} and {:?}: {:?}, {:?}", row.a, row.b, claim(&row.a), claim(&row.b)));
        }
    }
    for row in &file.differ {
        if claim(&row.a).is_err() || claim(&row.b).is_err() || claim(&row.a) == claim(&row.b) {
            failures.push(format!("{:?} and {:?}: {:?}, {:?}", row.a, row.b, claim(&row.a), claim(&row.b)));
        }
    }
    for row in &file.refuse_names {
        if let Ok(claim) = claim(&row.name) {
            failures.push(format!("{:?} ({}) claims {claim:?}", row.name, row.reason));
        }
    }
    let rows = file.accept_names.len() + file.collide.len() + file.differ.len() + file.refuse_names.len();
    report("usernames", rows, failures);
}
