//! Signals that reach workers.

use nix::sys::signal::Signal;

use super::{echo, sturdy};
use support::client::assert_serves;
use support::{Address, Daemon, procfs, until};

// PEERS: "`pkill -HUP name` kills the workers". The rows of the signal table
// that say "ignored" for a worker, and those that may reach it by accident.
#[test]
fn signals_meant_for_the_master_do_not_harm_the_workers() {
    let address = Address::fresh();
    let daemon = Daemon::start(&echo(&address, 3));
    let pids = daemon.wait_for_idle("echo", 3);
    let signals = [
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGTTIN,
        Signal::SIGTTOU,
        Signal::SIGCHLD,
        Signal::SIGPIPE,
        // Comes when request_timeout runs out, here at the end of a connection.
        Signal::SIGALRM,
    ];
    for signal in signals {
        for &pid in &pids {
            procfs::send(pid, signal);
        }
        for _ in &pids {
            assert_serves(&address);
        }
        assert_eq!(daemon.wait_for_idle("echo", 3), pids, "after {signal}");
    }
    let mark = daemon.log().mark();
    for pid in pids.iter().copied().chain([daemon.pid()]) {
        procfs::send(pid, Signal::SIGHUP);
    }
    daemon.log().wait_since(mark, "reloaded", |_| true);
    assert_eq!(daemon.wait_for_idle("echo", 3), pids);
}

// PEERS: "signals between fork and the child's own handlers lost or run in the
// wrong process".
#[test]
fn a_signal_to_a_worker_just_forked_is_neither_lost_nor_the_masters() {
    let address = Address::fresh();
    let daemon = Daemon::start(&sturdy(&address, 2));
    // More than fifty in a second, for this or that slot.
    daemon.expect(&["worker exited", "worker killed", "respawn throttled"]);
    let mut old = daemon.wait_for_idle("echo", 2);
    for _ in 0..200 {
        let victim = old[0];
        procfs::send(victim, Signal::SIGTERM);
        until("the worker goes", || (!procfs::is_alive(victim)).then_some(()));
        // As soon as its successor is there, which may be before it is set up.
        let new = until("a successor is there", || {
            daemon.children().into_iter().find(|pid| !old.contains(pid))
        });
        procfs::send(new, Signal::SIGTERM);
        until("the successor obeys", || (!procfs::is_alive(new)).then_some(()));
        old = until("the pool is full", || Some(daemon.children()).filter(|pids| pids.len() == 2));
    }
    daemon.wait_for_idle("echo", 2);
    let stopping = daemon.log().events().iter().any(|event| event.message() == "stopping");
    assert!(!stopping, "the master took a worker's signal for its own");
    assert_serves(&address);
}
