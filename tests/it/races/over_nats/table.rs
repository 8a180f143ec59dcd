//! What came of the races, in a table.

use std::collections::BTreeMap;
use std::fmt;

use iam_tests::Reply;

/// A line of the table, and what was wrong.
#[derive(Debug, Default)]
pub(super) struct Row {
    rounds: usize,
    callers: usize,
    /// Winners of each round.
    winners: Vec<usize>,
    /// How often each error was told, in all rounds together.
    losers: BTreeMap<String, usize>,
    /// Root admins left, the fewest after any round.
    roots: Option<usize>,
    seconds: f64,
}

impl Row {
    /// Counts one round.
    pub(super) fn add(&mut self, replies: &[Reply], winners: usize, roots: usize, seconds: f64) {
        self.rounds += 1;
        self.callers = replies.len();
        self.winners.push(winners);
        for error in replies.iter().map(|reply| reply.text("error.type")).filter(|error| !error.is_empty()) {
            *self.losers.entry(error).or_default() += 1;
        }
        self.roots = Some(self.roots.map_or(roots, |fewest| fewest.min(roots)));
        self.seconds += seconds;
    }
}

/// All rows, and all that was wrong.
#[derive(Debug, Default)]
pub(super) struct Table {
    rows: Vec<(&'static str, Row)>,
    faults: Vec<String>,
}

impl Table {
    pub(super) fn add(&mut self, race: &'static str, row: Row, faults: Vec<String>) {
        // A long run shows how far it is.
        eprintln!("{race}: {row}");
        self.rows.push((race, row));
        self.faults.extend(faults);
    }

    pub(super) fn faults(&self) -> &[String] {
        &self.faults
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| race | rounds | callers | winners a round | losers in all | root admins left | seconds |"
        )?;
        writeln!(f, "| --- | --- | --- | --- | --- | --- | --- |")?;
        for (race, row) in &self.rows {
            writeln!(f, "| {race} | {row} |")?;
        }
        Ok(())
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let winners = match (self.winners.iter().min(), self.winners.iter().max()) {
            (Some(least), Some(most)) if least == most => least.to_string(),
            (Some(least), Some(most)) => format!("{least} to {most}"),
            _ => String::new(),
        };
        let losers: Vec<String> = self.losers.iter().map(|(error, n)| format!("{error} {n}")).collect();
        let roots = self.roots.map_or(String::new(), |roots| roots.to_string());
        let (rounds, callers, losers, seconds) = (self.rounds, self.callers, losers.join(", "), self.seconds);
        write!(f, "{rounds} | {callers} | {winners} | {losers} | {roots} | {seconds:.1}")
    }
}
