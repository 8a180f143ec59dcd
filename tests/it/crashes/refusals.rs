//! Starts that must be refused: by which message, with which exit code, and with the directory left as it was.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use iam_schema::subject::Plane;
use iam_tests::Deployment;
use iam_tests::damage::write_newer_schema;
use iam_tests::deployment::{nats_url, program};
use iam_tests::facts::Facts;
use tempfile::TempDir;

/// Runs the program to its end, which must come soon.
pub(super) fn run(mut command: Command) -> Output {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.expect("it starts");
    let begun = Instant::now();
    while child.try_wait().expect("a child").is_none() {
        if begun.elapsed() > Duration::from_secs(30) {
            let _ = child.kill();
            let output = child.wait_with_output().expect("a child");
            panic!("it runs on: {}", String::from_utf8_lossy(&output.stderr));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.wait_with_output().expect("a child")
}

/// What keeps a replica that starts against all expectation out of the way of other tests.
const USUAL: [&str; 8] = [
    "--bootstrap-mode",
    "bootstrap",
    "--http-addr",
    "off",
    "--audit-stream",
    "off",
    "--subject-prefix",
    "refused",
];

/// The program on a data directory.
pub(super) fn iam_svc(words: &[&str], url: &str, data: &Path) -> Command {
    let mut command = Command::new(program("iam-svc"));
    command.args(words).args(["--nats-url", url]).args(USUAL);
    command.arg("--data-dir").arg(data);
    command
}

/// Every file with its content.
fn content(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).expect("a directory");
    let files = entries.map(|entry| entry.expect("an entry").path());
    let files = files.map(|path| {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        (name, fs::read(&path).expect("a file"))
    });
    files.collect()
}

fn copied(from: &Path) -> TempDir {
    let dir = TempDir::new().expect("a directory");
    for entry in fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), dir.path().join(entry.file_name())).expect("copied");
    }
    dir
}

/// A data directory as a service leaves it behind: seeded, with sealed keys.
async fn used(url: &str) -> Deployment {
    let mut deployment = Deployment::start(url, &[]).await;
    deployment.client().bootstrap().await.expect("seeded");
    Facts::begin(deployment.client()).await;
    assert_eq!(deployment.terminate().await, Some(0));
    deployment
}

#[derive(Debug)]
struct Refusal {
    what: &'static str,
    spoil: fn(&Path),
    code: i32,
    says: &'static str,
}

const STORE: &str = "iam.redb";

fn spoil_store(dir: &Path, spoil: impl FnOnce(Vec<u8>) -> Vec<u8>) {
    let path = dir.join(STORE);
    let bytes = fs::read(&path).expect("a store");
    fs::write(&path, spoil(bytes)).expect("written");
}

