//! The `alluvium` program; all that it does is in the library.

fn main() {}
