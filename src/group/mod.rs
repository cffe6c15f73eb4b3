//! Consumer groups and committed offsets: pure machines, and the driver that logs their state.
