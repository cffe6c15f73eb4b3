//! Settings: defaults, file, environment and flags, checked once and resolved.
