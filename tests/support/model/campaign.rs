//! Many sequences: played on every core, their outcomes counted, and one that fails shrunk.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use iam_schema::OperationName;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::ground::Backend;
use super::run::{Failure, Played, play};
use super::steps::{Sequence, sequences};

/// How much is tried.
#[derive(Debug, Clone)]
pub struct Campaign {
    pub backend: Backend,
    /// The n-th sequence is made of this and n alone.
    pub seed: u64,
    pub first: usize,
    pub sequences: usize,
    /// The most steps in one.
    pub longest: usize,
    /// For how long a failing sequence is shrunk.
    pub shrink: Duration,
}

/// What a campaign came to.
#[derive(Debug, Default)]
pub struct Tally {
    pub sequences: usize,
    pub requests: usize,
    pub late: usize,
    pub old: usize,
    pub outcomes: BTreeMap<(&'static str, OperationName, &'static str), usize>,
    pub elapsed: Duration,
}

/// A sequence that the service did not pass, as short as it could be made.
#[derive(Debug)]
pub struct Found {
    pub sequence: usize,
    /// How many sequences and requests had passed before.
    pub after: usize,
    pub requests: usize,
    pub report: String,
}

impl Campaign {
    /// As the environment says: `IAM_TEST_MODEL_SEQUENCES`, `IAM_TEST_MODEL_STEPS`, `IAM_TEST_MODEL_SEED`,
    /// `IAM_TEST_MODEL_FIRST` to begin with another than the first, and `IAM_TEST_MODEL_SHRINK_S`.
    pub fn from_environment(backend: Backend, sequences: usize, longest: usize) -> Self {
        let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
        let size =
            |name: &str, default| number(name).map_or(default, |n| usize::try_from(n).expect("a size"));
        Self {
            backend,
            seed: number("IAM_TEST_MODEL_SEED").unwrap_or(1),
            first: size("IAM_TEST_MODEL_FIRST", 0),
            sequences: size("IAM_TEST_MODEL_SEQUENCES", sequences),
            longest: size("IAM_TEST_MODEL_STEPS", longest),
            shrink: Duration::from_secs(number("IAM_TEST_MODEL_SHRINK_S").unwrap_or(20)),
        }
    }

    fn runner(&self, sequence: usize) -> TestRunner {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&self.seed.to_le_bytes());
        seed[8..16].copy_from_slice(&(sequence as u64).to_le_bytes());
        TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &seed))
    }

    /// Plays all sequences; the first that failed ends it.
    pub fn run(&self) -> (Tally, Option<Found>) {
        let begun = Instant::now();
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let (tally, failed) = (Mutex::new(Tally::default()), Mutex::new(None::<(usize, usize, usize)>));
        let threads = std::thread::available_parallelism().map_or(2, |n| n.get().min(8));
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    let (runtime, strategy) = (runtime(), sequences(self.longest));
                    while !stop.load(Ordering::Relaxed) {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        if index >= self.sequences {
                            break;
                        }
                        let sequence = self.first + index;
                        let made =
                            strategy.new_tree(&mut self.runner(sequence)).expect("a sequence").current();
                        let played = runtime.block_on(play(&made, &self.backend, false));
                        let mut tally = tally.lock().expect("no panic in between");
                        if played.failure.is_some() {
                            stop.store(true, Ordering::Relaxed);
                            let mut failed = failed.lock().expect("no panic in between");
                            if failed.is_none_or(|(earlier, ..)| sequence < earlier) {
                                *failed = Some((sequence, tally.sequences, tally.requests + played.requests));
                            }
                        }
                        tally.take(played);
                    }
                });
            }
        });
        let mut tally = tally.into_inner().expect("no panic in between");
        tally.elapsed = begun.elapsed();
        let failed = failed.into_inner().expect("no panic in between");
        let found = failed.map(|(sequence, after, requests)| {
            let report = self.shrunk(sequence);
            Found { sequence, after, requests, report }
        });
        (tally, found)
    }

    /// Shrinks a sequence that fails, and tells it.
    fn shrunk(&self, sequence: usize) -> String {
        let runtime = runtime();
        let fails = |made: &Sequence| runtime.block_on(play(made, &self.backend, false)).failure;
        let mut tree = sequences(self.longest).new_tree(&mut self.runner(sequence)).expect("a sequence");
        let whole = tree.current();
        let (mut least, begun, mut tried) = (whole.clone(), Instant::now(), 0);
        if let Some(Failure { step, .. }) = fails(&whole) {
            // What came after the failure did not cause it.
            let mut cut = whole.clone();
            cut.steps.truncate(step);
            if fails(&cut).is_some() {
                least = cut;
            }
        }
        let mut more = tree.simplify();
        while more && begun.elapsed() < self.shrink && !least.steps.is_empty() {
            tried += 1;
            let made = tree.current();
            more = match fails(&made) {
                Some(_) => {
                    if made.steps.len() <= least.steps.len() {
                        least = made;
                    }
                    tree.simplify()
                }
                None => tree.complicate(),
            };
        }
        let told = runtime.block_on(play(&least, &self.backend, true));
        let mut report = format!("sequence {sequence} of seed {}, shrunk by {tried} tries\n", self.seed);
        let Sequence { start, token_mode, anonymous, prompt, steps } = &least;
        let _ =
            writeln!(report, "{start:?}, token mode {token_mode}, anonymous {anonymous}, prompt {prompt}");
        for step in steps {
            let _ = writeln!(report, "  {step:?}");
        }
        let _ = writeln!(report, "what happened:");
        let from = told.story.len().saturating_sub(60);
        for line in &told.story[from..] {
            let _ = writeln!(report, "  {line}");
        }
        match told.failure {
            Some(Failure { step, what }) => writeln!(report, "at step {step}: {what}"),
            None => writeln!(report, "it passed when played once more"),
        }
        .expect("a text");
        report
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

impl Tally {
    fn take(&mut self, played: Played) {
        self.sequences += 1;
        self.requests += played.requests;
        self.late += played.late;
        self.old += played.old;
        for (outcome, count) in played.outcomes {
            *self.outcomes.entry(outcome).or_default() += count;
        }
    }

    /// How often an operation had an outcome, on either plane.
    pub fn count(&self, operation: OperationName, outcome: &str) -> usize {
        let of = self.outcomes.iter().filter(|((_, op, what), _)| *op == operation && *what == outcome);
        of.map(|(_, count)| count).sum()
    }

    /// The counts as a table.
    pub fn table(&self) -> String {
        let mut table = String::new();
        for operation in OperationName::ALL {
            for plane in ["svc", "api"] {
                let _ = write!(table, "{:<24} {plane}", operation.as_str());
                for ((_, _, what), count) in
                    self.outcomes.iter().filter(|((at, op, _), _)| op == operation && *at == plane)
                {
                    let _ = write!(table, "  {what} {count}");
                }
                table.push('\n');
            }
        }
        let seconds = self.elapsed.as_secs_f64();
        let _ = writeln!(
            table,
            "{} sequences, {} requests in {seconds:.1} s: {:.0} sequences/s, {:.1} requests each; {} answers could be \
             old, {} were",
            self.sequences,
            self.requests,
            self.sequences as f64 / seconds,
            self.requests as f64 / self.sequences.max(1) as f64,
            self.late,
            self.old,
        );
        table
    }
}
