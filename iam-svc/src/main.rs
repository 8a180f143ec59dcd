//! Arguments, telemetry, run, exit code.

use std::process::ExitCode;

use iam_client::program::exit::{Cause, Exit};
use iam_client::program::{logs, process};
use iam_svc::admin;
use iam_svc::config::{Arguments, Command, Config};
use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    process::ended("iam-svc", start())
}

fn start() -> Result<(), Exit> {
    // Before anything secret is read.
    logs::tell_panics("iam-svc");
    let undumped = process::without_dumps();
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
    logs::init(&config.log);
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
                let shutdown = process::asked_to_end().map_err(internal)?;
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
