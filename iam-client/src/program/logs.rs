//! Logs on stderr.

use std::io::IsTerminal;

use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt};

/// The client libraries of NATS and Cassandra, which log every attempt to reconnect, where we log each change of state
/// once; and that of WebSockets, which logs whole frames.
const CHATTY: [&str; 4] = ["async_nats", "scylla", "tungstenite", "tokio_tungstenite"];

/// Checks a filter, as `--log` has it.
///
/// # Errors
/// In words, where it is wrong.
pub fn filter(text: &str) -> Result<String, String> {
    EnvFilter::try_new(text).map(|_| text.to_owned()).map_err(|e| e.to_string())
}

/// Sends logs to stderr: in lines for people on a terminal, as JSON elsewhere. A second call does nothing.
///
/// Chatty libraries are held back unless the filter names them.
pub fn init(filter: &str) {
    let unnamed = CHATTY.iter().filter(|target| !filter.contains(*target));
    let filter = unnamed.fold(filter.to_owned(), |filter, target| format!("{filter},{target}=error"));
    let filter = EnvFilter::try_new(filter).unwrap_or_default();
    let (lines, json) = if std::io::stderr().is_terminal() {
        (Some(fmt::layer().with_writer(std::io::stderr)), None)
    } else {
        (None, Some(fmt::layer().json().flatten_event(true).with_ansi(false).with_writer(std::io::stderr)))
    };
    let subscriber = tracing_subscriber::registry().with(lines).with(json).with(filter);
    // An error means that somebody else, such as a test, has a subscriber in place; that one stays.
    let _ = subscriber.with(filter_fn(may_be_shown)).try_init();
}

/// Has each panic tell where it was, and not what it says: its text may quote what was being worked on, such as a
/// password. On stderr until there is a log.
pub fn tell_panics(program: &'static str) {
    std::panic::set_hook(Box::new(move |panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current().name().unwrap_or_default().to_owned();
        if tracing::dispatcher::has_been_set() {
            tracing::error!(event = "iam.panic", place, thread, "panic");
        } else {
            eprintln!("{program}: panic at {place}");
        }
    }));
}

/// Whether what is logged there may be shown. At their lower levels client libraries show whole messages, with the
/// passwords and keys in them: no filter that somebody sets to find a fault lets that through.
fn may_be_shown(metadata: &tracing::Metadata<'_>) -> bool {
    !CHATTY.iter().any(|target| metadata.target().starts_with(target))
        || *metadata.level() <= tracing::Level::INFO
}
