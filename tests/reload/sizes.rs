//! Reloads that change how many workers there are, or nothing, and the signals that do.

use nix::sys::signal::Signal;

use super::echo;
use super::snapshot::Snapshot;
use support::client::{assert_refuses, assert_serves};
use support::{Address, Daemon, Event, Setup, procfs};

#[test]
fn a_hundred_reloads_that_succeed_leak_nothing() {
    let (address, first, second) = (Address::fresh(), Address::fresh(), Address::fresh());
    let config = |round: usize| {
        let moving = [&first, &second][round % 2];
        format!(
            "{}env.ROUND = \"{round}\"\n{}",
            echo("echo", &address, 2),
            echo("moving", moving, 1)
        )
    };
    let daemon = Daemon::start(&config(0));
    daemon.wait_for_children(3);
    let count =
        |snapshot: Snapshot| (snapshot.descriptors.len(), snapshot.masks, snapshot.workers.len());
    let before = count(Snapshot::of(&daemon));
    for round in 1..=100 {
        daemon.reload(&config(round));
        daemon.wait_for_children(3);
    }
    assert_eq!(count(Snapshot::of(&daemon)), before);
    assert_serves(&first);
    assert_refuses(&second);
}

#[test]
fn a_reload_of_an_unchanged_file_touches_nobody() {
    let (first, second) = (Address::fresh(), Address::fresh());
    let config = echo("first", &first, 2) + &echo("second", &second, 3);
    let daemon = Daemon::start(&config);
    daemon.wait_for_children(5);
    let before = Snapshot::of(&daemon);
    daemon.reload(&config);
    // The same settings, in another order and with a default written out.
    let second_first = echo("second", &second, 3) + &echo("first", &first, 2);
    daemon.reload(&format!("# A comment.\n{second_first}min_uptime = \"1000ms\"\n"));
    assert_eq!(Snapshot::of(&daemon), before);
}

#[test]
fn a_reload_that_changes_only_workers_keeps_the_others_pids() {
    let (first, second) = (Address::fresh(), Address::fresh());
    let config = |workers| echo("first", &first, workers) + &echo("second", &second, 2);
    let daemon = Daemon::start(&config(3));
    let three = daemon.wait_for_idle("first", 3);
    let others = daemon.wait_for_idle("second", 2);

    let mark = daemon.log().mark();
    daemon.reload(&config(5));
    let five = daemon.wait_for_idle("first", 5);
    assert!(three.iter().all(|pid| five.contains(pid)), "{five:?} after {three:?}");
    assert!(!daemon.log().since(mark).iter().any(Event::is_end));

    let mark = daemon.log().mark();
    daemon.reload(&config(2));
    let two = daemon.wait_for_idle("first", 2);
    assert!(two.iter().all(|pid| three.contains(pid)), "{two:?} after {five:?}");
    let ends = daemon.log().wait_count(mark, 3, "three ends", Event::is_end);
    for end in &ends {
        assert_eq!(end.message(), "worker exited", "{end}");
        assert_eq!(end.text("cause"), Some("retired"), "{end}");
        assert_eq!(end.number("code"), Some(0), "{end}");
        assert_eq!(end.level(), "debug", "{end}");
    }
    let mut slots: Vec<_> = ends.iter().map(|end| end.number("slot")).collect();
    slots.sort_unstable();
    assert_eq!(slots, [Some(2), Some(3), Some(4)], "slots are numbered from 0 without a gap");

    assert_eq!(daemon.wait_for_idle("second", 2), others);
    assert_serves(&first);
    assert_serves(&second);
}

#[test]
fn sigttin_and_sigttou_change_every_pool_until_the_next_reload() {
    let (first, second) = (Address::fresh(), Address::fresh());
    let config = echo("first", &first, 2) + &echo("second", &second, 3);
    let daemon = Daemon::start(&config);
    let pids = (daemon.wait_for_idle("first", 2), daemon.wait_for_idle("second", 3));
    daemon.signal(Signal::SIGTTIN);
    daemon.wait_for_idle("first", 3);
    daemon.wait_for_idle("second", 4);
    daemon.reload(&config);
    assert_eq!((daemon.wait_for_idle("first", 2), daemon.wait_for_idle("second", 3)), pids);
    daemon.signal(Signal::SIGTTOU);
    daemon.wait_for_idle("first", 1);
    daemon.wait_for_idle("second", 2);
    // The last one stays.
    for _ in 0..3 {
        let mark = daemon.log().mark();
        daemon.signal(Signal::SIGTTOU);
        daemon.log().wait_since(mark, "scaled", |_| true);
    }
    daemon.wait_for_idle("second", 1);
    daemon.wait_for_idle("first", 1);
    assert_serves(&first);
    assert_serves(&second);
    daemon.reload(&config);
    daemon.wait_for_idle("first", 2);
    daemon.wait_for_idle("second", 3);
}

