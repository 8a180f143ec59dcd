//! Looks settings up where they can stand: flags, environment, file, default.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use iam_schema::Secret;

use super::settings::{Flags, Table, environment_name, rows};

/// The largest file that a setting may name, in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// Something wrong with a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The name of the setting, without dashes before it.
    pub setting: String,
    pub origin: Origin,
    pub rule: String,
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Flag,
    Environment(String),
    File(PathBuf),
    Default,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::Flag | Origin::Default => write!(f, "--{}: {}", self.setting, self.rule),
            Origin::Environment(name) => write!(f, "{name} (--{}): {}", self.setting, self.rule),
            Origin::File(path) => write!(f, "`{}` in {}: {}", self.setting, path.display(), self.rule),
        }
    }
}

/// The environment, as a function so that tests need none: name to value.
pub type Environment<'e> = &'e dyn Fn(&str) -> Option<OsString>;

/// A value and where it came from.
#[derive(Debug, Clone)]
pub struct Given {
    pub text: String,
    pub origin: Origin,
}

/// Looks settings up in their three sources, and gathers what is wrong with them.
pub struct Reader<'r> {
    table: Table,
    flags: &'r Flags,
    environment: Environment<'r>,
    file: BTreeMap<String, String>,
    path: PathBuf,
    faults: Vec<Fault>,
}

impl std::fmt::Debug for Reader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("path", &self.path)
            .field("faults", &self.faults)
            .finish_non_exhaustive()
    }
}

impl<'r> Reader<'r> {
    /// Reads all settings of a table by `make`, which gives `None` only where it noted a fault.
    ///
    /// # Errors
    /// All faults at once, in the order of the settings.
    pub fn read<T>(
        table: Table,
        flags: &'r Flags,
        environment: Environment<'r>,
        make: impl FnOnce(&mut Self) -> Option<T>,
    ) -> Result<T, Vec<Fault>> {
        let (file, path, faults) = (BTreeMap::new(), PathBuf::new(), Vec::new());
        let mut reader = Self { table, flags, environment, file, path, faults };
        reader.read_file();
        match make(&mut reader) {
            Some(made) if reader.faults.is_empty() => Ok(made),
            _ => {
                let place = |fault: &Fault| rows(table).position(|row| row.name == fault.setting);
                reader.faults.sort_by_key(place);
                reader.faults.dedup();
                Err(reader.faults)
            }
        }
    }
}

