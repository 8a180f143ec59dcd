//! What the compiler does not check: which way imports point, what lies where, and that links lead somewhere.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// What the top level holds; anything else has strayed there.
const TOP_LEVEL: &[&str] = &[
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "deploy",
    "iam-client",
    "iam-gateway",
    "iam-schema",
    "iam-svc",
    "tests",
];

/// The largest file, in bytes; golden vectors and the lock file may be larger.
const LARGEST: u64 = 64 * 1024;

/// What each room of iam-svc may use of the others; it may always use itself. No arrow turns back.
const ROOMS: &[(&str, &[&str])] = &[
    ("bus", &["clock", "config", "ctx", "dispatch", "exit", "telemetry"]),
    ("dispatch", &["cache", "crypto", "ctx", "domain", "error", "ops"]),
    ("cache", &["ctx", "domain", "error", "store"]),
    ("ops", &["crypto", "ctx", "domain", "error", "store"]),
    ("store", &["domain"]),
    ("crypto", &["domain", "entropy"]),
    ("domain", &[]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// Whether version control leaves a path out: a build, or a run beside the sources.
fn ignored(relative: &Path) -> bool {
    let first = relative.components().next().map(|part| part.as_os_str().to_string_lossy().into_owned());
    let first = first.unwrap_or_default();
    let listed = std::fs::read_to_string(root().join(".gitignore")).unwrap_or_default();
    first == ".git"
        || listed.lines().any(|line| {
            line.strip_prefix('/') == Some(&first)
                || line.strip_prefix('*').is_some_and(|end| relative.to_string_lossy().ends_with(end))
        })
}

/// Every file below the top level or a folder of it, with its path from there.
fn files() -> Vec<PathBuf> {
    let (root, mut found) = (root(), Vec::new());
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let relative = path.strip_prefix(&root).expect("a path below").to_owned();
            if ignored(&relative) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(relative);
            }
        }
    }
    found.sort();
    found
}

fn named(ending: &str) -> impl Iterator<Item = (PathBuf, String)> {
    let ending = ending.to_owned();
    files().into_iter().filter(move |path| path.to_string_lossy().ends_with(&ending)).map(|path| {
        let text =
            std::fs::read_to_string(root().join(&path)).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        (path, text)
    })
}

