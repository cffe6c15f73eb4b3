//! Runs a target over seeds and mutations, and makes what fails small.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::time::Duration;

use alluvium::runtime::clock::Clock;
use alluvium::runtime::production::SystemClock;

use super::allocations::peak_of;
use super::mutation::{Entropy, mutate};
use super::seeds;
use super::targets::{TARGETS, Target};

/// Time for one target where nothing else is asked for.
const DEFAULT_SECONDS: u64 = 2;
/// Inputs between two looks at the clock.
const ROUND: usize = 50;
/// Attempts to make a failing input smaller.
const SHRINK_ATTEMPTS: usize = 2000;

/// What is wrong with a decoder.
#[derive(Debug)]
pub enum Flaw {
    /// It panicked, with this text.
    Panic(String),
    /// It held more memory than it may.
    Memory { peak: usize, bound: usize },
}

impl std::fmt::Display for Flaw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Panic(text) => f.write_str(text),
            Self::Memory { peak, bound } => write!(f, "held {peak} bytes of memory, and may hold {bound}"),
        }
    }
}

thread_local! {
    /// Whether panics of this thread are expected, and what the last one said.
    static WATCHED: Cell<bool> = const { Cell::new(false) };
    static SAID: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Keeps panics that are looked for off the screen; all others are shown as always.
fn watch_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let shown = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if WATCHED.get() {
                SAID.set(panic.to_string());
            } else {
                shown(panic);
            }
        }));
    });
}

/// Runs a target over one input.
pub fn flaw_of(target: &Target, input: &[u8]) -> Option<Flaw> {
    watch_panics();
    WATCHED.set(true);
    let (result, peak) = peak_of(|| catch_unwind(AssertUnwindSafe(|| (target.run)(input))));
    WATCHED.set(false);
    let said = SAID.take();
    let bound = target.bytes_per_byte * input.len() + target.bytes_more;
    match result {
        Err(_) => Some(Flaw::Panic(said)),
        Ok(()) if peak > bound => Some(Flaw::Memory { peak, bound }),
        Ok(()) => None,
    }
}

/// Runs a target over its seeds and their mutations.
pub fn fuzz(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("every test names a target");
    let seeds = seeds::of(name);
    assert!(!seeds.is_empty(), "{name} has no seeds");
    // What is made once for each thread is not the input's.
    seeds.first().map(|seed| flaw_of(target, seed));
    for seed in seeds {
        check(target, seed);
    }
    let (seconds, seed) = (number("ALLUVIUM_FUZZ_SECONDS", DEFAULT_SECONDS), number("ALLUVIUM_FUZZ_SEED", 1));
    let (clock, mut entropy) = (SystemClock::new(), Entropy(seed));
    let (start, mut count) = (clock.monotonic(), 0);
    while clock.monotonic().since(start) < Duration::from_secs(seconds) {
        for _ in 0..ROUND {
            let mut input = seeds[entropy.below(seeds.len())].clone();
            let other = &seeds[entropy.below(seeds.len())];
            mutate(&mut entropy, &mut input, other);
            check(target, &input);
        }
        count += ROUND;
    }
    println!("{name}: {} seeds, {count} mutations", seeds.len());
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().map_or(default, |text| text.parse().expect("a whole number"))
}

fn check(target: &Target, input: &[u8]) {
    if flaw_of(target, input).is_none() {
        return;
    }
    let small = shrunk(target, input);
    let flaw = flaw_of(target, &small).expect("only failing inputs are kept");
    panic!("{flaw}\nfor tests/fuzz/corpus/{}.hex:\n{}", target.name, seeds::hex(&small));
}

/// A smaller input that fails too: cuts pieces out for as long as that helps.
fn shrunk(target: &Target, input: &[u8]) -> Vec<u8> {
    let mut smallest = input.to_vec();
    let mut piece = smallest.len().div_ceil(2);
    let mut attempts = 0;
    while piece > 0 && attempts < SHRINK_ATTEMPTS {
        let (before, mut at) = (smallest.len(), 0);
        while at < smallest.len() && attempts < SHRINK_ATTEMPTS {
            attempts += 1;
            let mut tried = smallest.clone();
            tried.drain(at..(at + piece).min(tried.len()));
            if flaw_of(target, &tried).is_some() {
                smallest = tried;
            } else {
                at += piece;
            }
        }
        if smallest.len() == before {
            piece /= 2;
        }
    }
    smallest
}
