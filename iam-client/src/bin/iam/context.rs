//! The contexts of the `nats` command: where somebody who uses NATS has it set up already.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::failure::Failure;

/// A context, as `nats context` writes it. What it holds besides is not for connecting, or refused below.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Context {
    #[serde(skip)]
    pub name: String,
    pub url: String,
    pub creds: String,
    pub nkey: String,
    pub user: String,
    pub password: String,
    pub token: String,
    pub ca: String,
    pub cert: String,
    pub key: String,
    pub inbox_prefix: String,
    pub tls_first: bool,
    nsc: String,
    socks_proxy: String,
    user_jwt: String,
}

impl Context {
    /// The context of this name, or else the one that `nats context select` chose, if there is one.
    pub fn load(named: Option<&str>, config_home: &Path) -> Result<Option<Self>, Failure> {
        let nats = config_home.join("nats");
        let name = match named {
            Some(name) => name.to_owned(),
            None => match std::fs::read_to_string(nats.join("context.txt")) {
                Ok(name) => name.trim().to_owned(),
                Err(_) => return Ok(None),
            },
        };
        if name.is_empty() {
            return Ok(None);
        }
        let path = nats.join("context").join(format!("{name}.json"));
        let fault = |problem: String| {
            let shown = path.display();
            Failure::usage(format!(
                "nats context `{name}` (`{shown}`): {problem}; `nats context select` another, or give --nats-url"
            ))
        };
        if name.contains(['/', '\\']) || name.contains("..") {
            return Err(fault("that is no name of a context".to_owned()));
        }
        let text = std::fs::read_to_string(&path).map_err(|e| fault(e.to_string()))?;
        // The parser's message could repeat a secret; its place does not.
        let mut context: Self = serde_json::from_str(&text)
            .map_err(|e| fault(format!("cannot be read at line {} column {}", e.line(), e.column())))?;
        for (field, value) in
            [("nsc", &context.nsc), ("socks_proxy", &context.socks_proxy), ("user_jwt", &context.user_jwt)]
        {
            if !value.is_empty() {
                return Err(fault(format!("it needs `{field}`, which `iam` does not support")));
            }
        }
        context.name = name;
        Ok(Some(context))
    }
}

/// A path in a context, where `~` is the home directory; `None` if it is empty.
pub fn path(text: &str, home: Option<&Path>) -> Option<PathBuf> {
    match (text, text.strip_prefix("~/"), home) {
        ("", ..) => None,
        (_, Some(rest), Some(home)) => Some(home.join(rest)),
        _ => Some(PathBuf::from(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config_home(name: &str) -> PathBuf {
        let home = std::env::temp_dir().join(format!("iam-context-{}-{name}", std::process::id()));
        std::fs::create_dir_all(home.join("nats/context")).unwrap();
        home
    }

    #[test]
    fn selected_context_is_read_and_the_rest_of_it_ignored() {
        let home = config_home("selected");
        assert!(Context::load(None, &home).unwrap().is_none());
        std::fs::write(home.join("nats/context.txt"), "dev\n").unwrap();
        assert!(Context::load(None, &home).err().unwrap().message.contains("dev.json"));
        let text = r#"{"description":"","url":"nats://a:1,nats://b:2","token":"","user":"u","password":"p",
            "creds":"~/x.creds","nsc":"","jetstream_domain":"","color_scheme":"","tls_first":true}"#;
        std::fs::write(home.join("nats/context/dev.json"), text).unwrap();
        let context = Context::load(None, &home).unwrap().unwrap();
        assert_eq!((context.name.as_str(), context.url.as_str()), ("dev", "nats://a:1,nats://b:2"));
        assert!(context.tls_first);
        assert!(Context::load(Some("../dev"), &home).is_err());
        std::fs::remove_dir_all(home).unwrap();
    }

    #[test]
    fn broken_context_is_named_without_its_secrets() {
        let home = config_home("broken");
        std::fs::write(home.join("nats/context/x.json"), r#"{"password":hunter2}"#).unwrap();
        let failure = Context::load(Some("x"), &home).err().unwrap();
        assert!(failure.message.contains("line 1") && !failure.message.contains("hunter2"));
        std::fs::write(home.join("nats/context/x.json"), r#"{"nsc":"nsc://o/a/u"}"#).unwrap();
        assert!(Context::load(Some("x"), &home).err().unwrap().message.contains("`nsc`"));
        std::fs::remove_dir_all(home).unwrap();
    }

    #[test]
    fn tilde_is_the_home_directory() {
        let home = Path::new("/home/ada");
        assert_eq!(path("~/a.creds", Some(home)), Some("/home/ada/a.creds".into()));
        assert_eq!(path("/a.creds", Some(home)), Some("/a.creds".into()));
        assert_eq!(path("", Some(home)), None);
    }
}
