//! What can go wrong in a store. Driver types stop here.

/// A failed call of a store. The cause is for the log, never for a caller.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store does not answer, or refuses writes for want of room. Nothing was done.
    #[error("store unavailable: {0}")]
    Unavailable(String),
    /// A write may or may not have been committed.
    #[error("outcome of a write unknown: {0}")]
    OutcomeUnknown(String),
    /// What was read cannot be true.
    #[error("store corrupt: table {table}, key {key}: {cause}")]
    Corrupt { table: &'static str, key: String, cause: String },
}

impl StoreError {
    /// Whether the same call may go through later.
    pub fn retryable(&self) -> bool {
        match self {
            StoreError::Unavailable(_) | StoreError::OutcomeUnknown(_) => true,
            StoreError::Corrupt { .. } => false,
        }
    }

    /// Whether the change may have happened all the same, so that its event must go out.
    pub fn outcome_unknown(&self) -> bool {
        match self {
            StoreError::OutcomeUnknown(_) => true,
            StoreError::Unavailable(_) | StoreError::Corrupt { .. } => false,
        }
    }
}
