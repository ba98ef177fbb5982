//! The ways to stop.

use nix::sys::signal::Signal;

use super::{assert_explained, command, echo};
use support::{Address, Client, Daemon, is_root, procfs, provided, until};

// PEERS: "SIGKILL never sent after the deadline".
#[test]
fn a_worker_that_ignores_the_stop_is_killed_after_stop_timeout() {
    if !provided(is_root(), "root, to see into the daemon") {
        return;
    }
    let address = Address::fresh();
    let config = format!("[daemon]\nstop_timeout = \"500ms\"\n{}", command(&address, 3));
    for request in ["sleep\n", "spin\n"] {
        let daemon = Daemon::start_example("testsvc", &config);
        daemon.expect(&["worker killed", "stop escalated"]);
        let mut client = Client::connect(&address);
        client.send(request);
        wait_for_busy(&daemon);
        daemon.signal(Signal::SIGTERM);
        let end = daemon.log().wait_for("worker killed", |_| true);
        assert_eq!(end.text("signal"), Some("SIGKILL"), "{end}");
        assert_eq!(end.text("cause"), Some("stopped"), "{end}");
        assert_eq!(end.level(), "warning", "{end}");
        assert_explained(&end, "command");
        daemon.wait_for_code(0);
        daemon.log().wait_for("stopped", |_| true);
    }
}

/// Waits until a worker has accepted: it holds its listener and a connection.
/// That it is not in accept would not do: one that was just woken is not.
#[track_caller]
fn wait_for_busy(daemon: &Daemon) {
    until("a worker is busy", || {
        let is_busy = |pid: &i32| {
            let files = procfs::descriptors(*pid);
            files.values().filter(|target| target.starts_with("socket:")).count() == 2
        };
        daemon.workers("command").iter().any(is_busy).then_some(())
    });
}

/// A daemon that waits for ever for a busy worker if it is asked politely, and
/// the client that keeps the worker busy.
fn busy_for_ever() -> (Daemon, Client) {
    let address = Address::fresh();
    let config = format!(
        "[daemon]\nstop_timeout = \"10m\"\n{}kill_timeout = \"300ms\"\n",
        command(&address, 2)
    );
    let daemon = Daemon::start_example("testsvc", &config);
    daemon.expect(&["worker killed", "stop escalated"]);
    let mut client = Client::connect(&address);
    client.send("sleep\n");
    wait_for_busy(&daemon);
    (daemon, client)
}

#[test]
fn a_second_sigterm_stops_at_once() {
    if !provided(is_root(), "root, to see into the daemon") {
        return;
    }
    let (daemon, _client) = busy_for_ever();
    daemon.signal(Signal::SIGTERM);
    daemon.log().wait_for("stopping", |_| true);
    until("the idle worker goes", || (daemon.children().len() == 1).then_some(()));
    daemon.signal(Signal::SIGTERM);
    daemon.wait_for_code(0);
}

#[test]
fn sigint_and_sigquit_stop_at_once() {
    if !provided(is_root(), "root, to see into the daemon") {
        return;
    }
    for signal in [Signal::SIGINT, Signal::SIGQUIT] {
        let (daemon, _client) = busy_for_ever();
        daemon.signal(signal);
        daemon.wait_for_code(0);
        daemon.log().wait_for("stopped", |_| true);
    }
}

#[test]
fn a_stop_tells_its_cause() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT] {
        let address = Address::fresh();
        let daemon = Daemon::start(&format!("{}kill_timeout = \"10m\"\n", echo(&address, 2)));
        daemon.wait_for_idle("echo", 2);
        daemon.signal(signal);
        daemon.wait_for_code(0);
        for message in ["stopping", "stopped"] {
            let event = daemon.log().wait_for(message, |_| true);
            assert_eq!(event.level(), "info", "{event}");
            assert!(event.has("cause"), "{event}");
        }
        let ends = daemon.log().events();
        let ends: Vec<_> = ends.iter().filter(|event| event.is_end()).collect();
        assert_eq!(ends.len(), 2);
        for end in ends {
            assert_eq!(end.message(), "worker exited", "{end}");
            assert_eq!(end.text("cause"), Some("stopped"), "{end}");
            assert_eq!(end.number("code"), Some(0), "{end}");
            assert_eq!(end.level(), "debug", "{end}");
            assert_explained(end, "echo");
        }
    }
}
