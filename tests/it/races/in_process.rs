//! Two or more requests on one store, step by step, in every order.
//!
//! What an order of steps came to is held against the rules that always hold (see [`laws`]), and against what the
//! same requests come to one after the other: it must be what some order of whole requests comes to, those left
//! out that were told `conflict`.

mod cast;
mod laws;
mod stage;

mod admins;
mod credentials;
mod keys;
mod names;
mod seeding;

use std::collections::HashMap;

use iam_tests::schedule::{self, Rules, Step, Walk, Walked};
use serde_json::Value;

use cast::Cast;
use stage::{Ask, Observed, perform};

/// Schedules of each race that are walked in order in an ordinary run; half as many more are chosen at random where
/// that is not all of them.
const SCHEDULES: usize = 10;

/// A race: what it starts from and who asks for what at once.
pub(super) struct Race {
    name: &'static str,
    cast: &'static Cast,
    before: Vec<Ask>,
    asks: Vec<Ask>,
    /// All callers ask one replica, and so share its memory; else two in turn.
    shared: bool,
    mortal: Option<usize>,
    /// Nothing is remembered at the start, so that what is read meanwhile may be.
    cold: bool,
    /// The life of tokens is followed too, and not only that of keys: verifying them takes time.
    tokens: bool,
    explained: Explained,
    winners: Option<usize>,
}

/// What some order of whole requests must come to as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Explained {
    /// All that is there afterwards, and what everybody was told, but for conflicts.
    Wholly,
    /// As above, with whoever was refused left out.
    ButForRefusals,
    Not,
}

impl Race {
    fn new<const N: usize>(name: &'static str, asks: [Ask; N]) -> Self {
        Self {
            name,
            cast: cast::seeded(),
            before: Vec::new(),
            asks: asks.into(),
            shared: false,
            mortal: None,
            cold: false,
            tokens: false,
            explained: Explained::Wholly,
            winners: None,
        }
    }

    /// On an empty store.
    fn unseeded(self) -> Self {
        Self { cast: cast::empty(), ..self }
    }

    /// What is done before, one after the other.
    fn after<const N: usize>(self, before: [Ask; N]) -> Self {
        Self { before: before.into(), ..self }
    }

    /// All callers ask the same replica; else every second one another.
    fn on_one_replica(self) -> Self {
        Self { shared: true, ..self }
    }

    /// The replicas remember nobody yet; else they have seen every credential.
    fn cold(self) -> Self {
        Self { cold: true, ..self }
    }

    /// It is about tokens.
    fn of_tokens(self) -> Self {
        Self { tokens: true, ..self }
    }

    /// This caller may die at any step.
    fn mortal(self, caller: usize) -> Self {
        Self { mortal: Some(caller), ..self }
    }

    /// So many succeed, whatever the order, if nobody dies.
    fn winners(self, winners: usize) -> Self {
        Self { winners: Some(winners), ..self }
    }

    /// Some callers end others. One who is ended half-way may be refused in other words than one who comes later.
    fn among_callers(self) -> Self {
        Self { explained: Explained::ButForRefusals, ..self }
    }

    /// A request that finds its work done by another at the last moment succeeds, where one that comes later is
    /// told so: the laws alone are checked.
    fn done_by_either(self) -> Self {
        Self { explained: Explained::Not, ..self }
    }

    fn everybody(&self) -> Vec<usize> {
        (0..self.asks.len()).collect()
    }
}

/// Runs races, each through its schedules.
///
/// `IAM_TEST_SCHEDULES` is how many of each are walked at most; `IAM_TEST_SCHEDULE` one to play again, as a failure
/// prints it.
pub(super) fn run(races: Vec<Race>) {
    let again = std::env::var("IAM_TEST_SCHEDULE").unwrap_or_default();
    let again = again.split_once(": ");
    let most = std::env::var("IAM_TEST_SCHEDULES").ok().and_then(|n| n.parse().ok()).unwrap_or(SCHEDULES);
    for race in races {
        let begun = std::time::Instant::now();
        let mut referee = Referee { race: &race, orders: HashMap::new() };
        let walked = match again {
            Some((name, steps)) if name == race.name => {
                let steps: Vec<Step> = steps.split(' ').map(|step| step.parse().expect("a step")).collect();
                schedule::again(race.name, &steps, |choose| referee.game(choose))
            }
            Some(_) => continue,
            None => {
                let walk = Walk { most, random: most as u64 / 2 };
                schedule::explore(race.name, walk, |choose| referee.game(choose))
            }
        };
        let Walked { schedules, all } = walked;
        println!("{}: {schedules} schedules, all: {all}, {:?}", race.name, begun.elapsed());
    }
}

/// Judges what schedules come to.
struct Referee<'r> {
    race: &'r Race,
    /// What the requests come to in an order, one after the other.
    orders: HashMap<Vec<usize>, (HashMap<usize, Value>, Value)>,
}

