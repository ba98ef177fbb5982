//! Supervision: workers that die are explained and replaced, whatever kills
//! them, and the master lives through every fault that it can survive.

mod back_off;
mod bounds;
mod deaths;
mod drain;
mod faults;
mod idle;
mod master_gone;
mod scoreboard;
mod signals;
mod stop;

use std::io::Read;

use support::log::Mark;
use support::{Address, Client, Daemon, Event};

/// A pool named `echo`.
pub fn echo(address: &Address, workers: usize) -> String {
    format!("[pool.echo]\nlisten = \"{address}\"\nworkers = {workers}\nservice = \"echo\"\n")
}

/// A pool named `echo` whose workers may be killed at will.
pub fn sturdy(address: &Address, workers: usize) -> String {
    format!("{}min_uptime = \"0s\"\n", echo(address, workers))
}

/// A pool named `command`, of the test service of this name, that never backs
/// off.
pub fn command(address: &Address, workers: usize) -> String {
    format!(
        "[pool.command]\nlisten = \"{address}\"\nworkers = {workers}\nservice = \"command\"\nmin_uptime = \"0s\"\n"
    )
}

/// Has a worker obey what ends it, and gives the event that tells the end.
#[track_caller]
pub fn end_a_worker(daemon: &Daemon, address: &Address, request: &str) -> (Mark, Event) {
    daemon.expect(&["worker exited", "worker killed"]);
    let mark = daemon.log().mark();
    let mut client = Client::connect(address);
    client.send(&format!("{request}\n"));
    // Whatever the worker does to the connection when it dies.
    let _ = client.read(&mut [0]);
    let ends = daemon.log().wait_count(mark, 1, "the end of a worker", Event::is_end);
    (mark, ends[0].clone())
}

/// Checks every field that the end of a worker has.
#[track_caller]
pub fn assert_explained(end: &Event, pool: &str) {
    assert!(end.is_of_pool(pool), "{end}");
    for field in ["slot", "pid", "generation", "uptime_ms", "served", "cpu_ms", "max_rss_kib"] {
        let number = end.number(field);
        assert!(number.is_some_and(|number| number >= 0), "field {field} of {end}");
    }
    // A process of less than a page, or of more than this machine has.
    let peak = end.number("max_rss_kib").unwrap_or_default();
    assert!((100..100_000_000).contains(&peak), "{end}");
    let is_exit = end.message() == "worker exited";
    assert_eq!(end.number("code").is_some(), is_exit, "field code of {end}");
    assert_eq!(end.has("signal"), !is_exit, "field signal of {end}");
    assert_eq!(end.flag("core_dumped").is_some(), !is_exit, "field core_dumped of {end}");
    let causes = ["retired", "recycled", "timed out", "stopped", "crashed", "killed", "unknown"];
    let cause = end.text("cause").unwrap_or_default();
    assert!(causes.contains(&cause), "field cause of {end}");
}

/// Checks that the slot of this end got a new worker, and the pool is full.
#[track_caller]
pub fn assert_replaced(daemon: &Daemon, since: Mark, end: &Event, workers: usize) {
    let pool = end.text("pool").unwrap_or_default();
    let slot = end.number("slot");
    let start = daemon.log().wait_since(since, "worker started", |event| {
        event.is_of_pool(pool) && event.number("slot") == slot && event.pid() != end.pid()
    });
    assert_eq!(start.number("generation"), end.number("generation"), "{start} after {end}");
    let pids = daemon.wait_for_idle(pool, workers);
    assert!(!pids.contains(&end.pid()));
    assert_eq!(daemon.zombies(), [0; 0]);
}
