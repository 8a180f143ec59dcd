use iam_schema::Secret;
use iam_svc::crypto::passwords::{ROUNDS, Stored, Verdict, hash, verify};
use iam_svc::domain::passwords::PasswordHash;
use serde::Deserialize;

use super::{load, report};

#[derive(Deserialize)]
struct File {
    verify: Vec<Row>,
    verify_low: Vec<Row>,
    refuse_password: String,
    refuse_based_on: String,
    refuse: Vec<Refuse>,
}

#[derive(Deserialize)]
struct Row {
    name: String,
    password: String,
    stored: String,
    #[serde(default)]
    needs_rehash: bool,
    wrong_passwords: Vec<String>,
}

#[derive(Deserialize)]
struct Refuse {
    name: String,
    stored: String,
    reason: String,
}

/// Verifies without making up for rounds that are missing, which the pool's own tests are about.
fn check(password: &str, stored: &str) -> Verdict {
    verify(&Secret::new(password), Some(&PasswordHash::from_stored(stored.to_owned())), 1)
}

impl Row {
    fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        let rehash = Stored::parse(&PasswordHash::from_stored(self.stored.clone()));
        let rehash = rehash.map(|stored| stored.needs_rehash(ROUNDS));
        let verdict = check(&self.password, &self.stored);
        if verdict != (Verdict::Match { needs_rehash: false }) || rehash != Some(self.needs_rehash) {
            failures.push(format!("{}: {verdict:?}, needs a new hash: {rehash:?}", self.name));
        }
        for wrong in &self.wrong_passwords {
            let verdict = check(wrong, &self.stored);
            if verdict != Verdict::Mismatch {
                failures.push(format!("{}, wrong password {wrong:?}: {verdict:?}", self.name));
            }
        }
        failures
    }
}

#[test]
fn passwords_are_verified_as_the_vectors_say() {
    let file: File = load("pbkdf2");
    let rows: Vec<&Row> = file.verify.iter().chain(&file.verify_low).collect();
    let mut failures: Vec<String> = std::thread::scope(|scope| {
        // Twenty million rounds: on all cores.
        let threads: Vec<_> = rows.iter().map(|row| scope.spawn(|| row.failures())).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    for row in &file.refuse {
        let verdict = check(&file.refuse_password, &row.stored);
        if verdict != Verdict::Malformed {
            failures.push(format!("refuse {} ({}): {verdict:?}", row.name, row.reason));
        }
    }
    if check(&file.refuse_password, &file.refuse_based_on) != (Verdict::Match { needs_rehash: false }) {
        failures.push("what the refused rows were made of does not verify".to_owned());
    }
    report("pbkdf2", rows.len() + file.refuse.len(), failures);
}

#[test]
fn passwords_are_hashed_to_the_text_of_the_vectors() {
    let file: File = load("pbkdf2");
    let mut failures = Vec::new();
    for row in &file.verify_low {
        let mut parts = row.stored.split('$').skip(1);
        let rounds = parts.next().unwrap().parse().unwrap();
        let salt = super::unbase64(parts.next().unwrap()).try_into().unwrap();
        let text = hash(&Secret::new(row.password.as_str()), &salt, rounds);
        if text.expose() != row.stored {
            failures.push(format!("{}: {}, not {}", row.name, text.expose(), row.stored));
        }
    }
    report("pbkdf2, hashed", file.verify_low.len(), failures);
}
