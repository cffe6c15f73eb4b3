//! The command line: serve, and the small clients and inspectors.
