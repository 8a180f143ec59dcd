//! Every command of `iam`, in four situations: done, refused by the service, without a credential, without a
//! service. What went to stdout and stderr, and the exit code, are a golden table.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use iam_tests::deployment::{self, Deployment, program};
use tempfile::TempDir;

use crate::golden::compare;

/// A command line, what is typed into it, and what it exits with as the admin.
type Row = (&'static str, &'static str, i32);

/// In the order of a story: each finds what those before it made.
const ROWS: &[Row] = &[
    ("bootstrap-status", "", 0),
    ("whoami", "", 0),
    ("workspace create acme --name Acme", "", 0),
    ("workspace get acme", "", 0),
    ("workspace list", "", 0),
    ("workspace mine", "", 0),
    ("workspace update acme --name Apex", "", 0),
    ("user create eve --workspace acme --role reader --password-stdin", "violet-anvil-93-sings\n", 0),
    ("user get eve", "", 0),
    ("user list --workspace acme", "", 0),
    ("user update eve --email eve@example.test", "", 0),
    ("user disable eve", "", 0),
    ("user enable eve", "", 0),
    ("user revoke-tokens eve", "", 0),
    ("key create eve --name laptop", "", 0),
    ("key list eve", "", 0),
    ("key revoke KEY_OF_EVE", "", 0),
    ("can users:admin", "", 0),
    ("can graph:write --user eve", "", 2),
    ("why eve graph:write acme", "", 0),
    ("user reset-password eve", "", 0),
    ("login eve --password-stdin", "not it\n", 77),
    ("passwd --password-stdin", "not it\nviolet-anvil-94-sings\n", 77),
    ("user delete eve --yes", "", 0),
    ("workspace disable acme", "", 0),
    ("signing-key public", "", 0),
    ("signing-key jwks", "", 0),
    ("signing-key rotate", "", 0),
    ("signing-key retire no-such-key", "", 1),
    ("logout", "", 0),
    ("doctor", "", 0),
    ("completions bash", "", 0),
    ("bootstrap", "", 77),
    ("user frobnicate", "", 64),
];

struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

struct Stage<'d> {
    deployment: &'d Deployment,
    url: &'d str,
    home: TempDir,
}

impl Stage<'_> {
    fn run(&self, line: &str, stdin: &str, credential: Option<&str>, prefix: &str) -> Ran {
        let mut command = Command::new(program("iam"));
        command
            .args(line.split_whitespace())
            // The hash threads give way to everything else that a busy machine does.
            .args(["--timeout", "60"])
            .env_clear()
            .env("HOME", self.home.path())
            .env("XDG_STATE_HOME", self.home.path())
            .env("XDG_CONFIG_HOME", self.home.path())
            .env("IAM_NATS_URL", self.url)
            .env("IAM_SUBJECT_PREFIX", prefix)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(credential) = credential {
            command.env("IAM_CREDENTIAL", credential);
        }
        let mut child = command.spawn().expect("iam starts");
        // Whoever does not read it is not to be waited for.
        let _ = std::io::Write::write_all(&mut child.stdin.take().expect("a pipe"), stdin.as_bytes());
        let output = child.wait_with_output().expect("iam ends");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    fn done(&self, line: &str, credential: &str) -> String {
        let ran = self.run(line, "", Some(credential), self.deployment.prefix());
        assert_eq!(ran.code, 0, "{line}: {}", ran.stderr);
        ran.stdout.trim_end().to_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_says_and_exits_what_the_golden_table_has() {
    let Some(url) = deployment::nats_url() else { return };
    let deployment = Deployment::start(&url, &[]).await;
    let stage = Stage { deployment: &deployment, url: &url, home: TempDir::new().expect("a directory") };
    let prefix = deployment.prefix().to_owned();

    // Until it was told that it stands alone, a replica throttles as one of ten: two wrong passwords, and here are three.
    tokio::time::sleep(Duration::from_secs(8)).await;
    let first = stage.run("bootstrap", "", None, &prefix);
    assert_eq!(first.code, 0, "{}", first.stderr);
    let admin = first.stdout.trim_end().to_owned();
    stage.done("user create reader --workspace default --role reader", &admin);
    let reader = stage.done("key create reader --name key", &admin);

    let mut table = String::from(
        "# Every command of `iam`\n\nThe first line of stdout and of stderr, ids and secrets masked. `done` is as \
         an admin, `refused` as a reader.\n\n| command | situation | exit | stdout | stderr |\n| --- | --- | --- | --- | --- |\n",
    );
    let mut row = |line: &str, situation: &str, ran: &Ran| {
        let stdout = shown(&ran.stdout, stage.home.path(), &prefix, &url);
        let stderr = shown(&ran.stderr, stage.home.path(), &prefix, &url);
        let _ = writeln!(table, "| `iam {line}` | {situation} | {} | {stdout} | {stderr} |", ran.code);
    };
    row("bootstrap", "done", &first);
    for (line, stdin, expected) in ROWS {
        let key = || stage.done("key list eve", &admin).split('\t').next().unwrap_or_default().to_owned();
        let real =
            if line.contains("KEY_OF_EVE") { line.replace("KEY_OF_EVE", &key()) } else { (*line).to_owned() };
        let refused = stage.run(&real, stdin, Some(&reader), &prefix);
        let without = stage.run(&real, stdin, None, &prefix);
        let nobody = stage.run(&real, stdin, Some(&admin), "nobody-there");
        let done = stage.run(&real, stdin, Some(&admin), &prefix);
        assert_eq!(done.code, *expected, "{line}: {} {}", done.stdout, done.stderr);
        row(line, "done", &done);
        row(line, "refused", &refused);
        row(line, "no credential", &without);
        row(line, "no service", &nobody);
        for ran in [&refused, &without, &nobody, &done] {
            assert!(
                !ran.stderr.contains(&admin) && !ran.stderr.contains("violet"),
                "{line}: a secret on stderr"
            );
            assert!([0, 1, 2, 64, 69, 77].contains(&ran.code), "{line}: {} {}", ran.code, ran.stderr);
        }
    }
    compare("cli.md", &table);
}

/// The first line of a text, with what differs from run to run masked.
fn shown(text: &str, home: &Path, prefix: &str, url: &str) -> String {
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default();
    let home = home.to_string_lossy();
    let line = first.replace(home.as_ref(), "HOME").replace(prefix, "PREFIX").replace(url, "URL");
    let words = line.split('\t').map(|cell| cell.split(' ').map(masked).collect::<Vec<_>>().join(" "));
    let line = words.collect::<Vec<_>>().join(" · ").replace('|', "\\|");
    match (line.is_empty(), lines.next()) {
        (true, _) => "–".to_owned(),
        (false, None) => line,
        (false, Some(_)) => format!("{line} …"),
    }
}

fn masked(word: &str) -> String {
    // A key may end in what else would be punctuation.
    let bare = word.trim_matches(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '-'));
    let mask = if bare.parse::<iam_schema::UserId>().is_ok() {
        "ID"
    } else if bare.starts_with("tg_") {
        "KEY"
    } else if bare.parse::<iam_schema::Timestamp>().is_ok() {
        "TIME"
    } else if bare.len() == 20 && bare.bytes().all(|b| b.is_ascii_alphanumeric()) {
        "PASSWORD"
    } else if bare.len() > 60 && !bare.contains("://") {
        "LONG"
    } else {
        return word.to_owned();
    };
    word.replace(bare, mask)
}
