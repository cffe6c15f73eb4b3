//! The `alluvium` command. Everything it does is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    alluvium::cli::main(std::env::args_os(), std::env::vars_os())
}
