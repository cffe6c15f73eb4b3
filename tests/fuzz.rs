//! Every decoder of bytes that come from elsewhere, fed with hostile ones: no panic, and no more memory than the input and
//! the decoder's own limits account for.
//!
//! Each target takes any bytes ([`targets::TARGETS`]). Its seeds are the lines of `tests/fuzz/corpus/NAME.hex` (what once
//! broke a decoder stays there) and the files that a broker writes when this suite starts it. Seeds go in as they are and
//! then mutated, for a bounded time; equal seeds of the generator give equal inputs. Longer, by hand:
//!
//! ```text
//! ALLUVIUM_FUZZ_SECONDS=300 ALLUVIUM_FUZZ_SEED=7 cargo test --release --test fuzz produced_batches
//! ```
//! An input that fails is made smaller and printed as a line for the corpus. With a fuzzer that is guided by coverage (which
//! wants a nightly compiler) a crate of its own includes `tests/fuzz/targets.rs` as a module and calls a target's function from
//! `fuzz_target!`; `ALLUVIUM_FUZZ_SEEDS=DIR` makes this suite write all seeds there, one directory for each target, and
//! what the fuzzer finds goes into the corpus as a line of hexadecimal digits.

mod fuzz {
    pub mod allocations;
    pub mod answers;
    pub mod driver;
    pub mod mutation;
    pub mod requests;
    pub mod seeds;
    pub mod targets;
}

use fuzz::driver::fuzz;

/// One test for each target, so that each can be run alone and they run side by side.
macro_rules! targets {
    ($($name:ident)*) => {
        $(
            mod $name {
                #[test]
                fn hostile_bytes_do_no_harm() {
                    super::fuzz(stringify!($name));
                }
            }
        )*

        #[test]
        fn every_target_has_a_test_and_seeds() {
            let tested = [$(stringify!($name)),*];
            let names: Vec<_> = fuzz::targets::TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(names, tested);
            for name in tested {
                assert!(!fuzz::seeds::of(name).is_empty(), "{name} has no seeds");
            }
            fuzz::seeds::export();
        }
    };
}

targets! {
    requests
    answers
    produced_batches
    stored_batches
    gzip
    snappy
    lz4
    zstd
    identities
    journal_headers
    journal_blocks
    journal_entries
    checkpoints
    producer_snapshots
    segment_headers
    segment_indexes
    heads
    spilled_lists
    spills
    keys
    stamps_of_the_bucket
    companions
    parquet_footers
    parquet_rows
    group_records
    group_snapshots
    subscriptions
    metadata_commands
    metadata_images
    snapshot_headers
    quorum_records
}

#[test]
fn a_panic_and_a_greedy_allocation_are_noticed() {
    use fuzz::driver::{Flaw, flaw_of};
    use fuzz::targets::Target;
    let target = |run| Target { name: "planted", run, bytes_per_byte: 4, bytes_more: 1000 };
    let panics = target(|bytes| assert!(bytes.len() < 3, "too long"));
    assert!(flaw_of(&panics, &[0; 2]).is_none());
    assert!(matches!(flaw_of(&panics, &[0; 3]), Some(Flaw::Panic(text)) if text.contains("too long")));
    let greedy = target(|bytes| drop(std::hint::black_box(vec![0_u8; 1000 * bytes.len()])));
    assert!(flaw_of(&greedy, &[0; 1]).is_none());
    assert!(matches!(flaw_of(&greedy, &[0; 2]), Some(Flaw::Memory { peak: 2000, .. })));
}
