//! Arguments, telemetry, run, exit code.

use std::process::ExitCode;

use iam_client::program::exit::{Cause, Exit};
use iam_client::program::process;
use iam_gateway::config::{Arguments, Config};

fn main() -> ExitCode {
    process::ended("iam-gateway", start())
}

fn start() -> Result<(), Exit> {
    let read = |arguments: &Arguments| Config::read(arguments, &|name| std::env::var_os(name));
    let begun = process::begin("iam-gateway", Arguments::parse, read, |config| &config.log)?;
    let Some((_, config)) = begun else { return Ok(()) };
    process::with_many_files();
    let internal = |e: std::io::Error| Exit::new(Cause::Internal, e.to_string());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(internal)?;
    let result = runtime.block_on(async {
        let shutdown = process::asked_to_end().map_err(internal)?;
        iam_gateway::run(config, shutdown).await
    });
    // Whatever still runs has had its time.
    runtime.shutdown_background();
    result
}
