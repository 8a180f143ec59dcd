//! What goes to stdout, and what to stderr.
//!
//! Stdout has what a script wants and nothing else. Nothing here panics when the reader has gone away.

use std::io::{self, ErrorKind, IsTerminal, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::failure::Failure;

/// Whether somebody still reads stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    Listening,
    Gone,
}

/// Writes to stdout.
pub fn print(bytes: &[u8]) -> Result<Reader, Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(Reader::Listening),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(e) => Err(Failure::unexpected(format!("cannot write to stdout: {e}"))),
    }
}

/// Says on stderr why the command failed.
pub fn complain(failure: &Failure) {
    // Nobody can be told that stderr is closed.
    let _ = writeln!(io::stderr(), "iam: {}", harmless(&failure.message));
}

/// Text from elsewhere, without what would steer a terminal or break a line or a column.
pub fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// How a command shows its results.
#[derive(Debug)]
pub struct Out {
    json: bool,
    quiet: bool,
    terminal: bool,
}

impl Out {
    pub fn new(json: bool, quiet: bool) -> Self {
        Self { json, quiet, terminal: io::stdout().is_terminal() }
    }

    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Tells people something, on stderr.
    pub fn note(&self, text: impl AsRef<str>) {
        if !self.quiet {
            let _ = writeln!(io::stderr(), "{}", harmless(text.as_ref()));
        }
    }

    /// The one thing that a script wants: an id, a word. With `--json` it is `record` instead.
    pub fn value<T: Serialize>(&self, value: &str, record: &T) -> Result<Reader, Failure> {
        if self.json { self.json(record) } else { self.line(value.trim_end()) }
    }

    /// A [`value`](Out::value) that is shown this once: that nobody reads it is a failure.
    pub fn shown_once<T: Serialize>(&self, value: &str, record: &T) -> Result<(), Failure> {
        match self.value(value, record)? {
            Reader::Listening => Ok(()),
            Reader::Gone => {
                Err(Failure::unexpected("what is shown this once was not read: stdout is closed"))
            }
        }
    }

    /// One record, a line for each field. With `--json` it is `record` instead.
    pub fn record<T: Serialize>(&self, record: &T, fields: &[(&str, String)]) -> Result<(), Failure> {
        if self.json {
            return self.json(record).map(drop);
        }
        let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
        let lines: String = fields
            .iter()
            .map(|(name, value)| match self.terminal {
                true => format!("{name:width$}  {}\n", harmless(value)),
                false => format!("{name}\t{}\n", harmless(value)),
            })
            .collect();
        print(lines.as_bytes()).map(drop)
    }

    /// Records: a table on a terminal, else tab-separated lines without header. With `--json` a JSON list.
    pub fn list<T: Serialize, const N: usize>(
        &self,
        records: &[T],
        header: [&str; N],
        row: impl Fn(&T) -> [String; N],
    ) -> Result<(), Failure> {
        if self.json {
            return self.json(records).map(drop);
        }
        let rows = records.iter().map(|record| row(record).map(|cell| harmless(&cell)));
        if self.terminal {
            let mut table = Table::new();
            // An id that is broken over two lines could not be copied: what is too wide, the terminal wraps.
            table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
            table.set_header(header.map(str::to_uppercase)).add_rows(rows);
            let lines: String = table.lines().map(|line| format!("{}\n", line.trim_end())).collect();
            print(lines.as_bytes()).map(drop)
        } else {
            let lines: String = rows.map(|row| row.join("\t") + "\n").collect();
            print(lines.as_bytes()).map(drop)
        }
    }

    /// One line of JSON; indented on a terminal.
    pub fn json<T: Serialize + ?Sized>(&self, value: &T) -> Result<Reader, Failure> {
        let text = match self.terminal {
            true => serde_json::to_string_pretty(value),
            false => serde_json::to_string(value),
        };
        self.line(&text.map_err(|e| Failure::unexpected(format!("cannot write JSON: {e}")))?)
    }

    /// One line as it is.
    pub fn line(&self, text: &str) -> Result<Reader, Failure> {
        print(format!("{text}\n").as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_of_others_reach_no_terminal() {
        assert_eq!(harmless("a\x1b[2Jb\tc\nd\u{9b}"), "a\u{fffd}[2Jb\u{fffd}c\u{fffd}d\u{fffd}");
    }
}
