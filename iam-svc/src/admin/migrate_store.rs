//! `iam-svc migrate-store`: a deployment that outgrows one machine, or comes back to one, takes everything along.
//!
//! It works on the stores themselves, while nothing serves on either. What is sealed goes over as it is, so that
//! both sides need the same key-encryption key.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::START;
use crate::config::{self, Config, IfMissing, KekSource, StoreKind};
use crate::crypto::seal::Kek;
use crate::entropy::Entropy;
use crate::exit::{Cause, Exit};
use crate::open::{check_store_is_there, kek_exit, open_cassandra, open_embedded, ring_exit, store_exit};
use crate::ops::signing_keys;
use crate::store::transfer::{self, MoveFault, Moved, Stage, Sums, Transfer};
use crate::store::{RootRoles, cassandra, embedded};

/// How often it is told how far the move is.
const TELL: Duration = Duration::from_secs(3);

/// Moves everything, prints counts and checksums of both sides on stdout, and says on stderr what is to be done next.
///
/// # Errors
/// As those of opening a store; `Configuration` when the key-encryption key does not open what is sealed, or another
/// one is in the way; `UnusableStore` when the source holds no deployment or was changed meanwhile, or the target is
/// in use; `DamagedStore` when the two sides differ.
pub async fn run(config: Config, from: StoreKind, to: StoreKind) -> Result<(), Exit> {
    let Config { data_dir, cassandra, kek, policy, .. } = config;
    let places = Places { data_dir, cassandra, root_roles: Arc::new(policy.root_roles()) };
    let in_data_dir = matches!(kek, KekSource::DataDir);

    let source = places.source(from, &kek).await?;
    let (origin, ring) = transfer::check_source(&*source).await.map_err(exit)?;
    let entropy = Entropy::system();
    let kek = kek.load(&places.data_dir, IfMissing::Refuse, &entropy).map_err(kek_exit)?;
    signing_keys::check_kek(&kek, &ring).map_err(ring_exit)?;

    let target = places.target(to, &kek).await?;
    let resumed = transfer::check_target(&*target, &origin).await.map_err(exit)?;
    let placed = to == StoreKind::Embedded && config::place(&kek, &places.data_dir).map_err(kek_exit)?;
    if resumed {
        eprintln!("iam-svc: going on with a move that was begun");
    }
    let begun = Instant::now();
    let moved = transfer::relocate(&*source, &*target, &mut teller()).await;
    if let Ok(moved) = &moved {
        print(moved)?;
        eprintln!("iam-svc: moved in {} s", begun.elapsed().as_secs());
        eprintln!("iam-svc: {}", next(from, in_data_dir, placed, &places));
    } else if let Err(MoveFault::SourceChanged(sides) | MoveFault::Differs(sides)) = &moved {
        print(sides)?;
    }
    moved.map(|_| ()).map_err(exit)
}

/// Where both stores are.
struct Places {
    data_dir: PathBuf,
    cassandra: cassandra::Setting,
    root_roles: RootRoles,
}

impl Places {
    async fn source(&self, kind: StoreKind, kek: &KekSource) -> Result<Arc<dyn Transfer>, Exit> {
        match kind {
            StoreKind::Embedded => {
                check_store_is_there(kek, &self.data_dir)?;
                let file = self.data_dir.join(embedded::FILE);
                // Opening it would make one.
                if !file.exists() {
                    let reason = format!("--data-dir: there is no `{}`", file.display());
                    return Err(Exit::new(Cause::UnusableStore, reason));
                }
                Ok(open_embedded(&self.data_dir, self.root_roles.clone())?)
            }
            StoreKind::Cassandra => {
                let setting = cassandra::Setting { create_keyspace: false, ..self.cassandra.clone() };
                self.cluster(&setting).await
            }
        }
    }

    async fn target(&self, kind: StoreKind, kek: &Kek) -> Result<Arc<dyn Transfer>, Exit> {
        match kind {
            StoreKind::Embedded => {
                // Another key there tells of a store that is missing: none may be made in its place.
                config::is_placed(kek, &self.data_dir).map_err(kek_exit)?;
                Ok(open_embedded(&self.data_dir, self.root_roles.clone())?)
            }
            StoreKind::Cassandra => self.cluster(&self.cassandra).await,
        }
    }

    async fn cluster(&self, setting: &cassandra::Setting) -> Result<Arc<dyn Transfer>, Exit> {
        Ok(open_cassandra(setting, self.root_roles.clone(), Instant::now() + START).await?)
    }
}

/// Tells on stderr how far the move is, now and then.
fn teller() -> impl FnMut(Stage, &Sums) + Send {
    let mut told: Option<(Stage, Instant)> = None;
    move |stage, sums| {
        if told.is_some_and(|(before, at)| before == stage && at.elapsed() < TELL) {
            return;
        }
        told = Some((stage, Instant::now()));
        let doing = match stage {
            Stage::Copying => "copied",
            Stage::ReadingTarget => "compared in the target",
            Stage::ReadingSource => "compared in the source",
        };
        eprintln!("iam-svc: {doing}: {} users, {} API keys", sums.users.count, sums.keys.count);
    }
}

fn print(moved: &Moved) -> Result<(), Exit> {
    let mut table = format!("{:<12} {:<7} {:>10} checksum\n", "kind", "side", "count");
    for ((kind, source), (_, target)) in moved.source.kinds().into_iter().zip(moved.target.kinds()) {
        for (side, sum) in [("source", source), ("target", target)] {
            table.push_str(&format!("{kind:<12} {side:<7} {:>10} {sum}\n", sum.count));
        }
    }
    let printed = std::io::stdout().write_all(table.as_bytes());
    printed.map_err(|error| Exit::new(Cause::Internal, format!("the table was not printed: {error}")))
}

/// What is to be done next.
fn next(from: StoreKind, kek_in_data_dir: bool, placed: bool, places: &Places) -> String {
    let data_dir = places.data_dir.display();
    match from {
        StoreKind::Embedded => {
            let kek = if kek_in_data_dir { format!("`{data_dir}/kek`") } else { "the same file".to_owned() };
            format!(
                "serve with --store cassandra, and {kek} as --kek-file in every replica; move `{data_dir}` away, so \
                 that nothing serves on it again"
            )
        }
        StoreKind::Cassandra => {
            let kek = if placed { "was put there" } else { "is there" };
            format!(
                "serve with --store embedded --data-dir `{data_dir}`: the key-encryption key {kek}; drop the keyspace \
                 `{}`, so that nothing serves on it again",
                places.cassandra.keyspace
            )
        }
    }
}

fn exit(fault: MoveFault) -> Exit {
    let cause = match fault {
        MoveFault::NotSeeded
        | MoveFault::SourceUnfinished
        | MoveFault::NotEmpty
        | MoveFault::OtherSource
        | MoveFault::SourceChanged(_) => Cause::UnusableStore,
        MoveFault::Differs(_) => Cause::DamagedStore,
        MoveFault::Store(error) => {
            let Exit { cause, reason } = store_exit(error);
            let hint = if cause == Cause::Unreachable { "; run it again, and it goes on" } else { "" };
            return Exit::new(cause, format!("{reason}{hint}"));
        }
    };
    Exit::new(cause, fault.to_string())
}