// Whichever of the two comes first, and whatever becomes of another reload meanwhile.
#[test]
fn a_worker_more_that_is_asked_for_during_a_reload_is_there_after_it() {
    let (address, slow) = (Address::fresh(), Address::fresh());
    let setup = Setup::example("testsvc");
    let gate = setup.directory().write("gate", "");
    let config = |workers: usize, round: usize| {
        format!(
            "{}[pool.slow]\nlisten = \"{slow}\"\nworkers = 1\nenv.ROUND = \"{round}\"\n\
             service.die_at_start = {{ gate = \"{}\", while_exists = \"/nowhere/at/all\" }}\n",
            echo("echo", &address, workers),
            gate.display()
        )
    };
    std::fs::remove_file(&gate).expect("open the gate");
    let daemon = setup.config(&config(2, 0)).start();
    daemon.expect(&["reload failed"]);
    daemon.wait_for_idle("echo", 2);
    daemon.directory().write("gate", "");
    daemon.rewrite_config(&config(4, 1));
    daemon.signal(Signal::SIGHUP);
    daemon.wait_until_obeyed();
    daemon.signal(Signal::SIGTTIN);
    daemon.log().wait_for("scaled", |_| true);
    // One that is refused takes nothing from the one on trial.
    daemon.rewrite_config("[pool.bad]\n");
    daemon.fail_to_reload();
    std::fs::remove_file(&gate).expect("open the gate");
    daemon.log().wait_for("reloaded", |_| true);
    daemon.wait_for_idle("echo", 5);
    daemon.wait_for_idle("slow", 2);
}

#[test]
fn a_reload_that_changes_nothing_says_so() {
    let config = echo("echo", &Address::fresh(), 1);
    let daemon = Daemon::start(&config);
    let event = daemon.reload(&format!("# A comment more.\n{config}"));
    assert_eq!(event.text("unchanged"), Some("everything"), "{event}");
    // What concerns no pool is a change, too.
    let event = daemon.reload(&format!("{config}[daemon]\nstop_timeout = \"7s\"\n"));
    assert!(!event.has("unchanged"), "{event}");
    let event = daemon.reload(&config.replace("workers = 1", "workers = 2"));
    assert!(!event.has("unchanged"), "{event}");
}

// 64 workers wrote 128 lines.
#[test]
fn a_start_a_reload_and_a_stop_have_a_line_for_a_pool_at_info() {
    let address = Address::fresh();
    let log = "[log]\nlevel = \"info\"\nformat = \"json\"\n";
    let config = |keys: &str| format!("{log}{}{keys}\n", echo("echo", &address, 64));
    let daemon = Daemon::start(&config(""));
    let pids = daemon.wait_for_children(64);
    let mark = daemon.log().mark();
    daemon.reload(&config("umask = \"0027\""));
    let after = daemon.wait_for_children(64);
    assert!(after.iter().all(|pid| !pids.contains(pid)), "all are new");
    let mut told = daemon.log().since(mark);
    // The harness asks for that where it is root itself.
    told.retain(|event| event.message() != "pool runs as root");
    let lines: Vec<_> = told.iter().map(|event| (event.message(), event.text("change"))).collect();
    assert_eq!(lines, [("pool reloaded", Some("renewed")), ("reloaded", None)]);
    assert_eq!((told[0].text("pool"), told[0].number("workers")), (Some("echo"), Some(64)));
    // A death that nobody asked for has its line, and so has the successor.
    let mark = daemon.log().mark();
    daemon.expect(&["worker killed"]);
    procfs::send(after[0], Signal::SIGKILL);
    daemon.log().wait_since(mark, "worker killed", |event| event.pid() == after[0]);
    daemon.log().wait_since(mark, "worker started", |event| event.level() == "info");
    daemon.stop();
    let ends = daemon.log().events().iter().filter(|event| event.is_end()).count();
    assert_eq!(ends, 1, "a stop has a line of its own");
}
