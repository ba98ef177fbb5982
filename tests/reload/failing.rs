//! Reloads that fail.

use std::fs;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;

use super::echo;
use super::snapshot::Snapshot;
use nix::sys::signal::Signal;
use support::client::{assert_refuses, assert_serves};
use support::{Address, Daemon, is_root, procfs, provided, until};

/// A configuration that cannot be had, and a word that has to be in the reason.
struct Fault {
    config: String,
    reason: String,
}

/// What the faults stand on: somebody else's sockets and files.
struct Obstacles {
    address: Address,
    _tcp: TcpListener,
    _unix: UnixListener,
}

impl Obstacles {
    fn new(daemon: &Daemon) -> Self {
        let address = Address::fresh();
        let tcp = TcpListener::bind(address.tcp()).expect("take an address");
        let unix = UnixListener::bind(daemon.directory().join("taken.sock")).expect("take a path");
        daemon.directory().write("file", "of somebody else\n");
        Obstacles { address, _tcp: tcp, _unix: unix }
    }
}

/// Every fault of the list, each together with changes that could be had: the
/// pool `echo` would get more workers and another environment, and there would
/// be a new pool at `new` and one at a Unix socket.
fn faults(
    daemon: &Daemon,
    echo_address: &Address,
    new: &Address,
    obstacles: &Obstacles,
) -> Vec<Fault> {
    let place = |name: &str| daemon.directory().join(name).display().to_string();
    let good = format!(
        "{}env.NEW = \"1\"\n{}{}",
        echo("echo", echo_address, 7),
        echo("new", new, 2),
        echo("socket", &Address::unix(&daemon.directory().join("new.sock")), 1)
    );
    let fault = |text: &str, reason: &str| Fault {
        config: format!("{good}{text}"),
        reason: reason.to_owned(),
    };
    let bad = |listen: &str| format!("[pool.bad]\nlisten = \"{listen}\"\nservice = \"echo\"\n");
    let free = Address::fresh();
    let with = |line: &str| format!("{}{line}\n", bad(&free.to_string()));
    let taken = obstacles.address.to_string();
    vec![
        fault("[pool.bad\n", "preforkd.toml:"),
        fault(&with("workres = 3"), "workres"),
        fault(&with("workers = 0"), "workers"),
        fault(&bad(&taken), &taken),
        fault(&bad(&place("taken.sock")), "taken.sock"),
        fault(&bad(&place("file")), "file"),
        fault(&bad(&place("missing/socket")), "missing/socket"),
        fault(&bad(&new.to_string()), &new.to_string()),
        // Not as root, to ask for a user is an error in itself.
        fault(&with("user = \"nobody-of-this-name\""), "user"),
        fault(&with("working_directory = \"/nowhere/at/all\""), "/nowhere/at/all"),
        fault(&format!("[pool.bad]\nlisten = \"{free}\"\nservice = \"magic\"\n"), "magic"),
        fault(
            &format!("[pool.bad]\nlisten = \"{free}\"\nservice.exec.command = [\"/etc/passwd\"]\n"),
            "/etc/passwd",
        ),
        fault(
            &format!("[pool.bad]\nlisten = \"{free}\"\nservice.exec.command = [\"/no/program\"]\n"),
            "/no/program",
        ),
        fault("[log]\nlevel = \"loud\"\n", "loud"),
        fault("[log]\nfile = \"/nowhere/at/all\"\n", "/nowhere/at/all"),
    ]
}

#[track_caller]
fn assert_fails_and_changes_nothing(
    daemon: &Daemon,
    before: &Snapshot,
    address: &Address,
    fault: &Fault,
) {
    daemon.rewrite_config(&fault.config);
    let event = daemon.fail_to_reload();
    assert_eq!(event.level(), "error", "{event}");
    let reason = event.text("reason").unwrap_or_default();
    assert!(reason.contains(&fault.reason), "the reason should tell {:?}: {event}", fault.reason);
    assert_eq!(&Snapshot::of(daemon), before, "after {event}");
    assert_serves(address);
}

