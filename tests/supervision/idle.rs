//! A pool at rest.

use std::thread;
use std::time::Duration;

use super::echo;
use support::client::assert_serves;
use support::{Address, Daemon, procfs, until};

#[test]
fn idle_workers_are_in_accept_and_the_master_is_in_ppoll() {
    let address = Address::fresh();
    let daemon = Daemon::start(&echo(&address, 5));
    daemon.wait_for_idle("echo", 5);
    until("the master is in ppoll", || procfs::is_in_ppoll(daemon.pid()).then_some(()));
    assert_eq!(daemon.children().len(), 5);
    assert_serves(&address);
}

#[test]
fn an_idle_master_is_not_scheduled_once_in_two_seconds() {
    let address = Address::fresh();
    let daemon = Daemon::start(&echo(&address, 3));
    assert_serves(&address);
    let mut pids = daemon.wait_for_idle("echo", 3);
    pids.push(daemon.pid());
    until("the master is in ppoll", || procfs::is_in_ppoll(daemon.pid()).then_some(()));
    let count = || pids.iter().map(|&pid| procfs::context_switches(pid)).collect::<Vec<_>>();
    let before = count();
    // The time is what is tried here.
    thread::sleep(Duration::from_secs(2));
    assert_eq!(count(), before, "context switches of the workers and of the master");
}

#[test]
fn the_looks_for_overdue_connections_stay_as_few_however_often_their_pace_changes() {
    let address = Address::fresh();
    // An old worker is looked at once more after `kill_timeout`.
    let config = |time: &str| {
        let pool = echo(&address, 1);
        format!("{pool}kill_timeout = \"1h\"\nrequest_timeout = \"{time}\"\n")
    };
    let daemon = Daemon::start(&config("200ms"));
    for _ in 0..8 {
        for time in ["100ms", "200ms"] {
            daemon.reload(&config(time));
            daemon.wait_for_children(1);
            // The old pace is forgotten at the next look.
            thread::sleep(Duration::from_millis(230));
        }
    }
    daemon.reload(&config("1s"));
    daemon.wait_for_children(1);
    let count = || procfs::context_switches(daemon.pid()).expect("the master");
    thread::sleep(Duration::from_millis(500));
    let before = count();
    // The time is what is tried here. A look once a second is due.
    thread::sleep(Duration::from_secs(2));
    let looks = count() - before;
    assert!(looks <= 6, "{looks}");
}
