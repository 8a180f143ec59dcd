//! Secrets that come by the environment: what of them others can read while the service runs.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use iam_tests::canary::{Canaries, Places};
use iam_tests::deployment::program;
use iam_tests::nats_server::NatsServer;
use rand::RngExt;
use tempfile::TempDir;

use super::{assert_clean, secret};

/// Whoever is not root; to root nothing is closed.
const NOBODY: u32 = 65_534;

/// A program run by somebody who is not root.
fn unprivileged(program: impl AsRef<std::ffi::OsStr>, as_root: bool) -> Command {
    let mut command = Command::new(program);
    if as_root {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

/// Ends a process with the test.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Of a service that was given its secrets by variables, another process of the same user reads none of them: neither
/// the variables nor the memory are open. What `ps` shows holds no secret.
#[tokio::test(flavor = "multi_thread")]
async fn secrets_of_the_environment_are_closed_to_other_processes_of_the_same_user() {
    let mut canaries = Canaries::default();
    let (nats_password, token) = (secret(), secret());
    let kek: [u8; 32] = rand::rng().random();
    let kek = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, kek);
    let given = [("IAM_NATS_PASSWORD", &nats_password), ("IAM_BOOTSTRAP_TOKEN", &token), ("IAM_KEK", &kek)];
    for (name, text) in given {
        canaries.plant(name, text);
    }
    let users = format!("authorization {{ user: tester, password: \"{nats_password}\" }}");
    let Some(server) = NatsServer::start(&users).await else { return };

    let dir = TempDir::new().expect("a directory");
    let as_root = fs::metadata(dir.path()).expect("a directory").uid() == 0;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("opened");
    let (service, data, log) = (dir.path().join("iam-svc"), dir.path().join("data"), dir.path().join("log"));
    fs::copy(program("iam-svc"), &service).expect("copied");
    fs::create_dir(&data).expect("made");
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).expect("closed");
    if as_root {
        chown(&data, Some(NOBODY), Some(NOBODY)).expect("given away");
    }
    let running = unprivileged(&service, as_root)
        .args(["--nats-url", &server.url(), "--nats-user", "tester", "--bootstrap-mode", "token"])
        .args(["--audit-stream", "off", "--http-addr", "off", "--log", "trace", "--data-dir"])
        .arg(&data)
        .envs(given)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&log).expect("a log"))
        .spawn()
        .expect("it starts");
    let mut running = Ends(running);
    let logged = || fs::read_to_string(&log).expect("a log");
    for _ in 0..600 {
        if logged().contains("iam.ready") || running.0.try_wait().expect("a child").is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(logged().contains("iam.ready"), "{}", logged());

    let read = |process: u32, name: &str| -> Output {
        let path = Path::new("/proc").join(process.to_string()).join(name);
        unprivileged("cat", as_root).arg(path).stdin(Stdio::null()).output().expect("cat")
    };
    // Any other program is an open book to its user.
    let other = unprivileged("sleep", as_root).arg("60").envs(given).spawn().expect("sleep");
    let other = Ends(other);
    let environment = read(other.0.id(), "environ");
    assert!(!canaries.search([("environ", environment.stdout.as_slice())]).found.is_empty());

    for name in ["environ", "mem", "maps", "auxv"] {
        let output = read(running.0.id(), name);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.stdout.is_empty() && said.contains("Permission denied"), "{name}: {said}");
    }
    let mut places = Places::default();
    for name in ["cmdline", "status", "comm", "limits"] {
        let output = read(running.0.id(), name);
        assert!(output.status.success(), "{name}");
        places.add(format!("process: {name}"), output.stdout);
    }
    drop(running);
    places.add("log", logged());
    assert!(places.add_files("data directory", &data) > 0);
    assert_clean(&canaries.search(places.iter()));
}
