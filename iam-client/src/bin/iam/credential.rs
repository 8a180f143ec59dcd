//! The credential: where it comes from, and where `iam login` keeps its JWT.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use iam_client::schema::Secret;

use crate::failure::Failure;
use crate::secrets;

/// The environment variable that holds a credential itself.
pub const VARIABLE: &str = "IAM_CREDENTIAL";

/// Where a credential was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// In `IAM_CREDENTIAL`.
    Environment,
    /// In the file that `--credential-file` or `IAM_CREDENTIAL_FILE` names.
    Named(PathBuf),
    /// Where `iam login` stored it.
    Stored(PathBuf),
}

impl Origin {
    /// The file that it is in.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Origin::Environment => None,
            Origin::Named(path) | Origin::Stored(path) => Some(path),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Environment => f.write_str(VARIABLE),
            Origin::Named(path) | Origin::Stored(path) => write!(f, "`{}`", path.display()),
        }
    }
}

/// A credential, and where it was found.
#[derive(Debug)]
pub struct Found {
    pub credential: Secret,
    pub origin: Origin,
}

/// Finds the credential: the file named by option, then the variable with the credential itself, then the file
/// named by variable, then what `iam login` stored.
///
/// # Errors
/// A named file that cannot be read, or a stored one that is there and cannot be read.
pub fn find(
    by_option: Option<&Path>,
    variable: impl Fn(&str) -> Option<String>,
    stored: Option<&Path>,
) -> Result<Option<Found>, Failure> {
    let named = |path: &Path| {
        let credential = secrets::from_file("credential file", path)?;
        Ok(Some(Found { credential, origin: Origin::Named(path.to_owned()) }))
    };
    if let Some(path) = by_option {
        return named(path);
    }
    if let Some(text) = variable(VARIABLE) {
        return Ok(Some(Found { credential: Secret::from(text), origin: Origin::Environment }));
    }
    if let Some(path) = variable("IAM_CREDENTIAL_FILE") {
        return named(Path::new(&path));
    }
    match stored {
        Some(path) if path.exists() => {
            let credential = secrets::from_file("the stored credential", path)?;
            Ok(Some(Found { credential, origin: Origin::Stored(path.to_owned()) }))
        }
        _ => Ok(None),
    }
}

/// Writes a credential so that only its owner can read it, and so that a reader finds the old one or the new one.
pub fn store(path: &Path, credential: &Secret) -> Result<(), Failure> {
    let fault = |e: io::Error| {
        Failure::unexpected(format!("cannot store the credential in `{}`: {e}", path.display()))
    };
    let directory = path.parent().unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(fault)?;
    let temporary = directory.join(format!(".credential.{}", std::process::id()));
    let written = write_new(&temporary, credential).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // What is left is of no use to anybody; the fault to report is the first one.
        let _ = fs::remove_file(&temporary);
    }
    written.map_err(fault)
}

fn write_new(path: &Path, credential: &Secret) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(credential.expose().as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()
}

/// Removes the stored credential; whether there was one.
pub fn forget(path: &Path) -> Result<bool, Failure> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Failure::unexpected(format!("cannot remove `{}`: {e}", path.display()))),
    }
}

/// Whether others than its owner may read a file.
pub fn readable_by_others(path: &Path) -> bool {
    File::open(path).and_then(|file| file.metadata()).is_ok_and(|m| m.permissions().mode() & 0o077 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_credential_is_its_owners_alone_and_replaced_whole() {
        let home = std::env::temp_dir().join(format!("iam-credential-{}", std::process::id()));
        let path = home.join("state/iam/credential");
        for text in ["one", "two"] {
            store(&path, &Secret::new(text)).unwrap();
            assert!(!readable_by_others(&path));
            let found = find(None, |_| None, Some(&path)).unwrap().unwrap();
            assert_eq!(found.credential.expose(), text);
            assert_eq!(found.origin, Origin::Stored(path.clone()));
        }
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        assert!(forget(&path).unwrap() && !forget(&path).unwrap());
        assert!(find(None, |_| None, Some(&path)).unwrap().is_none());
        fs::remove_dir_all(home).unwrap();
    }

    #[test]
    fn option_beats_variable_and_a_named_file_must_be_there() {
        let variable = |name: &str| (name == VARIABLE).then(|| "key".to_owned());
        let found = find(None, variable, None).unwrap().unwrap();
        assert_eq!((found.credential.expose(), found.origin), ("key", Origin::Environment));
        assert!(find(Some(Path::new("no/such/file")), variable, None).is_err());
    }
}
