//! The command `iam`: what it writes to files, to stderr and to what others see of its process.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use iam_tests::canary::{Canaries, Places};
use iam_tests::deployment::{Deployment, program};
use iam_tests::nats_server::NatsServer;
use tempfile::TempDir;

use super::{assert_clean, assert_search_works, secret, write_private};

/// Somebody at a shell, and all that is to be searched.
struct Shell {
    home: TempDir,
    canaries: Canaries,
    places: Places,
}

impl Shell {
    fn command(&self, line: &str, environment: &[(&str, &str)]) -> Command {
        let mut command = Command::new(program("iam"));
        command
            .args(line.split_whitespace())
            .args(["--timeout", "60"])
            .env_clear()
            .env("HOME", self.home.path())
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs a command to its end; its exit code and what it told. That is searched, but for what was issued on stdout.
    fn run(
        &mut self,
        line: &str,
        stdin: &str,
        environment: &[(&str, &str)],
        issued: Option<&str>,
    ) -> (i32, String) {
        let mut child = self.command(line, environment).spawn().expect("iam starts");
        // Whoever does not read it is not to be waited for.
        let _ = std::io::Write::write_all(&mut child.stdin.take().expect("a pipe"), stdin.as_bytes());
        let output = child.wait_with_output().expect("iam ends");
        let stdout = String::from_utf8(output.stdout).expect("text").trim_end().to_owned();
        let code = output.status.code().unwrap_or(-1);
        match issued {
            Some(name) => {
                assert_eq!(code, 0, "{line}: {}", String::from_utf8_lossy(&output.stderr));
                self.canaries.plant(name, &stdout);
            }
            None => self.places.add(format!("stdout: iam {line}"), stdout.as_bytes()),
        }
        let told = format!("{stdout}{}", String::from_utf8_lossy(&output.stderr));
        self.places.add(format!("stderr: iam {line}"), output.stderr);
        (code, if issued.is_some() { stdout } else { told })
    }

    fn secret(&mut self, name: &str) -> String {
        let text = secret();
        self.canaries.plant(name, &text);
        text
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread")]
async fn command_keeps_secrets_out_of_files_messages_and_process_lists() {
    let mut shell = Shell {
        home: TempDir::new().expect("a directory"),
        canaries: Canaries::default(),
        places: Places::default(),
    };
    let nats_password = shell.secret("NATS password");
    let users = format!("authorization {{ user: tester, password: \"{nats_password}\" }}");
    let Some(server) = NatsServer::start(&users).await else { return };
    let (url, file) = (server.url(), TempDir::new().expect("a directory"));
    let password_file = write_private(&file.path().join("password"), &nats_password);
    let with_login = url.replace("//", &format!("//tester:{nats_password}@"));
    let arguments = ["--nats-url", &url, "--nats-user", "tester", "--nats-password-file", &password_file];
    let deployment = Deployment::start_in(&with_login, &arguments, &[]).await;
    let prefix = deployment.prefix().to_owned();
    let usual = [
        ("IAM_NATS_URL", url.as_str()),
        ("IAM_SUBJECT_PREFIX", prefix.as_str()),
        ("IAM_NATS_USER", "tester"),
        ("IAM_NATS_PASSWORD", nats_password.as_str()),
    ];
    // The login may stand in the URL as well.
    let in_url = [("IAM_NATS_URL", with_login.as_str()), ("IAM_SUBJECT_PREFIX", prefix.as_str())];

    let (_, admin) = shell.run("bootstrap", "", &in_url, Some("the admin's key"));
    let with = |credential: &str| -> Vec<(String, String)> {
        let usual = usual.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        usual.chain([("IAM_CREDENTIAL".to_owned(), credential.to_owned())]).collect()
    };
    fn lent(environment: &[(String, String)]) -> Vec<(&str, &str)> {
        environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }
    let as_admin = with(&admin);
    let as_admin = lent(&as_admin);
    let (first, second, wrong) =
        (shell.secret("first password"), shell.secret("second password"), shell.secret("wrong password"));

    let made = shell.run(
        "user create ada --workspace default --role reader --password-stdin",
        &format!("{first}\n"),
        &as_admin,
        None,
    );
    assert_eq!(made.0, 0, "{}", made.1);
    shell.run("key create ada --name laptop", "", &as_admin, Some("a key"));
    let made = shell.run("user create eve --workspace default --role reader", "", &as_admin, None);
    assert_eq!(made.0, 0, "{}", made.1);
    shell.run("user reset-password eve", "", &as_admin, Some("a temporary password"));
    for line in ["user list --json", "key list ada --json", "user get ada --json", "whoami", "doctor"] {
        assert_eq!(shell.run(line, "", &as_admin, None).0, 0, "{line}");
    }

    assert_eq!(shell.run("login ada --password-stdin", &format!("{first}\n"), &usual, None).0, 0);
    let stored = shell.home.path().join(".local/state/iam/credential");
    assert_eq!((mode(&stored), mode(stored.parent().expect("a directory"))), (0o600, 0o700));
    let token = fs::read_to_string(&stored).expect("a token");
    shell.canaries.plant_token("the stored token", token.trim_end());
    for (line, stdin, environment, code) in [
        ("whoami", String::new(), &usual[..], 0),
        ("doctor", String::new(), &usual[..], 0),
        ("login ada --password-stdin", format!("{wrong}\n"), &usual, 77),
        ("passwd --password-stdin", format!("{wrong}\n{second}\n"), &usual, 77),
        ("passwd --password-stdin", format!("{first}\n{first}\n"), &usual, 1),
        ("passwd --password-stdin", format!("{first}\n{second}"), &usual, 0),
        ("whoami", String::new(), &usual, 0),
        (
            "user create mallory --workspace default --role reader --password-stdin",
            format!("{wrong}\n"),
            &usual,
            1,
        ),
        ("key revoke", format!("{wrong}\n"), &as_admin, 64),
    ] {
        let ran = shell.run(line, &stdin, environment, None);
        assert_eq!(ran.0, code, "{line}: {}", ran.1);
    }
    // The change of the password ended that token, and brought another.
    let token = fs::read_to_string(&stored).expect("a token");
    shell.canaries.plant_token("the token stored next", token.trim_end());

    // What is wrong with a setting or a server is told without the secrets beside it.
    let wrong_url = url.replace("//", &format!("//tester:{wrong}@"));
    let (closed, web, broken) = (
        format!("nats://tester:{wrong}@127.0.0.1:1"),
        format!("http://tester:{wrong}@127.0.0.1"),
        format!("nats://tester:{wrong}@127.0.0.1:x"),
    );
    let token_url = format!("nats://{wrong}@127.0.0.1:1");
    for line in ["whoami", "doctor"] {
        for url in [&wrong_url, &closed, &web, &broken, &token_url] {
            let environment =
                [("IAM_NATS_URL", url.as_str()), ("IAM_CREDENTIAL", admin.as_str()), ("IAM_TIMEOUT", "2s")];
            assert_ne!(shell.run(line, "", &environment, None).0, 0, "{line} at {url}");
        }
        let seed = [("IAM_NATS_URL", url.as_str()), ("IAM_NATS_TOKEN", wrong.as_str())];
        assert_ne!(shell.run(line, "", &seed, None).0, 0, "{line}");
        let two = [usual[0], usual[2], usual[3], ("IAM_NATS_TOKEN", wrong.as_str())];
        assert_eq!(shell.run(line, "", &two, None).0, 64, "{line}");
        let seed_file = write_private(&file.path().join("seed"), &wrong);
        let seed = [usual[0], ("IAM_NATS_NKEY", seed_file.as_str())];
        assert_ne!(shell.run(line, "", &seed, None).0, 0, "{line}");
        let creds = [usual[0], ("IAM_NATS_CREDS", seed_file.as_str())];
        assert_ne!(shell.run(line, "", &creds, None).0, 0, "{line}");
    }
    let contexts = shell.home.path().join(".config/nats/context");
    fs::create_dir_all(&contexts).expect("a directory");
    for (name, text) in
        [("bad", format!("{{\"password\":{wrong}}}")), ("odd", format!("{{\"token\":[\"{wrong}\"]}}"))]
    {
        fs::write(contexts.join(format!("{name}.json")), text).expect("a context");
        let ran = shell.run("whoami", "", &[("IAM_NATS_CONTEXT", name)], None);
        assert_eq!(ran.0, 64, "{}", ran.1);
    }
    fs::remove_dir_all(shell.home.path().join(".config")).expect("removed");

    // While it runs: what everybody sees in a list of processes.
    let mut watch = shell.command("watch", &as_admin).spawn().expect("iam starts");
    let proc = Path::new("/proc").join(watch.id().to_string());
    for name in ["cmdline", "comm", "status"] {
        shell.places.add(format!("process: {name}"), fs::read(proc.join(name)).expect(name));
    }
    let _ = watch.kill();
    let watched = watch.wait_with_output().expect("it ends");
    shell.places.add("stderr: iam watch", watched.stderr);

    assert_eq!(shell.run("logout", "", &usual, None).0, 0);
    let Shell { home, canaries, mut places } = shell;
    assert!(!stored.exists());
    places.add_files("home", home.path());
    assert!(places.count("home") >= 3, "state was kept where it was expected");
    places.add("log", deployment.log());
    assert_search_works(&canaries, "");
    assert_clean(&canaries.search(places.iter()));
}
