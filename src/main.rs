//! The daemon `preforkd`, with the services that come with it.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use preforkd::{Services, WipingAllocator};

/// Workers must not find the remains of another pool's configuration in freed memory.
#[global_allocator]
static ALLOCATOR: WipingAllocator = WipingAllocator;

fn main() -> ExitCode {
    preforkd::main(Services::builtin())
}
