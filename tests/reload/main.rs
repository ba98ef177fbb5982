//! A reload is a transaction: it happens wholly or not at all, and what it
//! does not change, it does not touch.

mod command;
mod failing;
mod generations;
mod log_file;
mod pools;
mod sizes;
mod snapshot;
mod trial;
mod waiting;

use support::Address;

/// A pool of an echo service.
pub fn echo(name: &str, address: &Address, workers: usize) -> String {
    format!("[pool.{name}]\nlisten = \"{address}\"\nworkers = {workers}\nservice = \"echo\"\n")
}
