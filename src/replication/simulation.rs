//! Replicas of one partition under a seed: three to five nodes lead, follow, crash, lose their disks and come back, while their
//! messages are late, doubled, lost with their sessions, or overtaken by those of newer ones.
//!
//! The machines are the real ones; logs, network and controller are models. After every step `invariants` is asked whether what was
//! committed still is, wherever it has to be. In the end nothing fails any more, and all replicas have to agree. Two runs of a seed
//! are the same. Bugs that are planted between the machines and their world have to be found.
//!
//! `ALLUVIUM_SIM_SEEDS` sets how many seeds run (and `ALLUVIUM_SIM_SEED` the first); a failure prints the seed.

mod controller;
mod events;
pub(super) mod log;
mod world;

use super::invariants::Check;
use crate::sim::number;
use world::World;

const STEPS: usize = 2_500;
const SEEDS: u64 = 60;
const SEEDS_PER_BUG: u64 = 3_000;

/// A bug, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Planted {
    Nothing,
    /// Followers acknowledge what they have not made durable.
    AckBeforeDurable,
    /// A follower cuts its log at its high watermark rather than by its epochs (what KIP-101 put right).
    TruncateToHighWatermark,
    /// A follower takes records of a leader whose epoch has passed.
    StaleEpochsAccepted,
    /// Replicas join as soon as they have what the leader knows to be committed, which a new one knows late.
    JoinBelowEpochStart,
    /// A proposal whose fate is not known is taken for void.
    ProposalsForgotten,
    /// A leader commits with fewer in-sync replicas than the controller counts on.
    CommitBelowMinimum,
    /// A follower appends behind records that the leader lacks.
    NoTruncation,
    /// A log that goes on elsewhere keeps the epochs that it had.
    ResetKeepsOldEpochs,
    /// What a process acknowledged counts for the next one, whatever became of its disk.
    AcksOutliveProcesses,
    /// A follower takes the leader's high watermark for its own.
    CommitBeyondDurable,
}

impl Planted {
    const ALL: [Self; 10] = [
        Self::AckBeforeDurable,
        Self::TruncateToHighWatermark,
        Self::StaleEpochsAccepted,
        Self::JoinBelowEpochStart,
        Self::ProposalsForgotten,
        Self::CommitBelowMinimum,
        Self::NoTruncation,
        Self::ResetKeepsOldEpochs,
        Self::AcksOutliveProcesses,
        Self::CommitBeyondDurable,
    ];
}

/// Runs one seed; the trace, or what went wrong.
fn run(seed: u64, planted: Planted) -> Result<u64, String> {
    let mut world = World::new(seed, planted);
    for step in 0..STEPS {
        world.step().map_err(|error| format!("step {step}: {error}"))?;
    }
    world.heal().map_err(|error| format!("at the end: {error}"))?;
    Ok(world.trace())
}

/// Runs one seed twice, which has to go the same way.
fn run_twice(seed: u64) -> Check {
    let trace = run(seed, Planted::Nothing)?;
    let again = run(seed, Planted::Nothing)?;
    if trace == again { Ok(()) } else { Err(format!("the second run differs: {trace:x} and {again:x}")) }
}

#[test]
fn what_was_committed_is_on_every_replica_that_may_lead_whatever_fails() {
    let first = number("ALLUVIUM_SIM_SEED", 1);
    for seed in first..first + number("ALLUVIUM_SIM_SEEDS", SEEDS) {
        if let Err(error) = run_twice(seed) {
            panic!(
                "{error}\nreplay: ALLUVIUM_SIM_SEED={seed} ALLUVIUM_SIM_SEEDS=1 cargo test --lib replication::simulation"
            );
        }
    }
}

#[test]
fn planted_bugs_are_found() {
    for planted in Planted::ALL {
        let found = (1..=SEEDS_PER_BUG).find_map(|seed| Some((seed, run(seed, planted).err()?)));
        let (seed, error) = found.unwrap_or_else(|| panic!("{planted:?} is not found in {SEEDS_PER_BUG} seeds"));
        eprintln!("{planted:?}: seed {seed}: {error}");
    }
}
