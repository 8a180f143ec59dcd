//! `iam-svc migrate-store` as it is run: killed half-way, run again, refused; and what serves afterwards.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use iam_schema::{IamRequest, OperationName};
use iam_svc::crypto::seal::{self, Kek};
use iam_svc::entropy::Entropy;
use iam_svc::store::cassandra::Setting;
use iam_svc::store::embedded::FILE;
use iam_svc::store::transfer::Transfer;
use iam_tests::campaign;
use iam_tests::cassandra::{self, Keyspace};
use iam_tests::deployment::{Deployment, nats_url, program};
use iam_tests::facts::Facts;
use iam_tests::sample;
use tempfile::TempDir;

use super::{SEVERAL_PAGES, populate};

const OUT: [&str; 4] = ["--from", "embedded", "--to", "cassandra"];
const BACK: [&str; 4] = ["--from", "cassandra", "--to", "embedded"];

/// The arguments that name a cluster.
fn cluster(setting: &Setting) -> Vec<String> {
    let hosts = setting.hosts.join(",");
    let arguments = ["--cassandra-hosts", &hosts, "--cassandra-keyspace", &setting.keyspace];
    arguments.map(str::to_owned).to_vec()
}

/// The program with these words, on this directory.
fn iam_svc(words: &[&str], data_dir: &Path, more: &[String]) -> Command {
    let mut command = Command::new(program("iam-svc"));
    command.args(words).arg("--data-dir").arg(data_dir).args(more);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn migrate(way: [&str; 4], data_dir: &Path, more: &[String]) -> Command {
    iam_svc(&[&["migrate-store"][..], &way].concat(), data_dir, more)
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn refused(mut command: Command, code: i32, says: &str) {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
    assert!(stderr(&output).contains(says), "{says}: {}", stderr(&output));
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// Runs to the end; what the table says of each kind, where both sides must agree.
fn finished(mut command: Command) -> BTreeMap<String, (u64, String)> {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    let mut sides: BTreeMap<String, Vec<(u64, String)>> = BTreeMap::new();
    for line in text.lines().skip(1) {
        let [kind, _, count, sum] = line.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{line}") };
        sides.entry(kind.to_owned()).or_default().push((count.parse().unwrap(), sum.to_owned()));
    }
    let agreed = sides.into_iter().map(|(kind, sides)| match &sides[..] {
        [source, target] if source == target => (kind, source.clone()),
        _ => panic!("{kind}: {sides:?}"),
    });
    agreed.collect()
}

/// SIGKILL as soon as the first users are over.
fn killed(mut command: Command) {
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let copied = lines.by_ref().map(Result::unwrap).find(|line| line.contains("copied"));
    child.kill().unwrap();
    let status = child.wait().unwrap();
    println!("killed at: {copied:?}");
    assert!(copied.is_some() && status.code().is_none(), "it ended by itself: {status}");
}

/// What a service says that would serve on a store which is not done.
fn not_served(data_dir: &Path, more: &[String]) {
    let mode = ["--bootstrap-mode", "bootstrap", "--http-addr", "off", "--nats-url", "nats://127.0.0.1:1"];
    refused(iam_svc(&mode, data_dir, more), 73, "half filled");
    refused(iam_svc(&["recover-admin"], data_dir, more), 73, "half filled");
}

fn write_kek(path: PathBuf, kek: &Kek) -> PathBuf {
    fs::write(&path, format!("{}\n", kek.to_base64().expose())).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// A data directory with so many users, whose signing keys are sealed in earnest.
async fn data_dir(dir: &TempDir, users: usize) -> PathBuf {
    let data = dir.path().join("data");
    let (entropy, kek) = (Entropy::system(), Kek::generate(&Entropy::system()));
    let store = super::super::open_at(&data);
    populate(&*store, &|| seal::fresh_key(&entropy, &kek).unwrap(), users).await;
    write_kek(data.join("kek"), &kek);
    data
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_half_way_it_is_not_served_and_goes_on_when_run_again() {
    let Some(hosts) = cassandra::hosts() else { return };
    let keyspace = Keyspace::claim(&hosts).await;
    let users = campaign::rounds("IAM_TEST_MIGRATED_USERS", SEVERAL_PAGES);
    let dir = TempDir::new().unwrap();
    let data = data_dir(&dir, users).await;
    let cluster = cluster(&keyspace.setting);
    let with_kek = |words: &[&str], kek: &Path| {
        let words = words.iter().map(|word| (*word).to_owned());
        [cluster.clone(), words.collect(), vec!["--kek-file".to_owned(), kek.display().to_string()]].concat()
    };

    killed(migrate(OUT, &data, &cluster));
    not_served(&data, &with_kek(&["--store", "cassandra"], &data.join("kek")));
    let begun = Instant::now();
    let there = finished(migrate(OUT, &data, &cluster));
    println!("{users} users to the cluster in {:?}: {there:#?}", begun.elapsed());
    assert_eq!(there["users"].0, u64::try_from(users + 1).unwrap());
    assert_eq!(there["api-keys"].0, u64::try_from(2 * users + 1).unwrap());
    refused(migrate(OUT, &data, &cluster), 73, "not empty");

    let old = dir.path().join("old");
    fs::rename(&data, &old).unwrap();
    let with_kek = with_kek(&[], &old.join("kek"));
    killed(migrate(BACK, &data, &with_kek));
    not_served(&data, &[]);
    let begun = Instant::now();
    let back = finished(migrate(BACK, &data, &with_kek));
    println!("{users} users back in {:?}", begun.elapsed());
    assert_eq!(back, there);
    assert_eq!(fs::read(data.join("kek")).unwrap(), fs::read(old.join("kek")).unwrap());
    assert_eq!(fs::metadata(data.join("kek")).unwrap().permissions().mode() & 0o777, 0o600);
    super::super::open_at(&data).verify().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_key_encryption_key_is_refused_before_anything_is_written() {
    let dir = TempDir::new().unwrap();
    let data = data_dir(&dir, 2).await;
    let wrong = write_kek(dir.path().join("wrong"), &Kek::generate(&Entropy::system()));
    let given = ["--kek-file".to_owned(), wrong.display().to_string()];
    let nowhere = ["--cassandra-hosts".to_owned(), "127.0.0.1:1".to_owned()];
    refused(migrate(OUT, &data, &[given.clone(), nowhere.clone()].concat()), 78, "does not open");
    let none = dir.path().join("none");
    refused(migrate(OUT, &none, &nowhere), 73, "there is no");
    assert!(!none.exists());

    let Some(hosts) = cassandra::hosts() else { return };
    let keyspace = Keyspace::claim(&hosts).await;
    let cluster = cluster(&keyspace.setting);
    refused(migrate(OUT, &data, &[given.to_vec(), cluster.clone()].concat()), 78, "does not open");
    let store = keyspace.open(sample::root_roles()).await;
    assert!(store.is_empty().await.unwrap() && store.mark().await.unwrap().is_none());
    finished(migrate(OUT, &data, &cluster));

    let right = ["--kek-file".to_owned(), data.join("kek").display().to_string()];
    let [right, given] = [right, given].map(|given| [given.to_vec(), cluster.clone()].concat());
    let back = dir.path().join("back");
    refused(migrate(BACK, &back, &given), 78, "does not open");
    assert!(!back.exists());
    // Another key there: what it sealed is missing, and must not be made anew beside it.
    fs::create_dir(&back).unwrap();
    fs::copy(&wrong, back.join("kek")).unwrap();
    refused(migrate(BACK, &back, &right), 78, "is another key");
    assert!(!back.join(FILE).exists());
    assert_eq!(fs::read(back.join("kek")).unwrap(), fs::read(&wrong).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_served_after_the_move_and_after_the_way_back() {
    let (Some(url), Some(hosts)) = (nats_url(), cassandra::hosts()) else { return };
    let keyspace = Keyspace::claim(&hosts).await;
    let cluster = cluster(&keyspace.setting);
    let mut deployment = Deployment::start(&url, &[]).await;
    deployment.client().call(OperationName::Bootstrap, IamRequest::default()).await.unwrap();
    let mut facts = Facts::begin(deployment.client()).await;
    let data = deployment.data_dir();
    refused(migrate(OUT, &data, &cluster), 73, "in use by another process");
    assert_eq!(deployment.terminate().await, Some(0));

    let there = finished(migrate(OUT, &data, &cluster));
    let old = data.with_extension("old");
    fs::rename(&data, &old).unwrap();
    let kek = ["--kek-file".to_owned(), old.join("kek").display().to_string()];
    let on_cluster: Vec<String> =
        [vec!["--store".to_owned(), "cassandra".to_owned()], cluster.clone(), kek.to_vec()].concat();
    let on_cluster: Vec<&str> = on_cluster.iter().map(String::as_str).collect();
    deployment.start_again(&on_cluster).await;
    facts.check().await;
    facts.change().await.unwrap();
    facts.check().await;
    assert_eq!(deployment.terminate().await, Some(0));

    let back = finished(migrate(BACK, &data, &[cluster, kek.to_vec()].concat()));
    for same in ["key-ring", "seeding", "workspaces"] {
        assert_eq!(back[same], there[same], "{same}");
    }
    assert_ne!(back["users"], there["users"]);
    deployment.start_again(&[]).await;
    facts.check().await;
    facts.change().await.unwrap();
    facts.check().await;
}
