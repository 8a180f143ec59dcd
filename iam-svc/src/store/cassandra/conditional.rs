//! Conditional statements, and what became of them: the only place that issues them.
//!
//! A conditional statement is applied, refused, or nobody knows: the connection broke, or too few nodes answered in
//! time. What nobody knows is asked by a serial read, which finishes what is under way. Each write carries a number
//! of its own, `op`, by which a row tells whose it is. A statement that left no trace is run again with the same
//! `op`: if the first one surfaces after all, the second is refused and the row still says that it is ours.

use std::time::Duration;

use scylla::errors::{DbError, ExecutionError, RequestAttemptError};
use scylla::response::query_result::QueryResult;
use scylla::serialize::row::SerializeRow;
use scylla::statement::prepared::PreparedStatement;
use scylla::value::{CqlValue, Row};
use uuid::Uuid;

use super::session::{Cluster, unavailable};
use crate::store::StoreError;

/// How often a statement of which no trace is found is run.
const TRIES: u32 = 4;
/// The pause before it is run again; it doubles, and half of it is random.
const PAUSE: Duration = Duration::from_millis(30);

/// A number for a write that no other write has. Nobody sees it, so that it need not come from the seeded entropy.
pub(super) fn fresh_op() -> Uuid {
    uuid::Builder::from_random_bytes(rand::random()).into_uuid()
}

/// What a conditional statement came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decided {
    Applied,
    /// The row is not, or no longer, as the condition says.
    Refused,
}

/// What the condition asks of the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    /// There is none.
    Absent,
    Version(u64),
    /// It was last written by this.
    Op(Uuid),
}

/// How to find out what became of a write.
#[derive(Debug)]
pub(super) struct Trace<'s, K> {
    /// A serial read of the row's `op`, and of its `version` where it has one.
    pub read: &'s PreparedStatement,
    pub key: K,
    /// Under which number the write goes.
    pub op: Uuid,
    pub expected: Expected,
}

/// What a trace finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Found {
    op: Option<Uuid>,
    /// Absent in tables whose writes are guarded by `op`.
    version: Option<i64>,
}

