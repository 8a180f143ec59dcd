//! Arguments, telemetry, run, exit code.

use std::process::ExitCode;

use iam_svc::config::{Arguments, Command, Config};
use iam_svc::exit::{Cause, Exit};
use iam_svc::{admin, telemetry};
use rustix::process::{Resource, Rlimit, Signal, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(exit) => {
            for line in exit.reason.lines() {
                eprintln!("iam-svc: {line}");
            }
            ExitCode::from(exit.cause.code())
        }
    }
}

fn start() -> Result<(), Exit> {
    // Before anything secret is read.
    telemetry::tell_panics();
    let undumped = without_dumps();
    let arguments = match Arguments::parse(std::env::args_os()) {
        Ok(arguments) => arguments,
        Err(help) => {
            // A closed terminal is no reason to fail.
            let _ = help.print();
            let cause = if help.use_stderr() { Cause::Usage } else { return Ok(()) };
            return Err(Exit::new(cause, ""));
        }
    };
    let config = Config::read(&arguments, &|name| std::env::var_os(name)).map_err(|faults| {
        let lines: Vec<String> = faults.iter().map(ToString::to_string).collect();
        Exit::new(Cause::Configuration, lines.join("\n"))
    })?;
    telemetry::init(&config.log);
    if let Err(error) = undumped {
        tracing::warn!(%error, "core dumps cannot be switched off");
    }
    let internal = |e: std::io::Error| Exit::new(Cause::Internal, e.to_string());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(internal)?;
    let result = runtime.block_on(async {
        // A write beyond the limit of a file's size then fails as on a full disk, and does not end the process.
        let _over_limit = signal(SignalKind::from_raw(Signal::XFSZ.as_raw())).map_err(internal)?;
        match arguments.command {
            Command::Serve => {
                let mut terminate = signal(SignalKind::terminate()).map_err(internal)?;
                let mut interrupt = signal(SignalKind::interrupt()).map_err(internal)?;
                let shutdown = async {
                    tokio::select! {
                        _ = terminate.recv() => {}
                        _ = interrupt.recv() => {}
                    }
                };
                iam_svc::run(config, shutdown).await
            }
            Command::Check => admin::check::run(config).await.map(|()| println!("ok")),
            Command::RecoverAdmin { username } => admin::recover_admin::run(config, username).await,
            Command::MigrateStore { from, to } => admin::migrate_store::run(config, from, to).await,
        }
    });
    // Whatever still runs has had its time.
    runtime.shutdown_background();
    result
}

/// Keys are in memory: they must not get into a file by way of a crash, nor to other processes of the same user by
/// way of `/proc` and debuggers.
///
/// The limit alone is not enough: where a program takes the dumps in, as on most distributions, Linux ignores it.
///
/// Source: core(5), "Piping core dumps to a program"; PR_SET_DUMPABLE(2const).
fn without_dumps() -> rustix::io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })
}
