//! The `fernwart` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    fernwart::cli::run()
}
