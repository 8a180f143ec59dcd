//! What a panic tells: where it was, and nothing of what was being worked on.

use std::fs::File;
use std::process::{Command, Stdio};

use iam_client::program::logs;
use iam_schema::ErrorKind;
use iam_schema::subject::Plane;
use iam_svc::dispatch::Headers;
use iam_tests::canary::{Canaries, Places};
use iam_tests::faulty::{Fault, Faulty};
use iam_tests::world::Setup;
use iam_tests::{sample, terminal};
use tempfile::TempDir;

use super::{assert_clean, assert_search_works, secret};

/// Set for the process that panics, with the secret that is then in the text of every panic.
const SECRET: &str = "IAM_TEST_PANIC_WITH";

/// This test in a process of its own, whose log is searched: as JSON, and as lines for people on a terminal.
#[test]
fn panic_tells_its_place_and_nothing_of_its_text() {
    if let Ok(secret) = std::env::var(SECRET) {
        return panic_everywhere(&secret);
    }
    let dir = TempDir::new().expect("a directory");
    let (mut canaries, mut places) = (Canaries::default(), Places::default());
    let text = secret();
    canaries.plant("text of a panic", &text);
    for form in ["json", "lines"] {
        let path = dir.path().join(form);
        let log = File::create(&path).expect("a log");
        let (stderr, copier) = match form {
            "json" => (Stdio::from(log), None),
            _ => {
                let (terminal, copier) = terminal::copied_to(log).expect("a terminal");
                (terminal, Some(copier))
            }
        };
        let output = Command::new(std::env::current_exe().expect("this test"))
            .args([
                "--exact",
                "secrets::panics::panic_tells_its_place_and_nothing_of_its_text",
                "--nocapture",
            ])
            .env(SECRET, &text)
            .stdin(Stdio::null())
            .stderr(stderr)
            .output()
            .expect("it runs");
        copier.into_iter().for_each(|copier| copier.join().expect("it copies"));
        let log = std::fs::read_to_string(path).expect("a log");
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{told}\n{log}");
        assert!(log.contains("iam-svc: panic at "), "{log}");
        let panics = log.lines().filter(|line| line.contains("iam.panic")).count();
        assert_eq!(panics, 3, "{log}");
        assert_eq!(log.contains("\"level\""), form == "json", "{log}");
        places.add(format!("audit of {form}"), told);
        places.add(format!("log of {form}"), log);
    }
    assert_search_works(&canaries, "");
    assert_clean(&canaries.search(places.iter()));
}

/// Panics before there is a log, in some thread, and below operations.
fn panic_everywhere(secret: &str) {
    let thread = |text: String| drop(std::thread::spawn(move || panic!("{text}")).join());
    logs::tell_panics("iam-svc");
    thread(secret.to_owned());
    logs::init("trace");
    thread(secret.to_owned());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let store = Faulty::embedded();
        let world = store.world(Setup::default());
        store.fail("user_by_name", Fault::Panic(secret.to_owned()));
        let request = format!(r#"{{"username":"{secret}","password":"{secret}"}}"#);
        let (reply, error) =
            world.bytes(Plane::Service, "login", Headers::default(), request.as_bytes()).await;
        assert_eq!(error, Some(ErrorKind::InternalError));
        println!("{} {:?}", String::from_utf8_lossy(&reply), world.last_told().await);
        store.fail("user", Fault::Panic(secret.to_owned()));
        let request = format!(r#"{{"user_id":"{}","capability":"agent"}}"#, sample::user_id());
        let (reply, error) =
            world.bytes(Plane::Service, "authorise", Headers::default(), request.as_bytes()).await;
        assert_eq!(error, Some(ErrorKind::InternalError));
        println!("{} {:?}", String::from_utf8_lossy(&reply), world.last_told().await);
    });
}
