//! A disk in memory that takes down what is done to it, so that it can be cut off at any point of that.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use iam_svc::store::embedded::WrapBackend;
use rand::{Rng, RngExt};
use redb::StorageBackend;

/// The size of what a real disk writes whole or not at all, in bytes.
const SECTOR: usize = 512;

/// What was done to the disk.
#[derive(Debug, Clone)]
enum Event {
    Write { offset: usize, data: Vec<u8> },
    SetLen(usize),
    Sync,
}

impl Event {
    fn apply(&self, image: &mut Vec<u8>) {
        match self {
            Event::Write { offset, data } => {
                let end = offset + data.len();
                if image.len() < end {
                    image.resize(end, 0);
                }
                image[*offset..end].copy_from_slice(data);
            }
            Event::SetLen(len) => image.resize(*len, 0),
            Event::Sync => {}
        }
    }
}

/// The disk. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct CrashDisk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    image: Vec<u8>,
    base: Vec<u8>,
    events: Vec<Event>,
}

impl CrashDisk {
    /// A disk that holds this file.
    pub fn of(image: Vec<u8>) -> Self {
        let base = image.clone();
        Self(Arc::new(Mutex::new(State { image, base, events: Vec::new() })))
    }

    /// For `Options::wrap`: the store's file is then this disk, and the real one stays as it is.
    pub fn wrap(&self) -> WrapBackend {
        let disk = self.clone();
        Arc::new(move |_| Box::new(disk.clone()))
    }

    /// What was done since this was last asked for, or since the beginning.
    pub fn recording(&self) -> Recording {
        let mut state = self.state();
        let base = std::mem::take(&mut state.base);
        state.base = state.image.clone();
        Recording { base, events: std::mem::take(&mut state.events) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn done(&self, event: Event) {
        let mut state = self.state();
        event.apply(&mut state.image);
        state.events.push(event);
    }
}

/// A file, and everything that was done to it after that, in order.
#[derive(Debug)]
pub struct Recording {
    base: Vec<u8>,
    events: Vec<Event>,
}

impl Recording {
    /// The number of points at which it can be cut: before each event, and after the last.
    pub fn points(&self) -> usize {
        self.events.len() + 1
    }

    /// How often the disk was synced.
    pub fn syncs(&self) -> usize {
        self.events.iter().filter(|event| matches!(event, Event::Sync)).count()
    }

    /// The file if the process was killed at this point: what it had written is there, synced or not.
    pub fn killed_at(&self, point: usize) -> Vec<u8> {
        let mut image = self.base.clone();
        self.events[..point].iter().for_each(|event| event.apply(&mut image));
        image
    }

    /// The file if the power failed at this point and nothing that was not synced had reached the disk.
    pub fn unsynced_lost_at(&self, point: usize) -> Vec<u8> {
        self.killed_at(self.synced_before(point))
    }

    /// The file if the power failed at this point: of what was not synced a random part is there, in random
    /// order, and what was being written last may be torn between sectors.
    pub fn power_failed_at(&self, point: usize, random: &mut impl Rng) -> Vec<u8> {
        let synced = self.synced_before(point);
        let mut image = self.killed_at(synced);
        for event in &self.events[synced..point] {
            match event {
                Event::Write { offset, data } => {
                    for (i, sector) in data.chunks(SECTOR).enumerate() {
                        if random.random_bool(0.5) {
                            Event::Write { offset: offset + i * SECTOR, data: sector.to_vec() }
                                .apply(&mut image);
                        }
                    }
                }
                // A file system orders its own bookkeeping.
                Event::SetLen(_) | Event::Sync => event.apply(&mut image),
            }
        }
        image
    }

    fn synced_before(&self, point: usize) -> usize {
        self.events[..point].iter().rposition(|event| matches!(event, Event::Sync)).map_or(0, |at| at + 1)
    }
}

impl StorageBackend for CrashDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state().image.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.state();
        let offset = offset as usize;
        let there = state.image.get(offset..offset + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(there);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.done(Event::SetLen(len as usize));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.done(Event::Sync);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.done(Event::Write { offset: offset as usize, data: data.to_vec() });
        Ok(())
    }
}