impl Referee<'_> {
    fn game(&mut self, choose: &mut dyn FnMut(&[Step]) -> usize) -> Result<(), String> {
        let race = self.race;
        let rules = Rules { after: race.shared || race.asks.len() > 2, mortal: race.mortal };
        let seen = perform(race, &race.everybody(), rules, choose);
        let judged = seen.faults.first().cloned().map_or(Ok(()), Err);
        let judged = judged.and_then(|()| self.winners(&seen)).and_then(|()| self.explain(&seen));
        judged.map_err(|fault| format!("{}: {fault}\n{}", race.name, seen.story(race)))
    }

    fn winners(&self, seen: &Observed) -> Result<(), String> {
        let won = seen.outcomes.iter().flatten().filter(|outcome| stage::succeeded(outcome)).count();
        let died = seen.outcomes.iter().any(Option::is_none);
        match self.race.winners {
            Some(wanted) if won != wanted && !died => Err(format!("{won} won, not {wanted}")),
            _ => Ok(()),
        }
    }

    /// Looks for an order of whole requests that comes to the same.
    fn explain(&mut self, seen: &Observed) -> Result<(), String> {
        let counts = |outcome: &Value| match self.race.explained {
            Explained::Wholly => !stage::conflicted(outcome),
            Explained::ButForRefusals => stage::succeeded(outcome),
            Explained::Not => false,
        };
        if self.race.explained == Explained::Not {
            return Ok(());
        }
        let done = |i: &usize| seen.outcomes[*i].as_ref().is_some_and(counts);
        let certain: Vec<usize> = self.race.everybody().into_iter().filter(done).collect();
        // Whoever died may have been done or not.
        let died = |i: &usize| seen.outcomes[*i].is_none();
        let perhaps: Vec<usize> = self.race.everybody().into_iter().filter(died).collect();
        let mut nearest = Vec::new();
        for with in [&[][..], &perhaps[..]] {
            for order in orders(&[&certain[..], with].concat()) {
                let possible = order.iter().enumerate().all(|(at, late)| {
                    order[..at].iter().all(|early| seen.spans[*early].0 <= seen.spans[*late].1)
                });
                if !possible {
                    continue;
                }
                let (outcomes, picture) = self.order(&order);
                let same = certain.iter().all(|i| seen.outcomes[*i].as_ref() == outcomes.get(i));
                let picture = without_secrets_of(picture, &perhaps);
                if same && picture == seen.picture {
                    return Ok(());
                }
                nearest.push(format!("{order:?}: {}", difference(outcomes, &picture, seen)));
            }
        }
        Err(format!("no order of whole requests comes to this:\n{}", nearest.join("\n")))
    }

    fn order(&mut self, order: &[usize]) -> &(HashMap<usize, Value>, Value) {
        let race = self.race;
        self.orders.entry(order.to_vec()).or_insert_with(|| {
            // Each goes on until it is done.
            let places: Vec<usize> = race.everybody().into_iter().filter(|i| order.contains(i)).collect();
            let next = |steps: &[Step]| {
                let first = order.iter().find_map(|i| {
                    let place = places.iter().position(|place| place == i)?;
                    steps.iter().position(|step| *step == Step::On(place))
                });
                first.unwrap_or_default()
            };
            let seen = perform(race, &places, Rules::default(), next);
            assert!(seen.faults.is_empty(), "{}, in the order {order:?}: {:?}", race.name, seen.faults);
            let outcomes = seen.outcomes.into_iter().enumerate();
            (outcomes.filter_map(|(i, outcome)| Some((i, outcome?))).collect(), seen.picture)
        })
    }
}

/// What was there without what only the dead were told of.
fn without_secrets_of(picture: &Value, dead: &[usize]) -> Value {
    let mut picture = picture.clone();
    if let Some(living) = picture["living"].as_object_mut() {
        living.retain(|name, _| !dead.iter().any(|i| name.ends_with(&format!(" of {i}"))));
    }
    picture
}

/// Every order of some callers.
fn orders(of: &[usize]) -> Vec<Vec<usize>> {
    if of.is_empty() {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for first in of {
        let rest: Vec<usize> = of.iter().copied().filter(|other| other != first).collect();
        all.extend(orders(&rest).into_iter().map(|rest| [vec![*first], rest].concat()));
    }
    all
}

/// What an order of whole requests comes to, so far as it is not what was seen.
fn difference(outcomes: &HashMap<usize, Value>, picture: &Value, seen: &Observed) -> String {
    let mut lines = Vec::new();
    for (i, outcome) in outcomes {
        if seen.outcomes[*i].as_ref() != Some(outcome) {
            lines.push(format!("caller {i} is told {outcome}"));
        }
    }
    differing("", picture, &seen.picture, &mut lines);
    lines.join("; ")
}

fn differing(path: &str, one: &Value, other: &Value, lines: &mut Vec<String>) {
    match (one, other) {
        (Value::Object(a), Value::Object(b)) => {
            let fields: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
            for field in fields {
                let (a, b) = (a.get(field).unwrap_or(&Value::Null), b.get(field).unwrap_or(&Value::Null));
                differing(&format!("{path}/{field}"), a, b, lines);
            }
        }
        _ if one != other => lines.push(format!("{path} is {one}, here {other}")),
        _ => {}
    }
}