const REFUSALS: &[Refusal] = &[
    Refusal { what: "empty file", spoil: |d| spoil_store(d, |_| Vec::new()), code: 65, says: "is damaged" },
    Refusal {
        what: "cut in half",
        spoil: |d| spoil_store(d, |b| b[..b.len() / 2].to_vec()),
        code: 65,
        says: "is damaged",
    },
    Refusal {
        what: "last byte missing",
        spoil: |d| spoil_store(d, |b| b[..b.len() - 1].to_vec()),
        code: 65,
        says: "is damaged",
    },
    Refusal {
        what: "a text in its place",
        spoil: |d| spoil_store(d, |_| b"not a database, but a text".to_vec()),
        code: 65,
        says: "is damaged",
    },
    Refusal { what: "zeros", spoil: |d| spoil_store(d, |b| vec![0; b.len()]), code: 65, says: "is damaged" },
    Refusal {
        what: "magic number flipped",
        spoil: |d| spoil_store(d, |b| [&[!b[0]], &b[1..]].concat()),
        code: 65,
        says: "is damaged",
    },
    Refusal {
        what: "a directory in its place",
        spoil: |d| {
            fs::remove_file(d.join(STORE)).expect("removed");
            fs::create_dir(d.join(STORE)).expect("made");
        },
        code: 73,
        says: "cannot be written",
    },
    Refusal {
        what: "newer schema",
        spoil: |d| write_newer_schema(&d.join(STORE)),
        code: 73,
        says: "has schema 2, and this version knows no newer one than 1",
    },
    Refusal {
        what: "store missing",
        spoil: |d| fs::remove_file(d.join(STORE)).expect("removed"),
        code: 73,
        says: "restore a backup of it",
    },
    Refusal {
        what: "key-encryption key missing",
        spoil: |d| fs::remove_file(d.join("kek")).expect("removed"),
        code: 78,
        says: "kek is missing; restore it",
    },
    Refusal {
        what: "another key-encryption key",
        spoil: |d| {
            let other = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n";
            fs::write(d.join("kek"), other).expect("written");
        },
        code: 78,
        says: "--kek-file",
    },
    Refusal {
        what: "key-encryption key of garbage",
        spoil: |d| fs::write(d.join("kek"), "garbage").expect("written"),
        code: 78,
        says: "kek",
    },
    Refusal {
        what: "key-encryption key open to others",
        spoil: |d| {
            fs::set_permissions(d.join("kek"), fs::Permissions::from_mode(0o644)).expect("opened");
        },
        code: 78,
        says: "kek",
    },
];

fn first_line(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let line = stderr.lines().rfind(|line| line.starts_with("iam-svc: "));
    line.map_or_else(|| stderr.to_string(), str::to_owned)
}

#[tokio::test(flavor = "multi_thread")]
async fn spoiled_directory_is_refused_by_its_cause_and_left_as_it_was() {
    let Some(url) = nats_url() else { return };
    let deployment = used(&url).await;
    for Refusal { what, spoil, code, says } in REFUSALS {
        let dir = copied(&deployment.data_dir());
        spoil(dir.path());
        // Of a store that can be read, opening alone changes bytes; one that is damaged must stay for whoever
        // mends it.
        let before = (*code == 65).then(|| content(dir.path()));
        for words in [&[][..], &["recover-admin"]] {
            let output = run(iam_svc(words, &url, dir.path()));
            let line = first_line(&output);
            println!("{what} | {line} | {:?}", output.status.code());
            assert_eq!(output.status.code(), Some(*code), "{what}: {line}");
            assert!(line.contains(says), "{what}: {line}");
            if let Some(before) = &before {
                assert!(content(dir.path()) == *before, "{what}: the directory was changed");
            }
        }
    }
}

