//! The file below redb.
//!
//! After the first I/O error redb refuses everything until the database is opened anew. What is here lets the
//! store do that in place, without giving up its lock: [`Watched`] tells how far a commit came and keeps an
//! abandoned database from writing; [`Detached`] serves reads from a file that takes no writes for now, with
//! what redb must write to open it kept in memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use redb::StorageBackend;

/// Wraps the file's backend; the seam where tests let I/O fail.
pub type WrapBackend = Arc<dyn Fn(Box<dyn StorageBackend>) -> Box<dyn StorageBackend> + Send + Sync>;

/// A file, without redb's locks: the store holds its own for as long as it lives.
#[derive(Debug)]
pub(super) struct Disk(pub Arc<File>);

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }
}

/// What is known of one opening of the database.
#[derive(Debug, Default)]
pub(super) struct Watch {
    abandoned: AtomicBool,
    header_writes: AtomicU32,
    sync_failed: AtomicBool,
}

impl Watch {
    /// Lets nothing more be written: another opening of the same file takes over.
    pub(super) fn abandon(&self) {
        self.abandoned.store(true, Ordering::SeqCst);
    }

    /// To be called before a commit.
    pub(super) fn before_commit(&self) {
        self.header_writes.store(0, Ordering::SeqCst);
    }

    /// Whether a commit that failed may be found in the file later.
    ///
    /// redb's two-phase commit writes the header twice: with the new state in the inactive slot, and, after
    /// all of it was synced, with that slot active. Before the second write is begun nothing was committed.
    ///
    /// Source: `TransactionalMemory::commit` and `select_primary_slot` of redb 4.6.
    pub(super) fn may_be_committed(&self) -> bool {
        self.header_writes.load(Ordering::SeqCst) >= 2
    }

    /// Whether a sync failed: the system may have dropped pages that it never wrote, and calls them clean.
    pub(super) fn sync_failed(&self) -> bool {
        self.sync_failed.load(Ordering::SeqCst)
    }
}

/// A backend under observation.
#[derive(Debug)]
pub(super) struct Watched {
    pub inner: Box<dyn StorageBackend>,
    pub watch: Arc<Watch>,
}

impl Watched {
    fn check(&self) -> io::Result<()> {
        if self.watch.abandoned.load(Ordering::SeqCst) {
            return Err(io::Error::other("the database was opened anew"));
        }
        Ok(())
    }
}

impl StorageBackend for Watched {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check()?;
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.check()?;
        let synced = self.inner.sync_data();
        if synced.is_err() {
            self.watch.sync_failed.store(true, Ordering::SeqCst);
        }
        synced
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check()?;
        if offset == 0 {
            self.watch.header_writes.fetch_add(1, Ordering::SeqCst);
        }
        self.inner.write(offset, data)
    }
}

/// The unit in which writes are kept in memory, in bytes.
const BLOCK: u64 = 4096;

/// A backend whose writes stay in memory, block by block.
#[derive(Debug)]
pub(super) struct Detached {
    base: Box<dyn StorageBackend>,
    over: Mutex<Over>,
}

#[derive(Debug)]
struct Over {
    len: u64,
    blocks: BTreeMap<u64, Box<[u8]>>,
}

impl Detached {
    pub(super) fn new(base: Box<dyn StorageBackend>) -> io::Result<Self> {
        let len = base.len()?;
        Ok(Self { base, over: Mutex::new(Over { len, blocks: BTreeMap::new() }) })
    }

    /// Reads from the file; what lies beyond its end is zero.
    fn read_base(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let there = usize::try_from(self.base.len()?.saturating_sub(offset)).unwrap_or(usize::MAX);
        let (file, beyond) = out.split_at_mut(there.min(out.len()));
        beyond.fill(0);
        if file.is_empty() { Ok(()) } else { self.base.read(offset, file) }
    }
}

