//! Many lives of one broker under a seed: its own disk and metadata, and a bucket that outlives them, all of them failing.
//!
//! What runs is the broker as it is, from [`Broker::open`] on, over the simulated machine of `sim` and the simulated bucket of
//! `archive::store::simulated`: one thread, no timers of tokio's, every step drawn from the seed. Clients produce, repeat
//! themselves, read from anywhere, search and delete; the process is killed or loses its power between any two steps, a data
//! directory is lost or an old copy of it put back, and requests of the dead arrive late. Every answer is compared with a
//! model, and every change of the bucket with the rules of heads and sweeping; at the end everything is read back.
//!
//! `ALLUVIUM_SIM_SEEDS` sets how many seeds run, each twice (and `ALLUVIUM_SIM_SEED` the first); a failure prints the seed. With
//! `ALLUVIUM_SIM_LOG` the broker's events are printed too.

mod bucket;
mod clients;
mod ending;
mod model;
mod outage;
mod planted;
mod world;

use std::collections::BTreeMap;
use std::hash::DefaultHasher;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::sim::number;
use crate::types::TopicPartition;
use model::Model;
use planted::Planted;
use world::World;

/// Starts of the broker under one seed, before the last two, on a machine and with a bucket that work.
const LIVES: usize = 4;

/// Seeds that run when nothing else is said.
const SEEDS: u64 = 6;
/// Seeds within which every planted bug has to be found.
const SEEDS_PER_BUG: u64 = 12;

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
    model: Mutex<Model>,
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

impl Notes {
    fn fail(&mut self, failure: String) {
        self.failure.get_or_insert(failure);
    }
}

thread_local! {
    /// A task or a lane of this thread's simulation has panicked, of which nobody else need hear.
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

/// Runs one seed; the trace, or what went wrong.
fn run(seed: u64, planted: Planted) -> Result<u64, String> {
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
    let mut world = World::new(seed, planted);
    for life in 0..LIVES {
        world.live().map_err(|error| format!("life {life}: {error}"))?;
    }
    world.end().map_err(|error| format!("at the end: {error}"))?;
    Ok(world.trace())
}

/// Runs one seed twice, which has to go the same way.
fn run_twice(seed: u64) -> Result<(), String> {
    let trace = run(seed, Planted::Nothing)?;
    let again = run(seed, Planted::Nothing).map_err(|error| format!("only in the second run: {error}"))?;
    if trace == again { Ok(()) } else { Err(format!("the second run differs: {trace:x} and {again:x}")) }
}

#[test]
fn acknowledged_records_survive_crashes_and_an_unreliable_bucket() {
    let first = number("ALLUVIUM_SIM_SEED", 1);
    let seeds = first..first + number("ALLUVIUM_SIM_SEEDS", SEEDS);
    let failures: Vec<_> = seeds.filter_map(|seed| Some((seed, run_twice(seed).err()?))).collect();
    for (seed, error) in &failures {
        eprintln!("{error}\nreplay: ALLUVIUM_SIM_SEED={seed} ALLUVIUM_SIM_SEEDS=1 cargo test --lib broker::simulation");
    }
    assert!(failures.is_empty(), "{} seeds fail", failures.len());
}

#[test]
fn planted_bugs_are_found() {
    for planted in Planted::ALL {
        let found = (1..=SEEDS_PER_BUG).find_map(|seed| Some((seed, run(seed, planted).err()?)));
        let (seed, error) = found.unwrap_or_else(|| panic!("{planted:?} is not found in {SEEDS_PER_BUG} seeds"));
        eprintln!("{planted:?}: seed {seed}: {error}");
    }
}
