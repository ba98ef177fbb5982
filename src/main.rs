//! The daemon `preforkd`, with the services that come with it.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use preforkd::{Services, WipingAllocator};

/// What the configuration of one pool leaves behind is not for the workers of another.
#[global_allocator]
static ALLOCATOR: WipingAllocator = WipingAllocator;

fn main() -> ExitCode {
    preforkd::main(Services::builtin())
}
