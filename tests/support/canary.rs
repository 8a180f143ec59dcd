//! Looks for secrets where none may be: in any form in which they are likely to get somewhere.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use aho_corasick::AhoCorasick;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// How much of a secret is already too much, in bytes. Of API keys 7 characters are public.
const BEGINNING: usize = 12;

/// Secrets that were planted, and what to look for because of them.
#[derive(Debug, Default)]
pub struct Canaries {
    secrets: BTreeMap<String, Vec<u8>>,
}

/// What a search came to.
#[derive(Debug, Default)]
pub struct Searched {
    pub places: usize,
    pub bytes: usize,
    pub secrets: usize,
    pub forms: usize,
    /// Which secret in which form, and where.
    pub found: Vec<String>,
}

impl Canaries {
    /// Plants a secret.
    pub fn plant(&mut self, name: &str, secret: impl AsRef<[u8]>) {
        let secret = secret.as_ref().to_vec();
        assert!(secret.len() > BEGINNING, "{name} is too short to be told from other texts");
        self.secrets.insert(name.to_owned(), secret);
    }

    /// Plants a token: what is secret of it is its signature, since header and claims are public.
    pub fn plant_token(&mut self, name: &str, token: &str) {
        let signature = token.rsplit('.').next().unwrap_or_default();
        self.plant(&format!("signature of {name}"), signature);
    }

    /// Each form of each secret, by a label.
    pub fn forms(&self) -> Vec<(String, Vec<u8>)> {
        let mut forms = Vec::new();
        for (name, secret) in &self.secrets {
            let mut add = |form: &str, bytes: Vec<u8>| forms.push((format!("{name}, {form}"), bytes));
            add("plain", secret.clone());
            add("its beginning", secret[..BEGINNING].to_vec());
            add("reversed", secret.iter().rev().copied().collect());
            let hex = |upper: bool| {
                secret[..BEGINNING].iter().fold(String::new(), |mut text, byte| {
                    let _ = if upper { write!(text, "{byte:02X}") } else { write!(text, "{byte:02x}") };
                    text
                })
            };
            add("in hex", hex(false).into_bytes());
            add("in capital hex", hex(true).into_bytes());
            let list: Vec<String> = secret[..BEGINNING].iter().map(u8::to_string).collect();
            add("as a list of numbers", list.join(", ").into_bytes());
            add("as a dense list of numbers", list.join(",").into_bytes());
            let percent = secret[..BEGINNING].iter().map(|byte| format!("%{byte:02X}")).collect::<String>();
            add("percent-encoded", percent.to_ascii_lowercase().into_bytes());
            add("percent-encoded in capitals", percent.into_bytes());
            // Base64 of a text that holds the secret somewhere: the characters that its own bits alone make.
            for before in 0..3 {
                let text = [vec![0; before], secret.clone()].concat();
                let (from, to) = ((before * 4).div_ceil(3), text.len() * 4 / 3);
                for (alphabet, engine) in [("", &STANDARD_NO_PAD), ("url ", &URL_SAFE_NO_PAD)] {
                    let encoded = engine.encode(&text).into_bytes();
                    add(&format!("in {alphabet}base64 after {before}"), encoded[from..to].to_vec());
                }
            }
        }
        forms
    }

    /// Searches places, each with its name.
    pub fn search<'p>(&self, places: impl IntoIterator<Item = (&'p str, &'p [u8])>) -> Searched {
        let forms = self.forms();
        let automaton = AhoCorasick::new(forms.iter().map(|(_, bytes)| bytes)).expect("patterns");
        let mut searched =
            Searched { secrets: self.secrets.len(), forms: forms.len(), ..Searched::default() };
        for (place, bytes) in places {
            searched.places += 1;
            searched.bytes += bytes.len();
            for hit in automaton.find_iter(bytes) {
                let from = hit.start().saturating_sub(200);
                let around =
                    String::from_utf8_lossy(&bytes[from..(hit.end() + 80).min(bytes.len())]).into_owned();
                searched.found.push(format!("{} in {place}: …{around}…", forms[hit.pattern().as_usize()].0));
                if searched.found.len() > 50 {
                    return searched;
                }
            }
        }
        searched
    }
}

/// Things to search, each with its name.
#[derive(Debug, Default)]
pub struct Places(Vec<(String, Vec<u8>)>);

impl Places {
    /// Adds something.
    pub fn add(&mut self, name: impl Into<String>, bytes: impl Into<Vec<u8>>) {
        self.0.push((name.into(), bytes.into()));
    }

    /// Adds every file below a directory, names among them; how many there were.
    pub fn add_files(&mut self, name: &str, dir: &Path) -> usize {
        let mut files = 0;
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            self.add(format!("{name}: a name"), path.to_string_lossy().as_bytes());
            if path.is_dir() {
                files += self.add_files(name, &path);
            } else if let Ok(bytes) = std::fs::read(&path) {
                self.add(format!("{name}: {}", path.display()), bytes);
                files += 1;
            }
        }
        files
    }

    /// What was added.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
    }

    /// How many of them have a name that begins so.
    pub fn count(&self, name: &str) -> usize {
        self.0.iter().filter(|(known, _)| known.starts_with(name)).count()
    }
}
