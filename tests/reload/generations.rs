//! Reloads that start a new generation.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::echo;
use support::client::ask;
use support::{Address, Client, Daemon, Event, Setup, procfs, until};

#[test]
fn a_changed_pool_gets_a_new_generation_and_the_others_keep_theirs() {
    let (first, second) = (Address::fresh(), Address::fresh());
    let config = |value| {
        format!("{}env.KEY = \"{value}\"\n{}", echo("first", &first, 2), echo("second", &second, 2))
    };
    let daemon = Daemon::start(&config(1));
    let old = daemon.wait_for_idle("first", 2);
    let others = daemon.wait_for_idle("second", 2);
    let socket = procfs::listener(first.tcp());
    assert!(socket.is_some());
    let mark = daemon.log().mark();
    daemon.reload(&config(2));
    daemon.log().wait_count(mark, 2, "two ends", Event::is_end);
    let new = daemon.wait_for_idle("first", 2);
    assert!(!new.iter().any(|pid| old.contains(pid)));
    assert_eq!(daemon.wait_for_idle("second", 2), others);
    assert_eq!(procfs::listener(first.tcp()), socket, "the listener outlives everything");
    let generations = |events: Vec<Event>| {
        let starts =
            events.into_iter().filter(|e| e.message() == "worker started" && e.is_of_pool("first"));
        starts.filter_map(|event| event.number("generation")).collect::<Vec<_>>()
    };
    let all = generations(daemon.log().since(daemon.log().start()));
    assert!(all.len() == 4 && all[0] == all[1] && all[2] == all[3] && all[1] < all[2], "{all:?}");
}

/// A pool named `gated` of two workers that do not get ready while the file
/// `gate` exists, and die while the file `broken` does.
fn gated(address: &Address, directory: &Path, round: usize) -> String {
    format!(
        "[pool.gated]\nlisten = \"{address}\"\nworkers = 2\nenv.ROUND = \"{round}\"\n\
         service.die_at_start = {{ gate = \"{}\", while_exists = \"{}\", code = 4 }}\n",
        directory.join("gate").display(),
        directory.join("broken").display()
    )
}

#[track_caller]
fn start_gated(address: &Address) -> Daemon {
    let setup = Setup::example("testsvc");
    let config = gated(address, setup.directory().path(), 0);
    setup.config(&config).start()
}

// PEERS: "a worker respawned before it was ready, connections refused", "nobody
// serves for a second at each reload".
#[test]
fn the_old_generation_serves_until_the_new_one_is_ready() {
    let address = Address::fresh();
    let daemon = start_gated(&address);
    let old = daemon.wait_for_idle("gated", 2);
    let gate = daemon.directory().write("gate", "");
    let mark = daemon.log().mark();
    daemon.rewrite_config(&gated(&address, daemon.directory().path(), 1));
    daemon.signal(Signal::SIGHUP);
    daemon.log().wait_since(mark, "worker started", |_| true);
    for _ in 0..10 {
        assert!(ask(&address, "env\n").contains("ROUND=0"));
    }
    let early = daemon
        .log()
        .since(mark)
        .iter()
        .any(|event| event.is_end() || event.message() == "reloaded");
    assert!(!early, "nobody retires, and the reload is not done, before the new ones are ready");
    fs::remove_file(gate).expect("open the gate");
    daemon.log().wait_since(mark, "reloaded", |_| true);
    daemon.log().wait_count(mark, 2, "two ends", Event::is_end);
    let new = daemon.wait_for_idle("gated", 2);
    assert!(!new.iter().any(|pid| old.contains(pid)));
    assert!(ask(&address, "env\n").contains("ROUND=1"));
}

// PEERS: "reload reports success, the service is dead".
#[test]
fn a_new_generation_that_dies_at_its_start_leaves_the_old_one_serving() {
    let address = Address::fresh();
    let daemon = start_gated(&address);
    daemon.expect(&["worker exited", "respawn throttled"]);
    let old = daemon.wait_for_idle("gated", 2);
    daemon.directory().write("broken", "");
    let mark = daemon.log().mark();
    daemon.rewrite_config(&gated(&address, daemon.directory().path(), 1));
    let event = daemon.fail_to_reload();
    assert!(event.text("reason").is_some_and(|reason| reason.contains("gated")), "{event}");
    for _ in 0..10 {
        assert!(ask(&address, "env\n").contains("ROUND=0"));
    }
    assert_eq!(daemon.wait_for_children(2), old);
    let success = daemon.log().since(mark).iter().any(|event| event.message() == "reloaded");
    assert!(!success, "no success is reported");
    // Mended, whether by a reload or by itself.
    fs::remove_file(daemon.directory().join("broken")).expect("mend the service");
    daemon.reload(&gated(&address, daemon.directory().path(), 2));
    until("the new generation serves", || ask(&address, "env\n").contains("ROUND=2").then_some(()));
    daemon.wait_for_children(2);
}

