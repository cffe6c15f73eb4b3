//! Documents for those who run alluvium and those who change it.

pub mod decisions;
pub mod formats;

/// How the parts fit together, and what always holds.
#[doc = include_str!("architecture.md")]
pub mod architecture {}

/// Words that have one meaning here.
#[doc = include_str!("glossary.md")]
pub mod glossary {}

/// What always holds, and where that is checked.
#[doc = include_str!("invariants.md")]
pub mod invariants {}

/// For whoever is on call.
#[doc = include_str!("operations.md")]
pub mod operations {}