/// A first start makes the store, then the key: what it leaves behind in between is no deployment that lost its key.
#[tokio::test(flavor = "multi_thread")]
async fn start_that_ended_before_the_key_was_made_is_told_from_a_lost_key() {
    let Some(url) = nats_url() else { return };
    let mut deployment = Deployment::start(&url, &[]).await;
    assert_eq!(deployment.terminate().await, Some(0));
    let data = deployment.data_dir();
    fs::remove_file(data.join("kek")).expect("a key was made");
    let checked = run(iam_svc(&["check"], &url, &data));
    assert_eq!(checked.status.code(), Some(0), "{}", first_line(&checked));
    let recovered = run(iam_svc(&["recover-admin"], &url, &data));
    assert_eq!(recovered.status.code(), Some(78));
    assert!(first_line(&recovered).contains("no deployment yet: bootstrap it"), "{}", first_line(&recovered));
    assert!(!data.join("kek").exists(), "neither of them makes a key");
    deployment.start_again(&[]).await;
    deployment.client().bootstrap().await.expect("the start goes on where it ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn flipped_byte_is_refused_or_harmless() {
    let Some(url) = nats_url() else { return };
    let deployment = used(&url).await;
    let whole = fs::read(deployment.data_dir().join(STORE)).expect("a store");
    // Where something is written, at about equal distances.
    let places: Vec<usize> = (0..whole.len()).filter(|at| whole[*at] != 0).collect();
    let (mut refused, mut harmless) = (0, 0);
    for at in places.iter().step_by(places.len() / 20) {
        let dir = copied(&deployment.data_dir());
        spoil_store(dir.path(), |mut bytes| {
            bytes[*at] ^= 0x10;
            bytes
        });
        let before = content(dir.path());
        let output = run(iam_svc(&["check"], &url, dir.path()));
        match output.status.code() {
            Some(65) => {
                refused += 1;
                assert!(first_line(&output).contains("is damaged"), "{}", first_line(&output));
                assert!(content(dir.path()) == before, "byte {at}");
            }
            Some(0) => harmless += 1,
            code => panic!("byte {at}: {code:?}: {}", first_line(&output)),
        }
    }
    println!("{refused} flipped bytes refused, {harmless} harmless");
    assert!(refused > 0, "none of them met anything in use");
}

#[tokio::test(flavor = "multi_thread")]
async fn second_process_on_a_directory_is_refused_and_the_first_goes_on() {
    let Some(url) = nats_url() else { return };
    let deployment = Deployment::start(&url, &[]).await;
    let mut facts = Facts::begin(deployment.client()).await;
    for words in [&[][..], &["check"], &["recover-admin"]] {
        let output = run(iam_svc(words, &url, &deployment.data_dir()));
        let line = first_line(&output);
        println!("held | {line} | {:?}", output.status.code());
        assert_eq!(output.status.code(), Some(73), "{line}");
        assert!(line.contains("is in use by another process"), "{line}");
        facts.change().await.expect("the first goes on");
    }
    facts.check().await;
    assert_eq!(deployment.client().clone().on(Plane::Service).bootstrap_status().await.ok(), Some(false));
}

/// As root nothing is read-only but a file system; a mount namespace of one's own has one.
#[tokio::test(flavor = "multi_thread")]
async fn read_only_and_full_file_systems_are_refused() {
    let Some(url) = nats_url() else { return };
    let namespaces = Command::new("unshare").args(["-rm", "true"]).stderr(Stdio::null()).status();
    if !namespaces.is_ok_and(|status| status.success()) {
        println!("not tried: no mount namespaces here");
        return;
    }
    let deployment = used(&url).await;
    let data = deployment.data_dir();
    let before = content(&data);
    let within = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["-rm", "sh", "-ec", script, "sh"]).arg(program("iam-svc")).arg(&data);
        command.args(["--nats-url", &url]).args(USUAL);
        let output = run(command);
        println!("{script} | {} | {:?}", first_line(&output), output.status.code());
        (output.status.code(), first_line(&output))
    };
    let run_on = "shift 2; exec \"$svc\" check --data-dir \"$dir\" \"$@\"";
    let serve = "shift 2; exec \"$svc\" --data-dir \"$dir\" \"$@\"";
    let names = "svc=$1; dir=$2;";
    let read_only = "mount --bind \"$dir\" \"$dir\"; mount -o remount,ro,bind \"$dir\";";
    let (code, line) = within(&format!("{names} {read_only} {run_on}"));
    assert_eq!((code, line.contains("cannot be written")), (Some(73), true), "{line}");
    // There is no room for the store, and then none for its key.
    for (size, what) in [("4k", "cannot be written"), ("16k", "cannot make")] {
        let full = format!("mount -t tmpfs -o size={size} none \"$dir\";");
        let (code, line) = within(&format!("{names} {full} {serve}"));
        assert_eq!((code, line.contains(what)), (Some(73), true), "{line}");
    }
    // A store that is there can be read on a full disk, and decided by.
    let filled = "cp \"$dir\"/* /mnt; mount -t tmpfs -o size=8m none \"$dir\"; cp /mnt/* \"$dir\"; chmod 600 \"$dir\"/*; \
                  dd if=/dev/zero of=\"$dir\"/filler bs=4k 2>/dev/null || true;";
    let (code, line) = within(&format!("{names} mount -t tmpfs none /mnt; {filled} {run_on}"));
    assert_eq!(code, Some(0), "{line}");
    assert!(content(&data) == before);
}