#[test]
fn the_old_generation_is_kept_at_size_until_the_new_one_is_ready() {
    let address = Address::fresh();
    let setup = Setup::example("testsvc");
    // Here the old generation has no gate, and so its successors have none.
    let config = gated(&address, setup.directory().path(), 0).replace("gate = ", "diary = ");
    let daemon = setup.config(&config).start();
    daemon.expect(&["worker killed"]);
    let old = daemon.wait_for_idle("gated", 2);
    let gate = daemon.directory().write("gate", "");
    let mark = daemon.log().mark();
    daemon.rewrite_config(&gated(&address, daemon.directory().path(), 1));
    daemon.signal(Signal::SIGHUP);
    daemon.log().wait_count(mark, 2, "two starts", |event| event.message() == "worker started");
    for &pid in &old {
        procfs::send(pid, Signal::SIGKILL);
    }
    daemon.log().wait_count(mark, 2, "two ends", Event::is_end);
    // The pool must not stand still for as long as the new generation takes.
    for _ in 0..10 {
        assert!(ask(&address, "env\n").contains("ROUND=0"));
    }
    until("two old and two new ones", || (daemon.children().len() == 4).then_some(()));
    fs::remove_file(gate).expect("open the gate");
    daemon.log().wait_since(mark, "reloaded", |_| true);
    daemon.wait_for_children(2);
    assert!(ask(&address, "env\n").contains("ROUND=1"));
}

#[test]
fn a_connection_in_hand_lives_through_a_reload() {
    let (address, other) = (Address::fresh(), Address::fresh());
    let config = |value| {
        format!(
            "{}env.KEY = \"{value}\"\nkill_timeout = \"200ms\"\n{}",
            echo("echo", &address, 2),
            echo("other", &other, 1)
        )
    };
    let daemon = Daemon::start(&config(1));
    // A slow machine takes an idle worker that long.
    daemon.expect(&["worker not retiring", "worker killed"]);
    let mut changed = Client::connect(&address);
    changed.ping("before");
    daemon.reload(&config(2));
    // Longer than kill_timeout: that is for those who hang.
    thread::sleep(Duration::from_millis(800));
    changed.ping("after the change");
    // Its pool goes away altogether.
    daemon.reload(&echo("other", &other, 1));
    changed.ping("after the removal");
    changed.half_close().expect("close one half");
    assert_eq!(changed.rest(), "");
    daemon.wait_for_children(1);
}

// However long it takes a worker to fail, it has failed if it never accepted.
#[test]
fn a_generation_whose_workers_fail_late_is_not_waited_for() {
    let address = Address::fresh();
    let daemon = Setup::example("testsvc").config(&echo("echo", &address, 2)).start();
    daemon.expect(&["worker exited", "respawn throttled", "reload failed"]);
    let old = daemon.wait_for_idle("echo", 2);
    // Also one that says that all is well.
    for code in [3, 0] {
        let mark = daemon.log().mark();
        let bad = format!("service.die_at_start.code = {code}\nmin_uptime = \"0s\"\n");
        daemon.rewrite_config(&format!(
            "{}[pool.bad]\nlisten = \"{}\"\nworkers = 1\n{bad}",
            echo("echo", &address, 2),
            Address::fresh()
        ));
        daemon.signal(Signal::SIGHUP);
        let event = daemon.log().wait_since(mark, "reload failed", |_| true);
        assert!(event.text("reason").is_some_and(|it| it.contains("pool \"bad\"")), "{event}");
        assert_eq!(daemon.wait_for_idle("echo", 2), old);
    }
}

// The old one, of an hour, has set the pace of looking after connections.
#[test]
fn a_shorter_request_timeout_holds_at_once() {
    let address = Address::fresh();
    let config = |limit| format!("{}request_timeout = \"{limit}\"\n", echo("echo", &address, 1));
    let daemon = Daemon::start(&config("1h"));
    daemon.expect(&["worker timed out"]);
    let mut before = Client::connect(&address);
    before.ping("in hand of the old worker");
    daemon.reload(&config("300ms"));
    let _silent = Client::connect(&address);
    daemon.log().wait_for("worker timed out", |_| true);
}
