//! The daemon `preforkd`, with the services that come with it.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use preforkd::Services;

fn main() -> ExitCode {
    preforkd::main(Services::builtin())
}
