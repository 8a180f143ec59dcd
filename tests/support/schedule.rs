//! A scheduler for races: callers of one store go on one step at a time, in an order that can be walked and
//! played again.
//!
//! A step is whatever a caller does up to its next call of the store, or from such a call's answer on. A call
//! itself is not cut: the store's own threads do all of it before anybody else goes on. Nor is a password hash:
//! that is progress elsewhere, and waited for.

use std::fmt;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Where the callers of a store wait until it is their turn. Until somebody plays, nobody waits.
#[derive(Debug, Default)]
pub struct Turns(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    playing: bool,
    /// Callers wait after a call too, and not only before it.
    after: bool,
    /// Who goes on now.
    running: usize,
    /// The one who goes on came to where one waits.
    waits: bool,
    /// The one who goes on is in a call of the store.
    inside: bool,
    calls: Vec<(usize, &'static str)>,
}

impl Turns {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Before a call of the store.
    pub async fn before(&self, method: &'static str) {
        self.wait(|state| state.playing).await;
        let mut state = self.state();
        if state.playing {
            state.inside = true;
            let call = (state.running, method);
            state.calls.push(call);
        }
    }

    /// After a call of the store.
    pub async fn after(&self) {
        self.state().inside = false;
        self.wait(|state| state.playing && state.after).await;
    }

    async fn wait(&self, must: impl Fn(&State) -> bool) {
        let mut waited = false;
        poll_fn(|_| {
            let mut state = self.state();
            if waited || !must(&state) {
                return Poll::Ready(());
            }
            (waited, state.waits) = (true, true);
            Poll::Pending
        })
        .await;
    }
}

/// What can be next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// This caller goes on.
    On(usize),
    /// This caller goes no further: its process died.
    Dies(usize),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::On(caller) => write!(f, "{caller}"),
            Step::Dies(caller) => write!(f, "x{caller}"),
        }
    }
}

impl FromStr for Step {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix('x') {
            Some(caller) => Ok(Step::Dies(caller.parse()?)),
            None => Ok(Step::On(text.parse()?)),
        }
    }
}

/// What became of a caller.
#[derive(Debug)]
pub struct End<T> {
    /// `None`: it died.
    pub answer: Option<T>,
    /// The numbers of its first and last step.
    pub began: usize,
    pub ended: usize,
}

/// A game that was played to its end.
#[derive(Debug)]
pub struct Played<T> {
    pub ends: Vec<End<T>>,
    /// Who called what of the store, in order.
    pub calls: Vec<(usize, &'static str)>,
}

struct Woken {
    flag: AtomicBool,
    thread: Thread,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.flag.store(true, Ordering::SeqCst);
        self.thread.unpark();
    }
}

struct Caller<'c, T> {
    future: Option<Pin<Box<dyn Future<Output = T> + 'c>>>,
    woken: Arc<Woken>,
    /// It waits for another caller, or for a hash.
    blocked: bool,
    began: Option<usize>,
    end: Option<End<T>>,
}

impl<T> Caller<'_, T> {
    fn can_go_on(&self) -> bool {
        self.future.is_some() && (!self.blocked || self.woken.flag.load(Ordering::SeqCst))
    }
}

/// How a game is played.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rules {
    /// Callers wait after a call of the store too: needed where they share a memory.
    pub after: bool,
    /// This caller may die, once, wherever it waits.
    pub mortal: Option<usize>,
}

/// Plays: lets `choose` pick, by its index, which of the steps that are possible comes next, until all callers
/// have their answer or died. `settle` is to return once whatever was asked of other threads is done.
///
/// # Panics
/// When nobody can go on: they wait for each other.
pub fn play<'c, T>(
    turns: &Turns,
    rules: Rules,
    callers: Vec<Pin<Box<dyn Future<Output = T> + 'c>>>,
    settle: impl Fn(),
    mut choose: impl FnMut(&[Step]) -> usize,
) -> Played<T> {
    let mut callers: Vec<Caller<'c, T>> = callers
        .into_iter()
        .map(|future| {
            let woken = Woken { flag: AtomicBool::new(false), thread: std::thread::current() };
            Caller { future: Some(future), woken: Arc::new(woken), blocked: false, began: None, end: None }
        })
        .collect();
    *turns.state() = State { playing: true, after: rules.after, ..State::default() };
    let mut mortal = rules.mortal;
    for n in 0.. {
        if callers.iter().any(|caller| caller.future.is_some() && !caller.can_go_on()) {
            settle();
        }
        let mut steps: Vec<Step> =
            (0..callers.len()).filter(|i| callers[*i].can_go_on()).map(Step::On).collect();
        if steps.is_empty() {
            assert!(callers.iter().all(|caller| caller.future.is_none()), "they wait for each other");
            break;
        }
        // One that goes on outside of the store cannot be told from one that waits for another, and stays.
        steps.extend(mortal.filter(|i| callers[*i].future.is_some() && !callers[*i].blocked).map(Step::Dies));
        let index = choose(&steps).min(steps.len() - 1);
        match steps[index] {
            Step::On(i) => go_on(turns, &mut callers[i], i, n),
            Step::Dies(i) => {
                mortal = None;
                let caller = &mut callers[i];
                caller.future = None;
                caller.end = Some(End { answer: None, began: caller.began.unwrap_or(n), ended: n });
            }
        }
    }
    let state = std::mem::take(&mut *turns.state());
    let ends = callers.into_iter().filter_map(|caller| caller.end).collect();
    Played { ends, calls: state.calls }
}