impl Reader<'_> {
    /// Reads the settings file, if one is named.
    fn read_file(&mut self) {
        let Some(given) = self.given("config") else { return };
        self.path = PathBuf::from(&given.text);
        let text = match read_text(&self.path) {
            Ok(text) => text,
            Err(rule) => return self.note("config", given.origin, rule),
        };
        let table: toml::Table = match toml::from_str(text.expose()) {
            Ok(table) => table,
            Err(e) => return self.note("config", given.origin, told(&e, text.expose())),
        };
        for (name, value) in table {
            let origin = Origin::File(self.path.clone());
            if !rows(self.table).any(|row| row.name == name && name != "config") {
                self.note(&name, origin, "no such setting");
                continue;
            }
            match plain(value) {
                Some(text) => {
                    self.file.insert(name, text);
                }
                None => {
                    self.note(&name, origin, "must be a string, an integer, a boolean or a list of strings")
                }
            }
        }
    }

    /// The value of a setting without regard to its default. Empty text in the environment counts as absent:
    /// that is how compose files and unit files write it.
    pub fn given(&mut self, name: &'static str) -> Option<Given> {
        if let Some(text) = self.flags.get(name) {
            return Some(Given { text: text.clone(), origin: Origin::Flag });
        }
        let variable = environment_name(name);
        if let Some(value) = (self.environment)(&variable).filter(|value| !value.is_empty()) {
            let origin = Origin::Environment(variable);
            return match value.into_string() {
                Ok(text) => Some(Given { text, origin }),
                Err(_) => self.fault(name, origin, "must be UTF-8"),
            };
        }
        let text = self.file.get(name)?.clone();
        Some(Given { text, origin: Origin::File(self.path.clone()) })
    }

    /// The value of a setting, or its default.
    fn given_or_default(&mut self, name: &'static str) -> Option<Given> {
        self.given(name).or_else(|| {
            let setting = rows(self.table).find(|row| row.name == name && !row.default.is_empty())?;
            Some(Given { text: setting.default.to_owned(), origin: Origin::Default })
        })
    }

    /// A setting in its type; `None` where it is not given and has no default, or a fault was noted.
    pub fn parsed<T>(&mut self, name: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let given = self.given_or_default(name)?;
        parse(&given.text).map_or_else(|rule| self.fault(name, given.origin, rule), Some)
    }

    /// A whole number between these.
    pub fn number<T>(&mut self, name: &'static str, min: T, max: T) -> Option<T>
    where
        T: FromStr + PartialOrd + fmt::Display + Copy,
    {
        self.parsed(name, |text| match text.parse() {
            Ok(n) if n >= min && n <= max => Ok(n),
            _ => Err(format!("must be a whole number of {min} to {max}")),
        })
    }

    /// A whole number between these, or another where it is not given.
    pub fn number_or(&mut self, name: &'static str, min: usize, max: usize, default: usize) -> Option<usize> {
        match self.given(name) {
            Some(_) => self.number(name, min, max),
            None => Some(default),
        }
    }

    /// A path as it was given.
    pub fn path(&mut self, name: &'static str) -> Option<PathBuf> {
        self.given_or_default(name).map(|given| PathBuf::from(given.text))
    }

    /// The path of a file that is there and can be read.
    pub fn readable(&mut self, name: &'static str) -> Option<PathBuf> {
        let given = self.given(name)?;
        match fs::File::open(&given.text) {
            Ok(_) => Some(PathBuf::from(given.text)),
            Err(e) => self.fault(name, given.origin, format!("cannot read {}: {e}", given.text)),
        }
    }

    /// A certificate and its key, both or neither; `None` only where a fault was noted.
    pub fn certificate(
        &mut self,
        cert: &'static str,
        key: &'static str,
    ) -> Option<Option<(PathBuf, PathBuf)>> {
        match (self.readable(cert), self.readable(key)) {
            (Some(cert), Some(key)) => Some(Some((cert, key))),
            (None, None) => Some(None),
            _ => self.fault(cert, Origin::Flag, "a certificate and its key go together"),
        }
    }

    /// What stands in the file that a setting names.
    pub fn file_text(&mut self, name: &'static str, readers: Readers) -> Option<(Secret, Origin)> {
        let given = self.given(name)?;
        let path = Path::new(&given.text);
        match readers.check(path).and_then(|()| read_text(path)) {
            Ok(text) if text.is_empty() => self.fault(name, given.origin, format!("{} is empty", given.text)),
            Ok(text) => Some((text, given.origin)),
            Err(rule) => self.fault(name, given.origin, rule),
        }
    }

    /// A secret: from the file that the setting names, or itself in the environment.
    pub fn secret(&mut self, name: &'static str, readers: Readers) -> Option<(Secret, Origin)> {
        let variable = environment_name(name.strip_suffix("-file").unwrap_or(name));
        let direct = (self.environment)(&variable).filter(|value| !value.is_empty());
        let from_file = self.given(name);
        match (direct, from_file) {
            (Some(_), Some(given)) => {
                self.fault(name, given.origin, format!("give either this or {variable}, not both"))
            }
            (Some(value), None) => match value.into_string() {
                Ok(text) => Some((Secret::new(text), Origin::Environment(variable))),
                Err(_) => self.fault(name, Origin::Environment(variable), "must be UTF-8"),
            },
            (None, _) => self.file_text(name, readers),
        }
    }

    /// Notes a fault.
    pub fn note(&mut self, name: &str, origin: Origin, rule: impl Into<String>) {
        self.faults.push(Fault { setting: name.to_owned(), origin, rule: rule.into() });
    }

    /// Notes a fault where a value was wanted.
    pub fn fault<T>(&mut self, name: &'static str, origin: Origin, rule: impl Into<String>) -> Option<T> {
        self.note(name, origin, rule);
        None
    }
}

/// Who else may read a file that holds a secret.
#[derive(Debug, Clone, Copy)]
pub enum Readers {
    /// For whoever set the machine up to say: container platforms mount secrets readable by all in the container.
    Any,
    /// A key that everything else rests on: not readable by others, or we refuse it.
    OwnerAlone,
}

impl Readers {
    /// Checks who may read a file.
    ///
    /// # Errors
    /// In words, with the remedy.
    pub fn check(self, path: &Path) -> Result<(), String> {
        let Readers::OwnerAlone = self else { return Ok(()) };
        let mode = fs::metadata(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?.mode();
        if mode & 0o007 == 0 {
            Ok(())
        } else {
            Err(format!("{} is open to others (mode {:03o}): chmod 600 it", path.display(), mode & 0o777))
        }
    }
}

/// Reads a small text file. One line end after it does not count.
///
/// # Errors
/// In words; a file over 1 MiB is one.
pub fn read_text(path: &Path) -> Result<Secret, String> {
    let fails = |e: io::Error| format!("cannot read {}: {e}", path.display());
    if fs::metadata(path).map_err(fails)?.len() > MAX_FILE {
        return Err(format!("{} is over {MAX_FILE} bytes", path.display()));
    }
    let mut text = fs::read_to_string(path).map_err(fails)?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(Secret::from(text))
}

/// What is wrong with a text in TOML, and in which line. The line itself is not shown: it may be of a file that was
/// named by mistake, such as one with a key.
pub fn told(error: &toml::de::Error, text: &str) -> String {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    format!("line {}: {}", before.matches('\n').count() + 1, error.message().replace('\n', " "))
}

/// A value of the file as text, in the form that a flag would have.
fn plain(value: toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text),
        toml::Value::Integer(n) => Some(n.to_string()),
        toml::Value::Boolean(b) => Some(b.to_string()),
        toml::Value::Array(items) => {
            let items: Option<Vec<String>> =
                items.into_iter().map(|item| item.as_str().map(str::to_owned)).collect();
            items.map(|items| items.join(","))
        }
        toml::Value::Float(_) | toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}
