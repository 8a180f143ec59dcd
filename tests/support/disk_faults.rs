//! Disk failures on demand, below the embedded store.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use iam_svc::store::embedded::WrapBackend;
use redb::StorageBackend;

/// What fails, from the next call on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Failing {
    Nothing = 0,
    /// The file cannot grow: `ENOSPC`. What is there can be overwritten.
    Growth,
    /// Nothing can be written: `ENOSPC`.
    Room,
    /// Nothing can be written: `EIO`.
    Writes,
    /// Nothing can be synced: `EIO`.
    Syncs,
    /// The second sync from now on, and those after it, fail: `EIO`. A commit that does not grow the file has two.
    SecondSync,
    /// Nothing can be read: `EIO`.
    Reads,
}

/// The switch. Clones turn the same disk.
#[derive(Debug, Clone, Default)]
pub struct DiskFaults(Arc<State>);

#[derive(Debug, Default)]
struct State {
    failing: AtomicU8,
    syncs: AtomicU32,
}

impl DiskFaults {
    /// Lets this fail, and nothing else.
    pub fn set(&self, failing: Failing) {
        self.0.syncs.store(0, Ordering::SeqCst);
        self.0.failing.store(failing as u8, Ordering::SeqCst);
    }

    /// For `Options::wrap`.
    pub fn wrap(&self) -> WrapBackend {
        let faults = self.clone();
        Arc::new(move |inner| Box::new(Faulty { inner, faults: faults.clone() }))
    }

    fn fails(&self, what: &[Failing]) -> bool {
        let now = self.0.failing.load(Ordering::SeqCst);
        what.iter().any(|failing| *failing as u8 == now)
    }
}

#[derive(Debug)]
struct Faulty {
    inner: Box<dyn StorageBackend>,
    faults: DiskFaults,
}

fn no_room() -> io::Error {
    io::Error::from(io::ErrorKind::StorageFull)
}

fn broken() -> io::Error {
    io::Error::other("input/output error")
}

impl StorageBackend for Faulty {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if self.faults.fails(&[Failing::Reads]) { Err(broken()) } else { self.inner.read(offset, out) }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let grows = len > self.inner.len()?;
        if self.faults.fails(&[Failing::Room]) || (grows && self.faults.fails(&[Failing::Growth])) {
            return Err(no_room());
        }
        if self.faults.fails(&[Failing::Writes]) { Err(broken()) } else { self.inner.set_len(len) }
    }

    fn sync_data(&self) -> io::Result<()> {
        let earlier = self.faults.0.syncs.fetch_add(1, Ordering::SeqCst);
        let second = earlier > 0 && self.faults.fails(&[Failing::SecondSync]);
        if second || self.faults.fails(&[Failing::Syncs]) { Err(broken()) } else { self.inner.sync_data() }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if self.faults.fails(&[Failing::Room]) {
            return Err(no_room());
        }
        if self.faults.fails(&[Failing::Writes]) { Err(broken()) } else { self.inner.write(offset, data) }
    }
}