/// Lets a caller go on until it waits.
fn go_on<T>(turns: &Turns, caller: &mut Caller<'_, T>, i: usize, n: usize) {
    let Some(future) = &mut caller.future else { return };
    let began = *caller.began.get_or_insert(n);
    let waker = Waker::from(Arc::clone(&caller.woken));
    loop {
        caller.woken.flag.store(false, Ordering::SeqCst);
        {
            let mut state = turns.state();
            (state.running, state.waits) = (i, false);
        }
        if let Poll::Ready(answer) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            caller.end = Some(End { answer: Some(answer), began, ended: n });
            caller.future = None;
            return;
        }
        let state = turns.state();
        caller.blocked = !state.waits;
        if state.waits || !state.inside {
            return;
        }
        drop(state);
        // The store's own threads are at it.
        while !caller.woken.flag.load(Ordering::SeqCst) {
            std::thread::park();
        }
    }
}

/// How much of a game's tree is walked.
#[derive(Debug, Clone, Copy)]
pub struct Walk {
    /// The most schedules walked one after the other. Where there are more, this is not all of them.
    pub most: usize,
    /// Schedules chosen at random, where walking did not come to an end.
    pub random: u64,
}

/// How far a walk came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Walked {
    pub schedules: usize,
    /// Every schedule there is was walked.
    pub all: bool,
}

/// Walks through the schedules of a game; `game` plays one and says what was wrong with it.
///
/// # Panics
/// When a schedule is wrong; the message has the schedule, for [`again`].
pub fn explore(
    name: &str,
    walk: Walk,
    mut game: impl FnMut(&mut dyn FnMut(&[Step]) -> usize) -> Result<(), String>,
) -> Walked {
    let mut walked = Walked { schedules: 0, all: false };
    let mut path: Vec<(usize, usize)> = Vec::new();
    while walked.schedules < walk.most && !walked.all {
        let mut depth = 0;
        one(name, &mut walked, &mut game, |steps| {
            if depth == path.len() {
                path.push((0, 0));
            }
            let (index, of) = &mut path[depth];
            *of = steps.len();
            depth += 1;
            *index
        });
        path.truncate(depth);
        while path.pop_if(|(index, of)| *index + 1 >= *of).is_some() {}
        match path.last_mut() {
            Some((index, _)) => *index += 1,
            None => walked.all = true,
        }
    }
    let seeds = if walked.all { 0 } else { walk.random };
    for seed in 0..seeds {
        let mut rng = StdRng::seed_from_u64(seed);
        one(name, &mut walked, &mut game, |steps| rng.random_range(0..steps.len()));
    }
    walked
}

/// Plays one schedule again, as it was printed.
///
/// # Panics
/// When it is wrong again.
pub fn again(
    name: &str,
    schedule: &[Step],
    mut game: impl FnMut(&mut dyn FnMut(&[Step]) -> usize) -> Result<(), String>,
) -> Walked {
    let mut walked = Walked { schedules: 0, all: false };
    let mut to_come = schedule.iter();
    one(name, &mut walked, &mut game, |steps| {
        let next = to_come.next();
        steps.iter().position(|step| Some(step) == next).unwrap_or_default()
    });
    walked
}

fn one(
    name: &str,
    walked: &mut Walked,
    game: &mut impl FnMut(&mut dyn FnMut(&[Step]) -> usize) -> Result<(), String>,
    mut choose: impl FnMut(&[Step]) -> usize,
) {
    let mut taken: Vec<Step> = Vec::new();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        game(&mut |steps| {
            let index = choose(steps).min(steps.len() - 1);
            taken.push(steps[index]);
            index
        })
    }));
    walked.schedules += 1;
    let fault = match outcome {
        Ok(Ok(())) => return,
        Ok(Err(fault)) => fault,
        Err(_) => "it panicked, see above".to_owned(),
    };
    let schedule: Vec<String> = taken.iter().map(Step::to_string).collect();
    panic!(
        "{fault}\nafter {} schedules; to play this one again: IAM_TEST_SCHEDULE='{name}: {}'",
        walked.schedules,
        schedule.join(" ")
    );
}