impl From<Row> for Found {
    fn from(row: Row) -> Self {
        let mut columns = row.columns.into_iter();
        Self {
            op: columns.next().flatten().and_then(|op| op.as_uuid()),
            version: columns.next().flatten().and_then(|version| version.as_bigint()),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Judgement {
    Applied,
    Refused,
    /// The row is as it was: nothing happened, yet.
    Untouched,
    /// Others have written since, and over what cannot be told.
    Unclear,
}

impl Expected {
    fn judge(self, op: Uuid, found: Option<Found>) -> Judgement {
        use Judgement::{Applied, Refused, Unclear, Untouched};
        match (self, found) {
            (_, Some(row)) if row.op == Some(op) => Applied,
            (Expected::Absent, None) => Untouched,
            (Expected::Absent, Some(row)) if row.version.is_none_or(|version| version == 1) => Refused,
            (Expected::Absent, Some(_)) => Unclear,
            (Expected::Version(from), Some(row)) => {
                match row.version.and_then(|version| u64::try_from(version).ok()) {
                    Some(version) if version == from => Untouched,
                    Some(version) if version == from + 1 => Refused,
                    Some(_) => Unclear,
                    None => Refused,
                }
            }
            (Expected::Version(_), None) => Unclear,
            (Expected::Op(before), Some(row)) if row.op == Some(before) => Untouched,
            (Expected::Op(_), _) => Refused,
        }
    }
}

impl Cluster {
    /// Runs a conditional statement, and finds out what became of it.
    ///
    /// # Errors
    /// `Unavailable` when it was never sent; `OutcomeUnknown` when it may have been applied, or may yet be.
    pub(super) async fn conditional<K: SerializeRow>(
        &self,
        statement: &PreparedStatement,
        values: impl SerializeRow,
        trace: Trace<'_, K>,
    ) -> Result<Decided, StoreError> {
        let mut pause = PAUSE;
        let mut last = String::new();
        for attempt in 0..TRIES {
            if attempt > 0 {
                tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
                pause *= 2;
            }
            match self.session.execute_unpaged(statement, &values).await {
                Ok(answer) => {
                    if applied(answer)? {
                        return Ok(Decided::Applied);
                    }
                    if attempt == 0 {
                        return Ok(Decided::Refused);
                    }
                }
                Err(error) if attempt == 0 && never_sent(&error) => return Err(unavailable(error)),
                Err(error) => last = error.to_string(),
            }
            match self.row::<Row>(trace.read, &trace.key).await {
                Ok(found) => match trace.expected.judge(trace.op, found.map(Found::from)) {
                    Judgement::Applied => return Ok(Decided::Applied),
                    Judgement::Refused => return Ok(Decided::Refused),
                    Judgement::Untouched => {}
                    Judgement::Unclear => break,
                },
                // Then it is run again, which does no harm: it says under whose number it goes.
                Err(error) => last = format!("{last}; and asked what became of it: {error}"),
            }
        }
        Err(StoreError::OutcomeUnknown(last))
    }
}

/// Whether a conditional statement says that it was applied. Read by name: the databases differ in what else
/// they answer.
pub(super) fn applied(answer: QueryResult) -> Result<bool, StoreError> {
    let odd = |cause: String| StoreError::OutcomeUnknown(format!("an answer that cannot be read: {cause}"));
    let rows = answer.into_rows_result().map_err(|e| odd(e.to_string()))?;
    let column = rows.column_specs().get_by_name("[applied]").map(|(index, _)| index);
    let row = rows.first_row::<Row>().map_err(|e| odd(e.to_string()))?;
    match column.and_then(|index| row.columns.get(index)) {
        Some(Some(CqlValue::Boolean(applied))) => Ok(*applied),
        other => Err(odd(format!("`[applied]` is {other:?}"))),
    }
}

/// Whether there was no connection to send a statement over, or it broke on the way.
pub(super) fn no_connection(error: &ExecutionError) -> bool {
    matches!(
        error,
        ExecutionError::EmptyPlan
            | ExecutionError::ConnectionPoolError(_)
            | ExecutionError::LastAttemptError(RequestAttemptError::BrokenConnectionError(_))
    )
}

/// Whether it is certain that no node acted on a statement.
pub(super) fn never_sent(error: &ExecutionError) -> bool {
    match error {
        ExecutionError::BadQuery(_)
        | ExecutionError::EmptyPlan
        | ExecutionError::PrepareError(_)
        | ExecutionError::ConnectionPoolError(_)
        | ExecutionError::UseKeyspaceError(_) => true,
        ExecutionError::LastAttemptError(attempt) => match attempt {
            RequestAttemptError::SerializationError(_)
            | RequestAttemptError::CqlRequestSerialization(_)
            | RequestAttemptError::UnableToAllocStreamId => true,
            RequestAttemptError::DbError(error, _) => matches!(
                error,
                DbError::SyntaxError
                    | DbError::Invalid
                    | DbError::AuthenticationError
                    | DbError::Unauthorized
                    | DbError::Overloaded
                    | DbError::IsBootstrapping
                    | DbError::RateLimitReached { .. }
            ),
            _ => false,
        },
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trace_is_judged_by_whose_write_the_row_holds() {
        use Expected::{Absent, Op, Version};
        use Judgement::{Applied, Refused, Unclear, Untouched};
        let [mine, theirs, before] = [1, 2, 3].map(Uuid::from_u128);
        let row = |op, version| Some(Found { op: Some(op), version });
        let rows = [
            (Absent, None, Untouched),
            (Absent, row(mine, Some(1)), Applied),
            (Absent, row(theirs, Some(1)), Refused),
            (Absent, row(theirs, Some(2)), Unclear),
            (Absent, row(theirs, None), Refused),
            (Absent, Some(Found { op: None, version: None }), Refused),
            (Version(4), row(before, Some(4)), Untouched),
            (Version(4), row(mine, Some(5)), Applied),
            (Version(4), row(theirs, Some(5)), Refused),
            (Version(4), row(theirs, Some(6)), Unclear),
            (Version(4), None, Unclear),
            (Op(before), row(before, None), Untouched),
            (Op(before), row(mine, None), Applied),
            (Op(before), row(theirs, None), Refused),
            (Op(before), None, Refused),
        ];
        for (expected, found, judgement) in rows {
            assert_eq!(expected.judge(mine, found), judgement, "{expected:?}, {found:?}");
        }
    }
}
