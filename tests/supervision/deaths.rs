//! Workers that die, each in its own way.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use nix::libc;
use nix::sys::signal::Signal;

use super::{assert_explained, assert_replaced, command, echo, end_a_worker, sturdy};
use support::client::assert_serves;
use support::{Address, Daemon, Directory, Event, is_root, procfs, provided, until};

#[test]
fn a_worker_that_exits_with_a_code_is_explained_and_replaced() {
    let address = Address::fresh();
    let daemon = Daemon::start_example("testsvc", &command(&address, 3));
    for code in [1, 3, 70, 255, 0] {
        let (mark, end) = end_a_worker(&daemon, &address, &format!("exit {code}"));
        assert_eq!(end.message(), "worker exited");
        assert_eq!(end.level(), "warning", "{end}");
        assert_eq!(end.number("code"), Some(code), "{end}");
        assert_explained(&end, "command");
        assert_replaced(&daemon, mark, &end, 3);
    }
}

#[test]
fn a_worker_that_dies_of_a_signal_is_explained_and_replaced() {
    let address = Address::fresh();
    let daemon = Daemon::start_example("testsvc", &command(&address, 3));
    let signals = [
        Signal::SIGSEGV,
        Signal::SIGABRT,
        Signal::SIGBUS,
        Signal::SIGFPE,
        Signal::SIGILL,
        Signal::SIGSYS,
    ];
    for signal in signals {
        let (mark, end) = end_a_worker(&daemon, &address, &format!("signal {}", signal as i32));
        assert_eq!(end.message(), "worker killed");
        assert_eq!(end.level(), "error", "{end}");
        assert_eq!(end.text("signal"), Some(signal.as_str()), "{end}");
        assert_eq!(end.text("cause"), Some("crashed"), "{end}");
        assert_explained(&end, "command");
        assert_replaced(&daemon, mark, &end, 3);
    }
    let (mark, end) = end_a_worker(&daemon, &address, "abort");
    assert_eq!(end.text("signal"), Some("SIGABRT"), "{end}");
    assert_replaced(&daemon, mark, &end, 3);
}

#[test]
fn a_death_names_the_client_whose_connection_was_in_hand() {
    let address = Address::fresh();
    let daemon = Daemon::start_example("testsvc", &command(&address, 1));
    for request in ["signal 11", "exit 3"] {
        let (_, end) = end_a_worker(&daemon, &address, request);
        let peer = end.text("peer").unwrap_or_default();
        assert!(peer.starts_with("127.") && peer.contains(':'), "{end}");
        assert!(end.number("in_hand_ms").is_some_and(|millis| millis >= 0), "{end}");
        assert!(!end.has("in_hand"), "{end}");
    }
    let mark = daemon.log().mark();
    let idle = daemon.wait_for_idle("command", 1)[0];
    procfs::send(idle, Signal::SIGKILL);
    let end = daemon.log().wait_since(mark, "worker killed", |event| event.pid() == idle);
    assert!(!end.has("peer") && !end.has("in_hand_ms"), "{end}");
    assert_eq!(end.flag("in_hand"), Some(false), "{end}");
}

#[test]
fn a_worker_killed_by_a_realtime_signal_is_explained_and_replaced() {
    let address = Address::fresh();
    let daemon = Daemon::start_example("testsvc", &command(&address, 2));
    // No name in signal(7) but an offset, and unknown to many tables.
    for signal in [libc::SIGRTMIN(), libc::SIGRTMIN() + 5, libc::SIGRTMAX()] {
        let (mark, end) = end_a_worker(&daemon, &address, &format!("signal {signal}"));
        assert_eq!(end.message(), "worker killed", "{end}");
        assert_explained(&end, "command");
        assert_replaced(&daemon, mark, &end, 2);
    }
}

#[test]
fn a_worker_that_panics_is_explained_and_replaced() {
    let address = Address::fresh();
    let mut daemon = Daemon::start_example("testsvc", &command(&address, 2));
    let (mark, end) = end_a_worker(&daemon, &address, "panic");
    assert_explained(&end, "command");
    assert_replaced(&daemon, mark, &end, 2);
    let events = daemon.log().since(mark);
    let words = events.iter().any(|event| event.to_string().contains("asked to panic"));
    assert!(words, "the log should hold the words of the panic");
    daemon.expect_anything();
}

