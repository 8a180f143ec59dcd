//! A terminal, for programs that write otherwise to people than to files.

use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::process::Stdio;
use std::thread::JoinHandle;

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// Opens a terminal for a program to write to. All of it is copied to `to`, until nobody holds the terminal any more:
/// then the thread ends.
///
/// # Errors
/// What the system says when it has no terminal to give.
pub fn copied_to(mut to: File) -> io::Result<(Stdio, JoinHandle<()>)> {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
    grantpt(&ours)?;
    unlockpt(&ours)?;
    let name = ptsname(&ours, Vec::new())?;
    let path = std::path::Path::new(std::ffi::OsStr::from_bytes(name.as_bytes()));
    let theirs = rustix::fs::open(path, OFlags::RDWR | OFlags::NOCTTY, Mode::empty())?;
    let copier = std::thread::spawn(move || {
        // Reading fails when the other end is closed.
        let _ = io::copy(&mut File::from(ours), &mut to);
    });
    Ok((theirs.into(), copier))
}
