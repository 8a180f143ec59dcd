//! The key-encryption key: given, or kept in the data directory.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use iam_schema::Secret;

use super::{Readers, read_text};
use crate::crypto::seal::Kek;
use crate::entropy::Entropy;

/// The key's name in the data directory.
const FILE: &str = "kek";

/// Where the key-encryption key comes from.
#[derive(Debug)]
pub enum KekSource {
    /// It was given.
    Given(Kek),
    /// The file `kek` in the data directory, made on the first start.
    DataDir,
}

/// What to do where there is no key-encryption key yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfMissing {
    Make,
    /// One that is kept nowhere will do: nothing is sealed yet, and nothing will be under it.
    DoWithout,
    Refuse,
}

/// Why there is no key-encryption key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KekFault {
    /// It is not there, and a new one would not open what is sealed already.
    #[error("--kek-file: the key-encryption key {0} is missing; restore it")]
    Missing(PathBuf),
    #[error("--kek-file: {0}")]
    Wrong(String),
    /// There is no place for the one that the first start makes.
    #[error("cannot make `{}`: {cause}; give this user write access, and room", .path.display())]
    NotMade { path: PathBuf, cause: String },
}

impl KekSource {
    /// The file of a key that an earlier start has made in the data directory.
    pub fn made_before(&self, data_dir: &Path) -> Option<PathBuf> {
        let path = data_dir.join(FILE);
        (matches!(self, KekSource::DataDir) && path.exists()).then_some(path)
    }

    /// The key itself.
    ///
    /// Without one given it lies in the data directory, where the first start makes it, readable by its owner
    /// alone. Whoever calls this holds the store's lock, and has it refused where keys are sealed already.
    ///
    /// # Errors
    /// `Missing` as said, `Wrong` when the file cannot be read or trusted, `NotMade` when it cannot be made.
    pub fn load(self, data_dir: &Path, missing: IfMissing, entropy: &Entropy) -> Result<Kek, KekFault> {
        let path = match self {
            KekSource::Given(kek) => return Ok(kek),
            KekSource::DataDir => data_dir.join(FILE),
        };
        if path.exists() {
            Readers::OwnerAlone.check(&path).map_err(KekFault::Wrong)?;
            let text = read_text(&path).map_err(KekFault::Wrong)?;
            return Kek::from_base64(&text)
                .map_err(|rule| KekFault::Wrong(format!("{}: {rule}", path.display())));
        }
        let kek = Kek::generate(entropy);
        match missing {
            IfMissing::Refuse => return Err(KekFault::Missing(path)),
            IfMissing::DoWithout => {}
            IfMissing::Make => {
                let made = write_key(&path, &kek.to_base64());
                made.map_err(|e| KekFault::NotMade { path, cause: e.to_string() })?;
            }
        }
        Ok(kek)
    }
}

/// Whether a data directory has this key already.
///
/// # Errors
/// `Wrong` when another one is there, or one that cannot be read or trusted.
pub fn is_placed(kek: &Kek, data_dir: &Path) -> Result<bool, KekFault> {
    let path = data_dir.join(FILE);
    if !path.exists() {
        return Ok(false);
    }
    let there = KekSource::DataDir.load(data_dir, IfMissing::Refuse, &Entropy::system())?;
    if there.to_base64().same_as(&kek.to_base64()) {
        Ok(true)
    } else {
        Err(KekFault::Wrong(format!("{} is another key: move it away", path.display())))
    }
}

/// Puts a key into a data directory that has none, so that it need not be given there; `true` when it was put there
/// now. One that is there already is never written over.
///
/// # Errors
/// As [`is_placed`]; `NotMade`.
pub fn place(kek: &Kek, data_dir: &Path) -> Result<bool, KekFault> {
    if is_placed(kek, data_dir)? {
        return Ok(false);
    }
    let path = data_dir.join(FILE);
    let made = write_key(&path, &kek.to_base64());
    made.map_err(|e| KekFault::NotMade { path, cause: e.to_string() })?;
    Ok(true)
}

/// Writes a key so that it is there whole or not at all, also after a power cut: what is sealed under it would
/// be lost without it.
fn write_key(path: &Path, key: &Secret) -> io::Result<()> {
    let part = path.with_extension("part");
    // What a start that died in the middle left behind was never used.
    match fs::remove_file(&part) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
    writeln!(file, "{}", key.expose())?;
    file.sync_all()?;
    fs::rename(&part, path)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    fs::File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    #[test]
    fn key_encryption_key_is_placed_where_there_is_none_and_never_over_another() {
        let dir = tempfile::tempdir().unwrap();
        let (kek, other) = (Kek::generate(&Entropy::seeded(1)), Kek::generate(&Entropy::seeded(2)));
        assert_eq!(place(&kek, dir.path()), Ok(true));
        assert_eq!(place(&kek, dir.path()), Ok(false));
        assert!(matches!(place(&other, dir.path()), Err(KekFault::Wrong(_))));
        let path = dir.path().join("kek");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let there = KekSource::DataDir.load(dir.path(), IfMissing::Refuse, &Entropy::seeded(3)).unwrap();
        assert!(there.to_base64().same_as(&kek.to_base64()));
    }

    #[test]
    fn key_encryption_key_is_made_once_and_never_beside_sealed_keys() {
        let dir = tempfile::tempdir().unwrap();
        let entropy = Entropy::seeded(1);
        let missing = KekSource::DataDir.load(dir.path(), IfMissing::Refuse, &entropy).unwrap_err();
        assert_eq!(missing, KekFault::Missing(dir.path().join("kek")));
        KekSource::DataDir.load(dir.path(), IfMissing::DoWithout, &entropy).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let made = KekSource::DataDir.load(dir.path(), IfMissing::Make, &entropy).unwrap().to_base64();
        let again = KekSource::DataDir.load(dir.path(), IfMissing::Refuse, &entropy).unwrap().to_base64();
        assert!(made.same_as(&again));
        let path = dir.path().join("kek");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o604)).unwrap();
        assert!(matches!(
            KekSource::DataDir.load(dir.path(), IfMissing::Refuse, &entropy),
            Err(KekFault::Wrong(_))
        ));
    }
}
