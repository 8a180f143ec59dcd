//! Files of the operator: the policy and the configuration. Either it stands, or every fault is named; and a policy
//! that stands grants what its text says.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::Path;

use iam_schema::decisions::capability::{USERS_ADMIN, VOCABULARY};
use iam_svc::config::{Arguments, Config, Fault};
use iam_svc::domain::policy::{RoleName, Scope};
use tempfile::TempDir;
use toml::{Table, Value};

use super::assert_silent;

/// The most bytes of a file that is tried: what makes a file slow to read is its form, and that fits.
const LONGEST: usize = 64 * 1024;

/// Writes a file and reads the settings with these arguments, where `FILE` stands for it.
fn read(text: &[u8], arguments: &[&str]) -> Option<Result<Config, Vec<Fault>>> {
    thread_local! {
        static DIR: OnceCell<TempDir> = const { OnceCell::new() };
    }
    if text.len() > LONGEST {
        return None;
    }
    DIR.with(|dir| {
        let path = dir.get_or_init(|| TempDir::new().expect("a directory")).path().join("file");
        std::fs::write(&path, text).expect("written");
        let path = path.to_str().expect("a path");
        let words =
            ["iam-svc"].iter().chain(arguments).map(|word| OsString::from(word.replace("FILE", path)));
        let arguments = Arguments::parse(words).expect("arguments");
        Some(Config::read(&arguments, &|_| None))
    })
}

/// Faults name their setting and say what is wrong, in a line each.
fn assert_told(faults: &[Fault]) {
    assert!(!faults.is_empty());
    for fault in faults {
        let text = fault.to_string();
        assert!(!fault.rule.is_empty() && !fault.rule.contains('\n'), "{text}");
        // The name of a setting that there is not is shown, and may be anything.
        if fault.rule != "no such setting" {
            assert_silent(&text);
        }
    }
}

/// Any bytes as a settings file.
pub fn configuration(data: &[u8]) {
    let arguments = ["--config", "FILE", "--bootstrap-mode", "bootstrap"];
    let Some(read) = read(data, &arguments) else { return };
    match read {
        Ok(config) => {
            let file: Table = toml::from_str(std::str::from_utf8(data).expect("UTF-8")).expect("TOML");
            let settings = &config.settings;
            let within = |n: i64, least: i64| (least..=366 * 86_400).contains(&n);
            assert!(within(settings.token_lifetime_s, 1) && within(settings.grace_period_s, 3_600));
            assert!(settings.grace_period_s >= settings.token_lifetime_s);
            assert!(settings.allow_ttl_s <= 3_600 && settings.deny_ttl_s <= 3_600);
            assert!(!settings.issuer.is_empty() && !settings.audience.is_empty());
            assert!((1..=64).contains(&config.front_threads) && (1..=256).contains(&config.hash_threads));
            assert!(!config.nats.urls.is_empty() && !config.policy.root_roles().is_empty());
            // What was given is what counts.
            if let Some(issuer) = file.get("issuer").and_then(Value::as_str).filter(|text| !text.is_empty()) {
                assert_eq!(settings.issuer, issuer);
            }
            if let Some(dir) = file.get("data-dir").and_then(Value::as_str).filter(|text| !text.is_empty()) {
                assert_eq!(config.data_dir, Path::new(dir));
            }
        }
        Err(faults) => assert_told(&faults),
    }
}

/// Any bytes as a policy file.
pub fn policy(data: &[u8]) {
    let arguments = ["--policy-file", "FILE", "--bootstrap-mode", "bootstrap"];
    let Some(read) = read(data, &arguments) else { return };
    let policy = match read {
        Ok(config) => config.policy,
        // A policy has no secrets, and the names in it are shown; what is no policy is another file by mistake.
        Err(_) if std::str::from_utf8(data).is_ok_and(|text| toml::from_str::<Table>(text).is_ok()) => return,
        Err(faults) => return assert_told(&faults),
    };
    let file: Table = toml::from_str(std::str::from_utf8(data).expect("UTF-8")).expect("TOML");
    let written = file.get("roles").and_then(Value::as_table).cloned().unwrap_or_default();
    let texts = |role: &Value, key: &str| -> BTreeSet<String> {
        let list = role.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
        list.iter().map(|text| text.as_str().expect("a text").to_owned()).collect()
    };
    // What each role holds, found by adding what is included until nothing is added any more.
    let mut held: BTreeMap<&str, BTreeSet<String>> =
        written.iter().map(|(name, role)| (name.as_str(), texts(role, "capabilities"))).collect();
    loop {
        let mut grown = held.clone();
        for (name, role) in &written {
            for included in texts(role, "includes") {
                let more = held.get(included.as_str()).expect("a role that is there").clone();
                grown.get_mut(name.as_str()).expect("a role").extend(more);
            }
        }
        if grown == held {
            break;
        }
        held = grown;
    }
    let added: BTreeSet<String> = match file.get("capabilities").and_then(Value::as_array) {
        Some(list) => list.iter().map(|text| text.as_str().expect("a text").to_owned()).collect(),
        None => BTreeSet::new(),
    };
    let vocabulary: BTreeSet<&str> =
        VOCABULARY.iter().copied().chain(added.iter().map(String::as_str)).collect();
    let mut roots = 0;
    for (name, capabilities) in &held {
        let role: RoleName = name.parse().expect("a role name");
        let scope = match written[*name].get("scope").and_then(Value::as_str).expect("a scope") {
            "*" => Scope::Everywhere,
            "assigned" => Scope::Assigned,
            other => panic!("scope {other}"),
        };
        assert!(capabilities.iter().all(|capability| vocabulary.contains(capability.as_str())));
        for name in &vocabulary {
            let capability = policy.capability(name).expect("a capability of the vocabulary");
            let expected = capabilities.contains(*name).then_some(scope);
            assert_eq!(policy.role_grants(&role, capability), expected, "{role} {name}");
        }
        roots += usize::from(scope == Scope::Everywhere && capabilities.contains(USERS_ADMIN));
    }
    assert!(roots > 0 && policy.root_roles().len() == roots);
    assert_eq!(policy.roles().count(), held.len());
}
