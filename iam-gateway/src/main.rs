//! Arguments, telemetry, run, exit code.

use std::process::ExitCode;

use iam_client::program::exit::{Cause, Exit};
use iam_client::program::{logs, process};
use iam_gateway::config::{Arguments, Config};

fn main() -> ExitCode {
    process::ended("iam-gateway", start())
}

fn start() -> Result<(), Exit> {
    // Before anything secret is read.
    logs::tell_panics("iam-gateway");
    let undumped = process::without_dumps();
    process::with_many_files();
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
        let shutdown = process::asked_to_end().map_err(internal)?;
        iam_gateway::run(config, shutdown).await
    });
    // Whatever still runs has had its time.
    runtime.shutdown_background();
    result
}
