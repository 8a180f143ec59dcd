//! Every race at the program, by many callers at once over many connections.
//!
//! A race prepares a round, tells what each caller asks, and judges what came of it once all are answered. All of
//! them go on in one deployment, so that its last root admins are those that earlier rounds have left.

mod rounds;
mod table;

mod admins;
mod credentials;
mod names;
mod seeding;

use rounds::{Arena, Race};
use table::Table;

/// Rounds and callers of an ordinary run: of races that hash no password, and of those that do, a second each.
const USUAL: Size = Size { rounds: 2, callers: 12 };
const HASHING: Size = Size { rounds: 1, callers: 4 };

/// How often, and by how many.
#[derive(Debug, Clone, Copy)]
struct Size {
    rounds: usize,
    callers: usize,
}

impl Size {
    /// As `IAM_TEST_RACES` has it, such as `20x40`, else that of an ordinary run.
    fn of(hashes: bool) -> Self {
        let asked = std::env::var("IAM_TEST_RACES").ok();
        let asked = asked.as_ref().and_then(|text| text.split_once('x')).and_then(|(rounds, callers)| {
            Some(Size { rounds: rounds.parse().ok()?, callers: callers.parse().ok()? })
        });
        asked.unwrap_or(if hashes { HASHING } else { USUAL })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contested_changes_over_nats_have_one_winner_and_leave_a_root_admin() {
    let Some(url) = iam_tests::deployment::nats_url() else { return };
    let only = std::env::var("IAM_TEST_RACE").unwrap_or_default();
    let mut table = Table::default();
    if "bootstrap".contains(&only) {
        seeding::race(&url, &mut table).await;
    }
    let arena = Arena::open(&url).await;
    let races: Vec<Box<dyn Race>> = names::races()
        .into_iter()
        .chain(admins::races())
        .chain(credentials::races())
        .filter(|race| race.name().contains(&only))
        .collect();
    for race in races {
        arena.run(&*race, Size::of(race.hashes()), &mut table).await;
    }
    println!("{table}");
    assert!(table.faults().is_empty(), "{}", table.faults().join("\n"));
}
