//! Documents for those who run alluvium and those who change it.

pub mod decisions;
pub mod formats;