#[test]
fn a_reload_that_fails_changes_nothing_and_the_next_good_one_works() {
    let (address, new) = (Address::fresh(), Address::fresh());
    let good = echo("echo", &address, 3);
    let daemon = Daemon::start(&good);
    let obstacles = Obstacles::new(&daemon);
    daemon.wait_for_idle("echo", 3);
    let before = Snapshot::of(&daemon);
    for fault in faults(&daemon, &address, &new, &obstacles) {
        assert_fails_and_changes_nothing(&daemon, &before, &address, &fault);
        // Bound for the reload that failed, and closed again.
        assert_refuses(&new);
    }
    assert_eq!(
        fs::read(daemon.directory().join("file")).expect("the file of somebody else"),
        b"of somebody else\n"
    );
    daemon.reload(&(good + &echo("new", &new, 2)));
    assert_serves(&new);
    assert_eq!(daemon.wait_for_idle("echo", 3), before.workers);
}

#[test]
fn a_reload_without_its_file_changes_nothing() {
    let address = Address::fresh();
    let good = echo("echo", &address, 2);
    let daemon = Daemon::start(&good);
    daemon.wait_for_idle("echo", 2);
    let before = Snapshot::of(&daemon);
    fs::remove_file(daemon.config_path()).expect("remove the configuration");
    let event = daemon.fail_to_reload();
    assert!(event.text("reason").is_some_and(|reason| reason.contains("preforkd.toml")), "{event}");
    assert_eq!(Snapshot::of(&daemon), before);
    // Nor does a file that says nothing at all.
    daemon.rewrite_config_raw("");
    daemon.fail_to_reload();
    assert_eq!(Snapshot::of(&daemon), before);
    daemon.reload(&good);
    assert_serves(&address);
}

// PEERS: "a failed reload left a signal blocked for ever" and "descriptors leak
// after a failed reload".
#[test]
fn a_hundred_reloads_that_fail_leak_nothing() {
    let (address, new) = (Address::fresh(), Address::fresh());
    let daemon = Daemon::start(&echo("echo", &address, 2));
    let obstacles = Obstacles::new(&daemon);
    daemon.wait_for_idle("echo", 2);
    let before = Snapshot::of(&daemon);
    let faults = faults(&daemon, &address, &new, &obstacles);
    for fault in faults.iter().cycle().take(100) {
        assert_fails_and_changes_nothing(&daemon, &before, &address, fault);
    }
    daemon.reload(&echo("echo", &address, 3));
    daemon.wait_for_idle("echo", 3);
}

// What makes a service from its options is somebody else's code, and runs in the master.
#[test]
fn a_reload_with_a_service_that_panics_changes_nothing() {
    let (address, new) = (Address::fresh(), Address::fresh());
    let good = echo("echo", &address, 2);
    let daemon = Daemon::start_example("testsvc", &good);
    daemon.wait_for_idle("echo", 2);
    let before = Snapshot::of(&daemon);
    let bad = format!("[pool.bad]\nlisten = \"{new}\"\nservice = \"bug\"\n");
    let reason = "could not make service \"bug\": it panicked: asked to panic at ".to_owned();
    let fault = Fault { config: good.clone() + &bad, reason };
    assert_fails_and_changes_nothing(&daemon, &before, &address, &fault);
    assert_refuses(&new);
    daemon.reload(&(good + &echo("new", &new, 1)));
    assert_serves(&new);
}

#[test]
fn a_reload_with_a_service_that_leaves_a_thread_touches_no_worker() {
    let (address, new) = (Address::fresh(), Address::fresh());
    let good = echo("echo", &address, 2);
    let daemon = Daemon::start_example("testsvc", &good);
    let workers = daemon.wait_for_idle("echo", 2);
    let bad = format!("[pool.bad]\nlisten = \"{new}\"\nservice = \"threads\"\n");
    daemon.rewrite_config(&(good + &bad));
    let event = daemon.fail_to_reload();
    let reason = event.text("reason").unwrap_or_default();
    assert!(reason.starts_with("could not make services: the process has threads"), "{event}");
    assert_refuses(&new);
    assert_serves(&address);
    assert_eq!(daemon.wait_for_idle("echo", 2), workers);
}

