//! The command `iam`: administers and asks an `iam-svc` over NATS.
//!
//! Code map, in reading order:
//!
//! - [`settings`]: the global options, the nats context, and what comes of them; [`context`], [`credential`]
//! - one file per command group: [`bootstrap`], [`session`], [`decisions`], [`user`], [`key`], [`workspace`],
//!   [`signing_key`], [`watch`], [`doctor`]
//! - [`app`]: what every command is given; [`who`]: users named on the command line
//! - [`out`]: what goes to stdout and what to stderr; [`failure`]: messages and exit codes
//! - [`secrets`], [`jwt`], [`time`]: the small helpers
//!
//! Every command is a few calls of the library; nothing is decided here that a service should decide.

mod settings;

mod context;
mod credential;

mod bootstrap;
mod decisions;
mod doctor;
mod key;
mod session;
mod signing_key;
mod user;
mod watch;
mod workspace;

mod app;
mod failure;
mod out;
mod who;

mod jwt;
mod secrets;
mod time;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::app::App;
use crate::failure::{Exit, Failure};
use crate::settings::Globals;

/// Administer and ask an IAM service over NATS.
#[derive(Debug, Parser)]
#[command(name = "iam", version, max_term_width = 100, after_help = EXIT_CODES)]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done (`can`: allowed), 1 refused by the service, 2 denied (`can`), 64 usage, \
                          69 no service answered, 70 anything unexpected, 77 not logged in or auth failure.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Seed an empty deployment; prints the first admin's API key, this once
    Bootstrap,
    /// Say whether `bootstrap` would do something: `available` or `unavailable`
    BootstrapStatus,
    /// Log in by password, and store the JWT
    Login(session::Login),
    /// Forget the stored JWT
    Logout,
    /// Show who the credential stands for
    Whoami,
    /// Change your own password
    Passwd(session::Passwd),
    /// Ask whether something is allowed; exit code 0 is allowed, 2 denied
    Can(decisions::Can),
    /// Explain why a user may do something, or may not
    Why(decisions::Why),
    /// Users
    #[command(subcommand)]
    User(user::Command),
    /// API keys
    #[command(subcommand)]
    Key(key::Command),
    /// Workspaces
    #[command(subcommand)]
    Workspace(workspace::Command),
    /// The keys that sign JWTs
    #[command(subcommand)]
    SigningKey(signing_key::Command),
    /// Print change and audit events as they happen, until Ctrl-C
    Watch,
    /// Find out what is wrong between here and an answer, step by step
    Doctor,
    /// Print the completion script of a shell
    Completions { shell: Shell },
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(message) => return explain_usage(&message),
    };
    let ended = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(run(cli)),
        Err(e) => Err(Failure::unexpected(format!("cannot start: {e}"))),
    };
    match ended {
        Ok(exit) => exit.into(),
        Err(failure) => {
            out::complain(&failure);
            failure.exit.into()
        }
    }
}

/// Says what is wrong with the arguments, in one line; or prints the help or the version that was asked for.
fn explain_usage(message: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind::{
        DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand as NothingGiven, DisplayVersion,
    };
    if let DisplayHelp | DisplayVersion | NothingGiven = message.kind() {
        // Nobody can be told that stdout or stderr is closed.
        let _ = message.print();
        return if message.kind() == NothingGiven { Exit::Usage } else { Exit::Done }.into();
    }
    let failure =
        Failure::usage(format!("{}; --help shows the usage", first_paragraph(&message.to_string())));
    out::complain(&failure);
    failure.exit.into()
}

/// What clap says is wrong, and its tips, without the usage below.
fn first_paragraph(message: &str) -> String {
    let message = message.strip_prefix("error: ").unwrap_or(message);
    let (wrong, rest) = message.split_once("\n\n").unwrap_or((message, ""));
    let tips = rest.lines().map(str::trim).filter(|line| line.starts_with("tip:"));
    let wrong = wrong.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    std::iter::once(wrong.as_str()).chain(tips).collect::<Vec<_>>().join("; ")
}

async fn run(cli: Cli) -> Result<Exit, Failure> {
    if let Command::Completions { shell } = cli.command {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "iam", &mut script);
        out::print(&script)?;
        return Ok(Exit::Done);
    }
    if let Command::Doctor = cli.command {
        return doctor::run(&cli.globals).await;
    }
    let app = App::new(&cli.globals)?;
    match cli.command {
        Command::Completions { .. } | Command::Doctor => {}
        Command::Bootstrap => bootstrap::bootstrap(&app).await?,
        Command::BootstrapStatus => bootstrap::status(&app).await?,
        Command::Login(args) => session::login(&app, args).await?,
        Command::Logout => session::logout(&app)?,
        Command::Whoami => session::whoami(&app).await?,
        Command::Passwd(args) => session::passwd(&app, args).await?,
        Command::Can(args) => return decisions::can(&app, args).await,
        Command::Why(args) => decisions::why(&app, args).await?,
        Command::User(command) => user::run(&app, command).await?,
        Command::Key(command) => key::run(&app, command).await?,
        Command::Workspace(command) => workspace::run(&app, command).await?,
        Command::SigningKey(command) => signing_key::run(&app, command).await?,
        Command::Watch => watch::run(&app).await?,
    }
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_arguments_are_told_in_one_line() {
        for (line, told) in [
            ("iam can", "<CAPABILITY>"),
            ("iam users", "tip: a similar subcommand exists: 'user'"),
            ("iam key revoke x", "must be a lower-case UUID"),
        ] {
            let message = Cli::try_parse_from(line.split(' ')).unwrap_err().to_string();
            let text = first_paragraph(&message);
            assert!(text.contains(told) && !text.contains(['\n']), "{text}");
        }
    }

    #[test]
    fn commands_and_options_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }
}
