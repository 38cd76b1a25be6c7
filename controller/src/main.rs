//! `fernwart`: parse, act, say how it ended.

use std::process::ExitCode;

fn main() -> ExitCode {
    fernwart::cli::run()
}