#[test]
fn a_worker_that_dumps_core_says_so() {
    let directory = Directory::new();
    let control = Command::new("sh")
        .args(["-c", "ulimit -c unlimited; kill -SEGV $$"])
        .current_dir(directory.path())
        .status()
        .expect("run a shell");
    if !provided(control.core_dumped(), "a kernel that dumps core here") {
        return;
    }
    fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).expect("open it to all");
    // The kernel lets nobody dump who has changed users, unless the daemon asks it to.
    let user = if is_root() { "user = \"nobody\"" } else { "" };
    let pools = [
        ("with", "limits.core = \"1GiB\"", true),
        ("without", "limits.core = \"0\"", false),
        ("changed", &format!("limits.core = \"1GiB\"\n{user}"), true),
    ]
    .map(|(pool, settings, dumps)| (pool, settings.to_owned(), dumps, Address::fresh()));
    let config = pools.iter().map(|(pool, settings, _, address)| {
        let place = directory.path().display();
        format!(
            "[pool.{pool}]\nlisten = \"{address}\"\nworkers = 2\nservice = \"command\"\n\
             working_directory = \"{place}\"\n{settings}\n"
        )
    });
    let daemon = Daemon::start_example("testsvc", &config.collect::<String>());
    for (pool, _, dumps, address) in &pools {
        let (mark, end) = end_a_worker(&daemon, address, "signal 11");
        assert_eq!(end.flag("core_dumped"), Some(*dumps), "{end}");
        assert_explained(&end, pool);
        assert_replaced(&daemon, mark, &end, 2);
    }
}

#[test]
fn a_worker_killed_from_outside_is_explained_and_replaced() {
    let address = Address::fresh();
    let daemon = Daemon::start(&echo(&address, 3));
    daemon.expect(&["worker killed"]);
    assert_serves(&address);
    let victim = daemon.wait_for_idle("echo", 3)[1];
    let mark = daemon.log().mark();
    procfs::send(victim, Signal::SIGKILL);
    let end = daemon.log().wait_since(mark, "worker killed", |_| true);
    assert_eq!(end.pid(), victim);
    assert_eq!(end.text("signal"), Some("SIGKILL"), "{end}");
    assert_eq!(end.flag("core_dumped"), Some(false), "{end}");
    assert_eq!(end.text("cause"), Some("killed"), "{end}");
    assert_eq!(end.level(), "error", "{end}");
    assert_explained(&end, "echo");
    assert_replaced(&daemon, mark, &end, 3);
    assert_serves(&address);
}

#[test]
fn a_death_tells_how_many_connections_were_served() {
    let address = Address::fresh();
    let daemon = Daemon::start(&echo(&address, 1));
    daemon.expect(&["worker killed"]);
    for _ in 0..17 {
        assert_serves(&address);
    }
    let pid = daemon.wait_for_idle("echo", 1)[0];
    procfs::send(pid, Signal::SIGKILL);
    let end = daemon.log().wait_for("worker killed", |_| true);
    assert_eq!(end.number("served"), Some(17), "{end}");
}

// PEERS: "all 8 workers killed: back after 10 s".
#[test]
fn all_of_eight_workers_killed_at_once_are_replaced() {
    let address = Address::fresh();
    let daemon = Daemon::start(&sturdy(&address, 8));
    daemon.expect(&["worker killed"]);
    for _ in 0..5 {
        let victims = daemon.wait_for_idle("echo", 8);
        let mark = daemon.log().mark();
        // While the master is stopped, the eight SIGCHLDs become one.
        daemon.hold();
        for &victim in &victims {
            procfs::send(victim, Signal::SIGKILL);
        }
        until("all are dead", || (daemon.zombies() == victims).then_some(()));
        daemon.signal(Signal::SIGCONT);
        let ends = daemon.log().wait_count(mark, 8, "eight ends", Event::is_end);
        let mut told: Vec<_> = ends.iter().map(Event::pid).collect();
        told.sort_unstable();
        assert_eq!(told, victims);
        daemon.wait_for_idle("echo", 8);
        let mut slots: Vec<_> = daemon
            .log()
            .since(mark)
            .iter()
            .filter(|event| event.message() == "worker started")
            .map(|event| event.number("slot"))
            .collect();
        slots.sort_unstable();
        assert_eq!(slots, (0..8).map(Some).collect::<Vec<_>>());
        assert_eq!(daemon.zombies(), [0; 0]);
        assert_serves(&address);
    }
}

// PEERS: "a dead worker is never replaced: -c 8, one killed, 7 for good".
#[test]
fn every_worker_killed_in_turn_is_replaced() {
    let address = Address::fresh();
    let daemon = Daemon::start(&sturdy(&address, 8));
    daemon.expect(&["worker killed"]);
    for victim in daemon.wait_for_idle("echo", 8) {
        let mark = daemon.log().mark();
        procfs::send(victim, Signal::SIGKILL);
        let end = daemon.log().wait_since(mark, "worker killed", |_| true);
        assert_replaced(&daemon, mark, &end, 8);
    }
}

#[test]
fn a_worker_that_is_stopped_and_goes_on_is_not_taken_for_dead() {
    let address = Address::fresh();
    let daemon = Daemon::start(&echo(&address, 2));
    daemon.expect(&["worker stopped"]);
    let pids = daemon.wait_for_idle("echo", 2);
    let mark = daemon.log().mark();
    for &pid in &pids {
        procfs::send(pid, Signal::SIGSTOP);
        until("the worker stops", || (procfs::Process::of(pid)?.state == 'T').then_some(()));
        procfs::send(pid, Signal::SIGCONT);
    }
    assert_eq!(daemon.wait_for_idle("echo", 2), pids);
    assert_serves(&address);
    assert_eq!(daemon.log().since(mark).iter().filter(|event| event.level() == "info").count(), 0);
}
