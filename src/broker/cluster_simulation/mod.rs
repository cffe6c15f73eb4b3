//! Several whole brokers of one cluster in this process, under a seed: each with a disk and a clock of its own, over one network and
//! one bucket, with openraft and redb inside.
//!
//! What runs is the broker as it is, from [`Broker::open_with`](super::Broker::open_with) on. Producers and consumers come to whom they
//! take for the leader; brokers are killed, lose their power or a data directory, stand still, are cut off, drained and started
//! again. What must hold is in `invariants`, one file each, looked at after every turn or once everything works again; the ending
//! also says that everything does work again (R7 of the reliability notes). Certificates are prepared, so that nothing is drawn that
//! no seed repeats; joining by a token has its own tests.
//!
//! `ALLUVIUM_SIM_SEEDS` sets how many seeds run and `ALLUVIUM_SIM_SEED` the first; a failure prints the seed. With
//! `ALLUVIUM_SIM_LOG` the brokers' events are printed too.

mod clients;
mod ending;
mod events;
mod invariants;
mod ledger;
mod member;
mod planted;
mod wiring;
mod world;

use std::collections::BTreeMap;
use std::hash::DefaultHasher;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::sim::number;
use crate::types::TopicPartition;
use ledger::Ledger;
use planted::Planted;
use world::World;

/// Seeds that run when nothing else is said.
const SEEDS: u64 = 3;
/// Seeds within which every planted bug has to be found.
const SEEDS_PER_BUG: u64 = 12;
/// The seed that runs twice.
const SEED_OF_TWO_RUNS: u64 = 5;

type Check = Result<(), String>;

macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(format!($($message)+));
        }
    };
}
use ensure;

/// One partition as its clients know it.
#[derive(Debug)]
struct Part {
    topic: String,
    id: TopicPartition,
    ledger: Mutex<Ledger>,
}

impl Part {
    fn name(&self) -> String {
        format!("{}-{}", self.topic, self.id.partition)
    }
}

type Parts = BTreeMap<TopicPartition, Arc<Part>>;

/// What clients found out.
#[derive(Default)]
struct Notes {
    failure: Option<String>,
    trace: DefaultHasher,
}

thread_local! {
    /// A task of this thread's simulation has panicked, of which nobody else need hear.
    static PANICKED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Takes note of panics in tasks, which tokio catches.
fn watch_panics() {
    static WATCHED: std::sync::Once = std::sync::Once::new();
    WATCHED.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICKED.set(true);
            usual(panic);
        }));
    });
    PANICKED.set(false);
}

/// What a run came to: its trace, and how many batches were acknowledged.
type Outcome = (u64, usize);

/// Runs one seed.
fn run(seed: u64, planted: Planted) -> Result<Outcome, String> {
    watch_panics();
    let log = || {
        tracing_subscriber::fmt()
            .without_time()
            .with_ansi(false)
            .with_max_level(tracing::Level::DEBUG)
            .with_test_writer()
            .finish()
    };
    let _log = std::env::var("ALLUVIUM_SIM_LOG").is_ok().then(|| tracing::subscriber::set_default(log()));
    // A lane panics where it is run, which is here.
    let lived = catch_unwind(AssertUnwindSafe(|| -> Result<Outcome, String> {
        let mut world = World::new(seed, planted);
        world.found().map_err(|error| format!("at the beginning: {error}"))?;
        world.suffer().map_err(|error| format!("at turn {}: {error}", world.turns()))?;
        world.end().map_err(|error| format!("at the end: {error}"))?;
        Ok((world.trace(), world.acknowledged()))
    }));
    lived.unwrap_or_else(|_| Err("a panic, see above".to_owned()))
}

#[test]
fn whatever_happens_to_brokers_what_was_acknowledged_stays_and_all_replicas_agree_in_the_end() {
    let first = number("ALLUVIUM_SIM_SEED", 1);
    let (mut acknowledged, mut failures) = (0, 0);
    for seed in first..first + number("ALLUVIUM_SIM_SEEDS", SEEDS) {
        match run(seed, Planted::Nothing) {
            Ok((_, count)) => acknowledged += count,
            Err(error) => {
                failures += 1;
                eprintln!(
                    "{error}\nreplay: ALLUVIUM_SIM_SEED={seed} ALLUVIUM_SIM_SEEDS=1 cargo test --lib broker::cluster_simulation::whatever"
                );
            }
        }
    }
    assert_eq!(failures, 0, "seeds fail");
    assert!(acknowledged > 50, "hardly anything was acknowledged: {acknowledged}");
}

#[test]
fn two_runs_of_a_seed_are_the_same() {
    let once = run(SEED_OF_TWO_RUNS, Planted::Nothing);
    assert_eq!(once, run(SEED_OF_TWO_RUNS, Planted::Nothing));
    assert!(once.is_ok(), "{once:?}");
}

/// Looks for a planted bug.
fn is_found(planted: Planted) {
    let found = (1..=SEEDS_PER_BUG).find_map(|seed| Some((seed, run(seed, planted).err()?)));
    let (seed, error) = found.unwrap_or_else(|| panic!("{planted:?} is not found in {SEEDS_PER_BUG} seeds"));
    eprintln!("{planted:?}: seed {seed}: {error}");
}

#[test]
fn a_disk_that_does_not_sync_is_found() {
    is_found(Planted::NoSync);
}

#[test]
fn a_disk_whose_durable_writes_are_not_is_found() {
    is_found(Planted::NoDurableWrites);
}

#[test]
fn an_acknowledgement_by_the_leader_alone_is_found() {
    is_found(Planted::LeaderAcknowledgesAlone);
}

#[test]
fn an_unclean_election_is_found() {
    is_found(Planted::UncleanElections);
}

#[test]
fn a_read_of_what_is_not_committed_is_found() {
    is_found(Planted::UncommittedReads);
}
