//! Tables of settings: flags, environment variables, names in a file and `--help` all follow from them.

use std::collections::BTreeMap;

use clap::{Arg, ArgAction, ArgMatches};

/// The settings of a program, in the order of `--help`.
pub type Table = &'static [Group];

/// What was given as flags, by the name of the setting.
pub type Flags = BTreeMap<&'static str, String>;

/// Settings under one heading of `--help`.
#[derive(Debug, Clone, Copy)]
pub struct Group {
    pub heading: &'static str,
    pub settings: &'static [Setting],
}

/// A row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Without the dashes before it.
    pub name: &'static str,
    /// What stands for the value in `--help`; empty for a switch.
    value: &'static str,
    pub(super) default: &'static str,
    help: &'static str,
    /// The value is a file that holds a secret; the environment may hold the secret itself.
    secret: bool,
}

impl Setting {
    /// A setting; an empty default is none.
    pub const fn new(
        name: &'static str,
        value: &'static str,
        default: &'static str,
        help: &'static str,
    ) -> Self {
        Self { name, value, default, help, secret: false }
    }

    /// A file that holds a secret. Its name ends in `-file`, and the environment may hold the secret itself.
    pub const fn secret(name: &'static str, help: &'static str) -> Self {
        Self { name, value: "FILE", default: "", help, secret: true }
    }

    fn flag(&self, heading: &'static str) -> Arg {
        let mut help = self.help.to_owned();
        if !self.default.is_empty() {
            help.push_str(&format!(" [default: {}]", self.default));
        }
        let name = environment_name(self.name);
        match name.strip_suffix("_FILE").filter(|_| self.secret) {
            Some(text) => help.push_str(&format!(" [env: {name}, or the text itself in {text}]")),
            None => help.push_str(&format!(" [env: {name}]")),
        }
        let flag = Arg::new(self.name).long(self.name).help_heading(heading).help(help).global(true);
        if self.value.is_empty() {
            flag.action(ArgAction::Set).num_args(0..=1).require_equals(true).default_missing_value("true")
        } else {
            flag.value_name(self.value).allow_hyphen_values(true)
        }
    }
}

/// Every setting, in the order of the table.
pub fn rows(table: Table) -> impl Iterator<Item = &'static Setting> {
    table.iter().flat_map(|group| group.settings)
}

/// The flags of a table, taken before and after a subcommand.
pub fn flags(table: Table) -> impl Iterator<Item = Arg> {
    table.iter().flat_map(|group| group.settings.iter().map(|setting| setting.flag(group.heading)))
}

/// The flags that were given, to a subcommand before those given to the program itself.
pub fn given(table: Table, inner: &ArgMatches, outer: &ArgMatches) -> Flags {
    let value = |from: &ArgMatches, name: &str| from.get_one::<String>(name).cloned();
    rows(table)
        .filter_map(|s| Some((s.name, value(inner, s.name).or_else(|| value(outer, s.name))?)))
        .collect()
}

/// The environment variable of a setting.
pub fn environment_name(setting: &str) -> String {
    format!("IAM_{}", setting.to_uppercase().replace('-', "_"))
}

/// What `--help` says at its end.
pub const PRECEDENCE: &str = "A flag beats the environment, the environment beats the file of --config. Secrets are \
                              taken from files or the environment alone.";

/// Telling how the program goes.
pub const LOG: Setting =
    Setting::new("log", "FILTER", "info", "What is logged, as in: info,iam_client=debug");

/// The file that may hold the settings.
pub const CONFIG: Setting =
    Setting::new("config", "FILE", "", "Settings in TOML, under these names without the dashes before them");
