//! The process itself.

use std::env::ArgsOs;
use std::future::Future;
use std::process::ExitCode;

use rustix::process::{Resource, Rlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use super::exit::{Cause, Exit};
use super::logs;
use super::reader::Fault;

/// Keys and credentials are in memory: they must not get into a file by way of a crash, nor to other processes of the
/// same user by way of `/proc` and debuggers.
///
/// The limit alone is not enough: where a program takes the dumps in, as on most distributions, Linux ignores it.
///
/// Source: core(5), "Piping core dumps to a program"; PR_SET_DUMPABLE(2const).
fn without_dumps() -> std::io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    Ok(setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?)
}

/// What every program does first: closes its memory, splits its arguments, reads its settings, begins its log. `None`
/// where only `--help` or `--version` was asked for.
///
/// # Errors
/// `Usage`, told already; `Configuration` with every fault.
pub fn begin<A, C>(
    program: &'static str,
    parse: impl FnOnce(ArgsOs) -> Result<A, clap::Error>,
    read: impl FnOnce(&A) -> Result<C, Vec<Fault>>,
    filter: impl FnOnce(&C) -> &str,
) -> Result<Option<(A, C)>, Exit> {
    // Before anything secret is read.
    logs::tell_panics(program);
    let undumped = without_dumps();
    let arguments = match parse(std::env::args_os()) {
        Ok(arguments) => arguments,
        Err(help) => {
            // A closed terminal is no reason to fail.
            let _ = help.print();
            return if help.use_stderr() { Err(Exit::new(Cause::Usage, "")) } else { Ok(None) };
        }
    };
    let config = read(&arguments).map_err(|faults| {
        let lines: Vec<String> = faults.iter().map(ToString::to_string).collect();
        Exit::new(Cause::Configuration, lines.join("\n"))
    })?;
    logs::init(filter(&config));
    if let Err(error) = undumped {
        tracing::warn!(%error, "core dumps cannot be switched off");
    }
    Ok(Some((arguments, config)))
}

/// Has as many files open as the system lets us: a connection is one, and the usual limit is 1,024.
pub fn with_many_files() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    // Where it cannot be raised, the limit shows when it is reached.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// Waits until SIGTERM or SIGINT asks the program to end.
///
/// # Errors
/// When signals cannot be caught.
pub fn asked_to_end() -> std::io::Result<impl Future<Output = ()> + Send> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Tells why the program ends, on stderr, and gives its exit code.
pub fn ended(program: &str, result: Result<(), Exit>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(exit) => {
            for line in exit.reason.lines() {
                eprintln!("{program}: {line}");
            }
            ExitCode::from(exit.cause.code())
        }
    }
}