impl StorageBackend for Detached {
    fn len(&self) -> io::Result<u64> {
        Ok(self.over.lock().unwrap_or_else(PoisonError::into_inner).len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.read_base(offset, out)?;
        let over = self.over.lock().unwrap_or_else(PoisonError::into_inner);
        let end = offset + out.len() as u64;
        for (number, block) in over.blocks.range(offset / BLOCK..end.div_ceil(BLOCK)) {
            let start = number * BLOCK;
            let (from, to) = (start.max(offset), (start + BLOCK).min(end));
            let target = slice_mut(out, from - offset, to - offset)?;
            target.copy_from_slice(slice(block, from - start, to - start)?);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.over.lock().unwrap_or_else(PoisonError::into_inner).len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut over = self.over.lock().unwrap_or_else(PoisonError::into_inner);
        let end = offset + data.len() as u64;
        for number in offset / BLOCK..end.div_ceil(BLOCK) {
            let start = number * BLOCK;
            let mut block = match over.blocks.remove(&number) {
                Some(block) => block,
                None => {
                    let mut block = vec![0; BLOCK as usize].into_boxed_slice();
                    self.read_base(start, &mut block)?;
                    block
                }
            };
            let (from, to) = (start.max(offset), (start + BLOCK).min(end));
            let source = slice(data, from - offset, to - offset)?;
            slice_mut(&mut block, from - start, to - start)?.copy_from_slice(source);
            over.blocks.insert(number, block);
        }
        Ok(())
    }
}

fn slice(bytes: &[u8], from: u64, to: u64) -> io::Result<&[u8]> {
    bytes.get(from as usize..to as usize).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

fn slice_mut(bytes: &mut [u8], from: u64, to: u64) -> io::Result<&mut [u8]> {
    bytes.get_mut(from as usize..to as usize).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// Bytes moved at a time by [`write_again`].
const CHUNK: u64 = 1 << 20;

/// Writes every block of the file as it is read, but for zeros, and syncs.
///
/// After a sync that failed, the system may hold pages as clean that never reached the disk. Only what is
/// written again is sure to be there after the next sync.
pub(super) fn write_again(backend: &dyn StorageBackend) -> io::Result<()> {
    let len = backend.len()?;
    let mut buffer = vec![0; CHUNK as usize];
    let mut offset = 0;
    while offset < len {
        let chunk = slice_mut(&mut buffer, 0, CHUNK.min(len - offset))?;
        backend.read(offset, chunk)?;
        for (at, block) in (offset..).step_by(BLOCK as usize).zip(chunk.chunks(BLOCK as usize)) {
            // A hole stays a hole.
            if block.iter().any(|byte| *byte != 0) {
                backend.write(at, block)?;
            }
        }
        offset += CHUNK;
    }
    backend.sync_data()
}

#[cfg(test)]
mod tests {
    use redb::backends::InMemoryBackend;

    use super::*;

    #[test]
    fn detached_reads_what_was_written_and_leaves_the_base_alone() {
        let base = InMemoryBackend::new();
        base.set_len(10_000).unwrap();
        base.write(0, &[7; 10_000]).unwrap();
        let detached = Detached::new(Box::new(base)).unwrap();
        let mut expected = vec![7; 10_000];
        for (offset, len, byte) in [(0, 1, 1), (4_095, 2, 2), (5_000, 4_500, 3), (4_096, 4_096, 4)] {
            detached.write(offset as u64, &vec![byte; len]).unwrap();
            expected[offset..offset + len].fill(byte);
        }
        let mut read = vec![0; 10_000];
        detached.read(0, &mut read).unwrap();
        assert!(read == expected);
        detached.read(4_000, &mut read[..2_000]).unwrap();
        assert!(read[..2_000] == expected[4_000..6_000]);
        detached.set_len(20_000).unwrap();
        detached.write(15_000, &[9]).unwrap();
        detached.read(14_999, &mut read[..3]).unwrap();
        assert_eq!(read[..3], [0, 9, 0]);
        detached.base.read(0, &mut read).unwrap();
        assert!(read == vec![7; 10_000]);
    }
}
