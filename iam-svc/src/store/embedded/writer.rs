//! The one thread that writes.
//!
//! Commands that wait together are committed together: each runs in the same transaction, sees what those
//! before it did, and has its own outcome; one sync makes all of them durable. An outcome is told only after
//! that.
//!
//! A failed write leaves redb's database unusable. The thread then opens it anew in place; where that fails
//! too, for want of room or because the disk takes no writes, it opens it detached, so that reads go on. While
//! the file is not healthy, writes are refused at once but for a try now and then.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::Shared;
use super::tables::{Fault, Tx};
use crate::store::StoreError;

/// Commands that may wait; beyond it callers wait to be let in.
const QUEUE: usize = 1024;
/// The most commands in one transaction, so that the first one does not wait for ever.
const MAX_GROUP: usize = 256;
/// How long writes are refused after one failed: ten times what the re-opening took, within these bounds.
const RETRY_AFTER: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// A write that waits for its turn.
///
/// It may run more than once, each time as if for the first: when another command of its group fails, what
/// the group did is thrown away and each runs alone.
pub(super) trait Command: Send {
    fn run(&mut self, tx: &Tx<'_>) -> Result<(), Fault>;
    /// Tells the caller: the outcome of the last run, or why there is none.
    fn finish(self: Box<Self>, failure: Option<StoreError>);
}

struct Job<F, T> {
    work: F,
    outcome: Option<T>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<F, T> Command for Job<F, T>
where
    F: FnMut(&Tx<'_>) -> Result<T, Fault> + Send,
    T: Send,
{
    fn run(&mut self, tx: &Tx<'_>) -> Result<(), Fault> {
        self.outcome = Some((self.work)(tx)?);
        Ok(())
    }

    fn finish(self: Box<Self>, failure: Option<StoreError>) {
        let result = match (failure, self.outcome) {
            (Some(failure), _) => Err(failure),
            (None, Some(outcome)) => Ok(outcome),
            (None, None) => Err(StoreError::OutcomeUnknown("the command did not run".to_owned())),
        };
        // Nobody waits any more: the change stands all the same.
        let _ = self.reply.send(result);
    }
}

enum Message {
    Run(Box<dyn Command>),
    /// A read failed, at this number of openings.
    Reopen(u64),
}

/// The way to the thread. Dropping it lets the thread finish what waits and ends it.
#[derive(Debug)]
pub(super) struct Writer {
    queue: Option<mpsc::Sender<Message>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread. `healthy` is whether the database was opened for writing.
    pub(super) fn start(shared: Arc<Shared>, healthy: bool) -> std::io::Result<Self> {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let illness = (!healthy).then(|| Illness {
            cause: "the file takes no writes".to_owned(),
            detached: true,
            retry_at: Instant::now(),
        });
        let mut state = State { shared, illness };
        let thread =
            std::thread::Builder::new().name("store".to_owned()).spawn(move || state.serve(waiting))?;
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }

    /// Runs a command and waits until it is durable. Given up half-way, it may be done all the same.
    pub(super) async fn run<F, T>(&self, work: F) -> Result<T, StoreError>
    where
        F: FnMut(&Tx<'_>) -> Result<T, Fault> + Send + 'static,
        T: Send + 'static,
    {
        let stopped = || StoreError::Unavailable("the writer has stopped".to_owned());
        let (reply, answer) = oneshot::channel();
        let job = Box::new(Job { work, outcome: None, reply });
        let queue = self.queue.as_ref().ok_or_else(stopped)?;
        queue.send(Message::Run(job)).await.map_err(|_| stopped())?;
        answer.await.unwrap_or_else(|_| Err(StoreError::OutcomeUnknown("the writer stopped".to_owned())))
    }

    /// Asks for the database to be opened anew, unless that was done since `openings`.
    pub(super) fn reopen(&self, openings: u64) {
        if let Some(queue) = &self.queue {
            // A full queue means writes that will find the fault themselves.
            let _ = queue.try_send(Message::Reopen(openings));
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // It catches what its commands throw, so there is nothing to learn here.
            let _ = thread.join();
        }
    }
}

/// Why nothing is written for now.
#[derive(Debug)]
struct Illness {
    cause: String,
    /// The database in use is not the file's own, so writing needs a re-opening first.
    detached: bool,
    retry_at: Instant,
}

struct State {
    shared: Arc<Shared>,
    illness: Option<Illness>,
}

/// How the file failed, for every command of a group alike.
struct Failure {
    cause: String,
    /// Whether the group may be in the file all the same.
    may_be_committed: bool,
}

impl Failure {
    fn certain(cause: impl std::fmt::Display) -> Group {
        Group::Failed(Failure { cause: cause.to_string(), may_be_committed: false })
    }

    fn to_store_error(&self) -> StoreError {
        let cause = self.cause.clone();
        if self.may_be_committed { StoreError::OutcomeUnknown(cause) } else { StoreError::Unavailable(cause) }
    }
}

/// What became of a group.
enum Group {
    Committed,
    /// This command cannot be carried out; nothing of the group was kept.
    Refused {
        index: usize,
        fault: Fault,
    },
    /// The file failed.
    Failed(Failure),
    /// This command met damage that redb does not survive; nothing of the group was kept.
    Damaged {
        index: usize,
    },
}

impl State {
    fn serve(&mut self, mut waiting: mpsc::Receiver<Message>) {
        let mut group = Vec::new();
        while let Some(message) = waiting.blocking_recv() {
            self.take(message, &mut group);
            while group.len() < MAX_GROUP {
                let Ok(message) = waiting.try_recv() else { break };
                self.take(message, &mut group);
            }
            self.commit(std::mem::take(&mut group));
        }
    }

    fn take(&mut self, message: Message, group: &mut Vec<Box<dyn Command>>) {
        match message {
            Message::Run(command) => group.push(command),
            Message::Reopen(openings) => {
                let due = self.illness.as_ref().is_none_or(|illness| Instant::now() >= illness.retry_at);
                if openings != self.shared.openings() {
                    return;
                }
                if due {
                    self.fall_ill("a read failed".to_owned());
                } else {
                    // Too soon to try again: let those who wait know.
                    self.shared.announce();
                }
            }
        }
    }

    fn commit(&mut self, mut group: Vec<Box<dyn Command>>) {
        if group.is_empty() {
            return;
        }
        if let Err(cause) = self.ready().and_then(|()| self.shared.file.in_place()) {
            return finish_all(group, || Some(StoreError::Unavailable(cause.clone())));
        }
        match self.attempt(&mut group) {
            Group::Committed => finish_all(group, || None),
            Group::Refused { index, fault } if group.len() == 1 || index >= group.len() => {
                let mut failure = Some(fault.into_store_error());
                finish_all(group, || failure.take());
            }
            Group::Refused { .. } => {
                // Nothing was kept, so each can run alone; the one at fault then fails alone.
                group.into_iter().for_each(|command| self.commit(vec![command]));
            }
            Group::Failed(failure) => {
                finish_all(group, || Some(failure.to_store_error()));
                self.fall_ill(failure.cause);
            }
            Group::Damaged { index } => {
                for (i, command) in group.into_iter().enumerate() {
                    let failure = if i == index {
                        Fault::of_file("a write met a damaged page").into_store_error()
                    } else {
                        StoreError::Unavailable("another write met a damaged page".to_owned())
                    };
                    command.finish(Some(failure));
                }
                self.fall_ill("a write met a damaged page".to_owned());
            }
        }
    }

    /// Runs a group in one transaction and commits it.
    fn attempt(&self, group: &mut [Box<dyn Command>]) -> Group {
        let mut running = None;
        let attempt = catch_unwind(AssertUnwindSafe(|| self.transaction(group, &mut running)));
        // redb panics on some damage that it meets; it is unusable afterwards.
        match (attempt, running) {
            (Ok(outcome), _) => outcome,
            (Err(_), Some(index)) => Group::Damaged { index },
            (Err(_), None) => Group::Failed(Failure {
                cause: "a commit met a damaged page".to_owned(),
                may_be_committed: self.shared.watch().may_be_committed(),
            }),
        }
    }

    fn transaction(&self, group: &mut [Box<dyn Command>], running: &mut Option<usize>) -> Group {
        let watch = self.shared.watch();
        watch.before_commit();
        let begun = self.shared.with_database(|database| database.begin_write());
        let mut inner = match begun {
            Ok(inner) => inner,
            Err(error) => return Failure::certain(error),
        };
        // Damage is then told from a torn commit when the file is opened, and no data that a caller chose
        // can pass for a commit. Source: redb, `WriteTransaction::set_two_phase_commit`.
        inner.set_two_phase_commit(true);
        let tx = Tx::new(&inner);
        for (index, command) in group.iter_mut().enumerate() {
            *running = Some(index);
            match command.run(&tx) {
                Ok(()) => {}
                Err(Fault::Io(cause)) => return Failure::certain(cause),
                Err(fault @ Fault::Corrupt { .. }) => {
                    return match inner.abort() {
                        Ok(()) => Group::Refused { index, fault },
                        Err(error) => Failure::certain(error),
                    };
                }
            }
        }
        *running = None;
        let finished = if tx.wrote() {
            inner.commit().map_err(|error| error.to_string())
        } else {
            inner.abort().map_err(|error| error.to_string())
        };
        // The file may have been taken away meanwhile.
        let finished = finished.and_then(|()| self.shared.file.in_place());
        match finished {
            Ok(()) => Group::Committed,
            Err(cause) => Group::Failed(Failure { cause, may_be_committed: watch.may_be_committed() }),
        }
    }

    /// Makes sure that there is a database to write to.
    fn ready(&mut self) -> Result<(), String> {
        match &self.illness {
            None => Ok(()),
            Some(illness) if Instant::now() < illness.retry_at => Err(illness.cause.clone()),
            Some(Illness { detached: false, .. }) => {
                self.illness = None;
                Ok(())
            }
            Some(Illness { cause, .. }) => {
                let cause = cause.clone();
                self.fall_ill(cause.clone());
                match &self.illness {
                    Some(Illness { detached: true, .. }) => Err(cause),
                    Some(_) | None => {
                        self.illness = None;
                        Ok(())
                    }
                }
            }
        }
    }

    /// Opens the database anew, and refuses writes for a while.
    fn fall_ill(&mut self, cause: String) {
        let was_detached = matches!(self.illness, Some(Illness { detached: true, .. }));
        if self.illness.is_none() {
            tracing::error!(cause, "the store's file failed; opening it anew");
        }
        let begun = Instant::now();
        let detached = match self.shared.open_anew() {
            Ok(()) => {
                tracing::info!("the store's file is open for writing again");
                false
            }
            Err(error) => {
                tracing::error!(%error, "the store's file takes no writes; reads go on");
                if !was_detached && let Err(error) = self.shared.open_detached() {
                    tracing::error!(%error, "the store's file cannot be read");
                }
                true
            }
        };
        self.shared.announce();
        let (least, most) = RETRY_AFTER;
        let retry_at = Instant::now() + (begun.elapsed() * 10).clamp(least, most);
        self.illness = Some(Illness { cause, detached, retry_at });
    }
}

fn finish_all(group: Vec<Box<dyn Command>>, mut failure: impl FnMut() -> Option<StoreError>) {
    group.into_iter().for_each(|command| command.finish(failure()));
}