fn none(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// The modules that a source uses by `crate::`, one by one or in braces.
fn used(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    for part in source.split("crate::").skip(1) {
        let name = |text: &str| {
            let text = text.trim_start();
            let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
            text[..end].to_owned()
        };
        match part.strip_prefix('{') {
            None => found.push(name(part)),
            Some(group) => {
                let mut depth = 0;
                let mut start = 0;
                for (at, c) in group.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => {
                            found.push(name(&group[start..at]));
                            break;
                        }
                        '}' => depth -= 1,
                        ',' if depth == 0 => {
                            found.push(name(&group[start..at]));
                            start = at + 1;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    found.retain(|name| !name.is_empty());
    found
}

#[test]
fn used_modules_are_found_one_by_one_and_in_braces() {
    let source =
        "use crate::ops;\nuse crate::{store::{Read, Store}, domain, error::X};\nlet x = crate::cache::Y;";
    assert_eq!(used(source), ["ops", "store", "domain", "error", "cache"]);
}

#[test]
fn imports_inside_the_service_point_one_way() {
    let mut faults = Vec::new();
    for (path, source) in named(".rs") {
        let Ok(inside) = path.strip_prefix("iam-svc/src") else { continue };
        let first = inside.components().next().expect("a file").as_os_str().to_string_lossy();
        let room = first.trim_end_matches(".rs");
        let Some((room, allowed)) = ROOMS.iter().find(|(name, _)| *name == room) else { continue };
        for module in used(&source) {
            if module != *room && !allowed.contains(&module.as_str()) {
                faults.push(format!("{}: `{room}` must not use `{module}`", path.display()));
            }
        }
        // The only other way out.
        let depth = inside.components().count();
        let root_file = depth == 1 || (depth == 2 && inside.ends_with("mod.rs"));
        if source.contains("super::super::")
            || (root_file && source.lines().any(|l| l.starts_with("use super::")))
        {
            faults.push(format!("{}: imports of another room begin with `crate::`", path.display()));
        }
    }
    none(&faults);
}

#[test]
fn every_room_that_has_rules_is_there() {
    for (room, _) in ROOMS {
        let folder = root().join("iam-svc/src").join(room);
        assert!(folder.is_dir(), "{} is gone: its rules hold nothing", folder.display());
    }
}

#[test]
fn domain_is_synchronous_and_never_serialised() {
    let mut faults = Vec::new();
    for (path, source) in named(".rs").filter(|(path, _)| path.starts_with("iam-svc/src/domain")) {
        let code = source.lines().filter(|line| !line.trim_start().starts_with("//"));
        for (word, line) in
            code.flat_map(|line| ["serde", "async ", ".await", "tokio"].map(|word| (word, line)))
        {
            if line.contains(word) {
                faults.push(format!("{}: {line}", path.display()));
            }
        }
    }
    none(&faults);
}

#[test]
fn crates_depend_one_way() {
    let mut faults = Vec::new();
    for (member, forbidden) in [
        ("iam-schema", &["iam-svc", "iam-client", "iam-gateway", "tokio", "async-nats"][..]),
        ("iam-client", &["iam-svc", "iam-gateway"]),
        ("iam-svc", &["iam-gateway"]),
        ("iam-gateway", &["iam-svc"]),
    ] {
        for (path, text) in
            named(".rs").chain(named("Cargo.toml")).filter(|(path, _)| path.starts_with(member))
        {
            let manifest = path.ends_with("Cargo.toml");
            for name in forbidden {
                let uses = if manifest {
                    text.lines().any(|line| {
                        line.starts_with(&format!("{name}.")) || line.starts_with(&format!("{name} "))
                    })
                } else {
                    text.contains(&format!("{}::", name.replace('-', "_")))
                };
                if uses {
                    faults.push(format!("{}: {member} must not use {name}", path.display()));
                }
            }
        }
    }
    none(&faults);
}

/// The targets of the links of a page, code left out.
fn links(page: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut fenced = false;
    for line in page.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        // Every second part of a line lies in back quotes.
        let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
        for part in prose.split("](").skip(1) {
            found.extend(part.split(')').next().map(str::to_owned));
        }
        if let Some((_, target)) = prose.strip_prefix('[').and_then(|rest| rest.split_once("]: ")) {
            found.push(target.trim().to_owned());
        }
    }
    found
}

#[test]
fn links_of_pages_lead_to_files_that_exist() {
    let mut faults = Vec::new();
    for (path, page) in named(".md") {
        for link in links(&page) {
            let target = link.split('#').next().unwrap_or_default();
            if target.is_empty() || link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let from = root().join(path.parent().unwrap_or(Path::new("")));
            if !from.join(target).exists() {
                faults.push(format!("{}: `{link}` leads nowhere", path.display()));
            }
        }
    }
    none(&faults);
}

#[test]
fn top_level_holds_what_it_should_and_nothing_else() {
    let mut faults = Vec::new();
    for entry in std::fs::read_dir(root()).expect("the workspace") {
        let name = entry.expect("an entry").file_name().to_string_lossy().into_owned();
        let hidden = name.starts_with('.');
        if !hidden && !ignored(Path::new(&name)) && !TOP_LEVEL.contains(&name.as_str()) {
            faults.push(format!("{name} does not belong at the top level"));
        }
    }
    none(&faults);
}

#[test]
fn no_file_is_too_large_to_read() {
    let large = files().into_iter().filter(|path| {
        let vectors = path.starts_with("tests/golden") || path.as_os_str() == "Cargo.lock";
        !vectors && root().join(path).metadata().expect("a file").len() > LARGEST
    });
    none(&large.map(|path| format!("{} is over {LARGEST} bytes", path.display())).collect::<Vec<_>>());
}

#[test]
fn sources_hold_nothing_unfinished_or_silenced() {
    // In two parts, so that this list is not found itself.
    let words = [
        ("#[ign", "ore"),
        ("#[all", "ow("),
        ("#![all", "ow("),
        ("#[should", "_panic"),
        ("to", "do!("),
        ("unimple", "mented!("),
        ("db", "g!("),
        ("fn te", "st_"),
    ]
    .map(|(a, b)| format!("{a}{b}"));
    let mut faults = Vec::new();
    for (path, source) in named(".rs") {
        for (n, line) in source.lines().enumerate() {
            if let Some(word) = words.iter().find(|word| line.contains(*word)) {
                faults.push(format!("{}:{}: {word}", path.display(), n + 1));
            }
        }
    }
    none(&faults);
}

#[test]
fn scripts_can_be_run() {
    let mut faults = Vec::new();
    for path in files() {
        let full = root().join(&path);
        let script = std::fs::read(&full).is_ok_and(|bytes| bytes.starts_with(b"#!/"));
        if script && full.metadata().expect("a file").permissions().mode() & 0o111 != 0o111 {
            faults.push(format!("{} begins with `#!` and is not executable", path.display()));
        }
    }
    none(&faults);
}

/// Faults that the model must find are kept as patches; one that no longer applies would find nothing.
#[test]
fn every_seeded_fault_still_applies() {
    let git =
        |arguments: &[&str]| std::process::Command::new("git").current_dir(root()).args(arguments).output();
    let top = git(&["rev-parse", "--show-toplevel"]).ok().filter(|output| output.status.success());
    let top = top
        .and_then(|output| PathBuf::from(String::from_utf8(output.stdout).ok()?.trim()).canonicalize().ok());
    if top.is_none() || top != root().canonicalize().ok() {
        println!(
            "SKIPPED: whether the seeded faults apply, since there is no git here or this is no repository"
        );
        return;
    }
    let patches: Vec<_> = files().into_iter().filter(|path| path.starts_with("tests/seeded")).collect();
    let patches = patches.into_iter().filter(|path| path.extension().is_some_and(|end| end == "patch"));
    let mut faults = Vec::new();
    let mut count = 0;
    for path in patches {
        count += 1;
        let checked = git(&["apply", "--check", &path.to_string_lossy()]).expect("git, which was there");
        if !checked.status.success() {
            faults.push(format!("{}: {}", path.display(), String::from_utf8_lossy(&checked.stderr)));
        }
    }
    none(&faults);
    assert!(count >= 10, "{count} seeded faults are too few");
}
