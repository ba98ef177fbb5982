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
