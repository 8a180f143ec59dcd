//! Arguments, telemetry, run, exit code.

use std::process::ExitCode;

use iam_client::program::exit::{Cause, Exit};
use iam_client::program::process;
use iam_svc::admin;
use iam_svc::config::{Arguments, Command, Config};
use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    process::ended("iam-svc", start())
}

fn start() -> Result<(), Exit> {
    let read = |arguments: &Arguments| Config::read(arguments, &|name| std::env::var_os(name));
    let begun = process::begin("iam-svc", Arguments::parse, read, |config| &config.log)?;
    let Some((arguments, config)) = begun else { return Ok(()) };
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
