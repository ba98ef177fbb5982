//! A reload is a transaction: it happens wholly or not at all, and what it
//! does not change, it does not touch.

#[expect(clippy::allow_attributes, reason = "what is unused differs from test to test")]
#[allow(dead_code, unused_imports, reason = "each test uses its own part of the harness")]
#[path = "../support/mod.rs"]
mod support;

mod command;
mod failing;
mod generations;
mod log_file;
mod pools;
mod sizes;
mod snapshot;

use support::Address;

/// A pool of an echo service.
pub fn echo(name: &str, address: &Address, workers: usize) -> String {
    format!("[pool.{name}]\nlisten = \"{address}\"\nworkers = {workers}\nservice = \"echo\"\n")
}