// To look up a user, or what a service does with its options, may take for ever.
#[test]
fn a_reload_that_hangs_holds_nobody_up() {
    let address = Address::fresh();
    let other = echo("echo", &Address::fresh(), 1);
    let config = |how: &str| {
        format!(
            "{other}[pool.stuck]\nlisten = \"{address}\"\nworkers = 1\nservice.stuck.how = \"{how}\"\n"
        )
    };
    let daemon = Daemon::start_example("testsvc", &config("well"));
    daemon.expect(&["worker killed", "reload failed"]);
    daemon.rewrite_config(&config("hang"));
    let mark = daemon.log().mark();
    daemon.signal(Signal::SIGHUP);
    let reader = until("a process reads the configuration", || {
        let children = procfs::children(daemon.pid());
        children.iter().find(|child| child.name == "preforkd-reload").map(|child| child.pid)
    });
    // Meanwhile the master does all that it does.
    let victim = daemon.workers("stuck")[0];
    procfs::send(victim, Signal::SIGKILL);
    daemon.log().wait_since(mark, "worker killed", |event| event.pid() == victim);
    assert!(support::client::ask(&address, "pid\n").ends_with('\n'));
    let over = daemon.log().since(mark).iter().any(|event| event.message() == "reload failed");
    assert!(!over, "it waits for the answer");
    let failed = daemon.log().wait_since(mark, "reload failed", |_| true);
    assert!(failed.text("reason").is_some_and(|it| it.contains("longer than 10 s")), "{failed}");
    until("the process is gone", || (!procfs::is_alive(reader)).then_some(()));
    // Another one that hangs gives way to one that does not.
    daemon.signal(Signal::SIGHUP);
    daemon.reload(&config("well still"));
    // A stop waits for none.
    daemon.rewrite_config(&config("hang"));
    daemon.signal(Signal::SIGHUP);
    daemon.stop();
}

#[test]
fn a_reload_whose_reader_dies_is_refused() {
    let address = Address::fresh();
    let config = |how: &str| {
        format!(
            "[pool.stuck]\nlisten = \"{address}\"\nworkers = 1\nservice.stuck.how = \"{how}\"\n"
        )
    };
    let daemon = Daemon::start_example("testsvc", &config("well"));
    daemon.wait_for_idle("stuck", 1);
    let before = Snapshot::of(&daemon);
    let reason = "ended without an answer".to_owned();
    let fault = Fault { config: config("die"), reason };
    daemon.rewrite_config(&fault.config);
    let event = daemon.fail_to_reload();
    assert!(event.text("reason").is_some_and(|it| it.contains(&fault.reason)), "{event}");
    assert_eq!(Snapshot::of(&daemon), before);
}

#[test]
fn a_reload_without_a_descriptor_for_its_reader_is_refused_and_the_next_one_works() {
    if !provided(is_root(), "root, to see into the daemon") {
        return;
    }
    let address = Address::fresh();
    let daemon = Daemon::start(&echo("echo", &address, 2));
    daemon.wait_for_idle("echo", 2);
    let before = Snapshot::of(&daemon);
    // All below it are taken.
    let free = (0..).find(|number| !before.descriptors.contains_key(number)).expect("a number");
    let limit = procfs::limit(daemon.pid(), None, "nofile", &free.to_string());
    let event = daemon.fail_to_reload();
    assert_eq!(
        event.text("reason"),
        Some("could not start a process for the reload: too many open files"),
        "{event}"
    );
    assert_eq!(Snapshot::of(&daemon), before);
    procfs::limit(daemon.pid(), None, "nofile", &limit);
    daemon.reload(&echo("echo", &address, 3));
    daemon.wait_for_idle("echo", 3);
}
