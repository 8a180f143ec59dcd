//! Passwords and keys: from a terminal, from stdin, from a file. Never from an argument.

use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::path::Path;

use iam_client::schema::Secret;

use crate::failure::{Exit, Failure};

/// The most that is read of a file or of stdin: the service takes passwords of 1,024 bytes, and no JWT is longer.
const MAX_SECRET: u64 = 64 * 1024;

/// Asks for a secret on the terminal, without echo.
pub fn ask(prompt: &str) -> Result<Secret, Failure> {
    match rpassword::prompt_password(format!("{prompt}: ")) {
        Ok(text) if text.is_empty() => Err(Failure::usage("nothing was entered")),
        Ok(text) => Ok(Secret::from(text)),
        Err(e) => Err(Failure::usage(format!("cannot ask on a terminal ({e}); use --password-stdin"))),
    }
}

/// Asks for a new secret, twice.
pub fn ask_new(prompt: &str) -> Result<Secret, Failure> {
    let first = ask(prompt)?;
    let second = ask(&format!("{prompt} again"))?;
    if first.same_as(&second) { Ok(first) } else { Err(Failure::usage("the two are not the same")) }
}

/// All of stdin, less one line end.
pub fn from_stdin() -> Result<Secret, Failure> {
    not_empty("the password on stdin", read(&mut io::stdin().lock()).map_err(|e| unreadable("stdin", &e))?)
}

/// Two secrets on stdin, the first on a line of its own.
pub fn two_from_stdin() -> Result<(Secret, Secret), Failure> {
    let mut stdin = io::stdin().lock();
    let mut line = String::new();
    let fault = |e: io::Error| unreadable("stdin", &e);
    stdin.by_ref().take(MAX_SECRET).read_line(&mut line).map_err(fault)?;
    strip_line_end(&mut line);
    let second = read(&mut stdin).map_err(fault)?;
    let first = not_empty("the first line on stdin", Secret::from(line))?;
    Ok((first, not_empty("the second line on stdin", second)?))
}

/// A file, less one line end.
pub fn from_file(setting: &str, path: &Path) -> Result<Secret, Failure> {
    let what = format!("{setting} `{}`", path.display());
    let mut file = std::fs::File::open(path).map_err(|e| unreadable(&what, &e))?;
    not_empty(&what, read(&mut file).map_err(|e| unreadable(&what, &e))?)
}

/// Asks a question whose answer is yes or no; without a terminal, `--yes` is the only yes.
pub fn confirm(question: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Err(Failure::usage("there is no terminal to ask on; --yes says that you mean it"));
    }
    let _ = write!(io::stderr(), "{question} [y/N] ");
    let mut answer = String::new();
    io::stdin().lock().take(64).read_line(&mut answer).map_err(|e| unreadable("stdin", &e))?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::new(Exit::Refused, "nothing was done")),
    }
}

fn read(source: &mut impl Read) -> io::Result<Secret> {
    let mut text = String::new();
    source.take(MAX_SECRET).read_to_string(&mut text)?;
    strip_line_end(&mut text);
    Ok(Secret::from(text))
}

fn strip_line_end(text: &mut String) {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
}

fn not_empty(what: &str, secret: Secret) -> Result<Secret, Failure> {
    if secret.is_empty() { Err(Failure::usage(format!("{what} is empty"))) } else { Ok(secret) }
}

fn unreadable(what: &str, error: &io::Error) -> Failure {
    Failure::usage(format!("cannot read {what}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_one_line_end_is_lost() {
        for (given, kept) in
            [("a", "a"), ("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), ("a\r", "a\r"), (" a \n", " a ")]
        {
            assert_eq!(read(&mut given.as_bytes()).unwrap().expose(), kept, "{given:?}");
        }
    }
}
