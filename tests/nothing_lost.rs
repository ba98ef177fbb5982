//! Nothing lost: whatever the workers and the master go through, a connection
//! that was accepted is served, and every other waits in the backlog.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use support::client::{ask, assert_serves};
use support::load::Tally;
use support::random::Random;
use support::{Address, Client, Daemon, Event, Load, Setup, extent, procfs, until};

const CLIENTS: usize = 20;

/// How many connections a load makes at least.
fn connections() -> usize {
    extent(100_000, 1_000_000)
}

/// A pool named `echo` of four workers.
fn echo(address: &Address, more: &str) -> String {
    format!("[pool.echo]\nlisten = \"{address}\"\nworkers = 4\nservice = \"echo\"\n{more}")
}

/// The same with an environment that no other `round` has, so that a reload
/// starts a new generation.
fn echo_of_round(address: &Address, round: usize) -> String {
    echo(address, &format!("env.ROUND = \"{round}\"\n"))
}

/// How many connections the workers of a daemon that stopped say they finished.
fn served(daemon: &Daemon) -> i64 {
    daemon.wait_for_nothing_left();
    let events = daemon.log().events();
    events.iter().filter(|event| event.is_end()).filter_map(|event| event.number("served")).sum()
}

/// How many workers have gone, for this cause.
fn gone(daemon: &Daemon, cause: &str) -> usize {
    let events = daemon.log().events();
    events.iter().filter(|event| event.is_end() && event.text("cause") == Some(cause)).count()
}

/// Calls `disturb` so many `times` at least while clients connect, and checks that
/// each connection got its reply, and that each was counted.
#[track_caller]
fn assert_nothing_lost(
    config: impl Fn(&Address) -> String,
    times: usize,
    mut disturb: impl FnMut(&Daemon, &Address, &Load),
) -> Daemon {
    let address = Address::fresh();
    let daemon = Daemon::start(&config(&address));
    let load = Load::start(&address, CLIENTS, usize::MAX);
    let mut done = 0;
    while done < times || load.ended() < connections() {
        disturb(&daemon, &address, &load);
        done += 1;
    }
    load.stop();
    let tally = load.finish();
    assert_eq!(tally, Tally { complete: tally.complete, ..Tally::default() });
    assert_eq!(daemon.stop().code(), Some(0));
    assert_eq!(
        served(&daemon),
        tally.complete as i64,
        "the workers counted other connections than the clients"
    );
    daemon
}

// PEERS: "135 of 100,000 requests failed with a reload each second", "4 to 16
// failed requests at each SIGHUP", "a graceful reload loses connections by
// default", "a worker respawned before it was ready, connections refused".
#[test]
fn a_load_with_a_new_generation_again_and_again_loses_nothing() {
    let mut round = 0;
    let daemon = assert_nothing_lost(
        |address| echo_of_round(address, 0),
        20,
        |daemon, address, load| {
            round += 1;
            daemon.reload(&echo_of_round(address, round));
            // Some ten a second, far more than the one that is promised.
            load.wait_for(1_000);
        },
    );
    assert!(gone(&daemon, "retired") >= 4 * (round - 1));
}

#[test]
fn a_load_with_workers_added_and_taken_away_loses_nothing() {
    let mut step = 0;
    let daemon = assert_nothing_lost(
        |address| echo(address, ""),
        200,
        |daemon, _, load| {
            let up = step % 4 < 2;
            step += 1;
            let mark = daemon.log().mark();
            daemon.signal(if up { Signal::SIGTTIN } else { Signal::SIGTTOU });
            daemon.log().wait_since(mark, "scaled", |_| true);
            load.wait_for(200);
        },
    );
    assert!(gone(&daemon, "retired") >= 50, "{} retired", gone(&daemon, "retired"));
}

#[test]
fn a_load_on_workers_that_recycle_after_ten_connections_loses_nothing() {
    let daemon = assert_nothing_lost(
        |address| echo(address, "max_requests = 10\n"),
        0,
        |_, _, load| load.wait_for(1_000),
    );
    let recycled = gone(&daemon, "recycled");
    assert!(recycled >= connections() / 12, "{recycled} recycled");
}

#[test]
fn a_load_with_an_operators_sigterm_to_single_workers_loses_nothing() {
    let mut random = Random::new();
    assert_nothing_lost(
        |address| echo(address, "min_uptime = \"0s\"\n"),
        500,
        |daemon, _, load| {
            daemon.expect(&["worker exited"]);
            let living = || Some(daemon.children()).filter(|workers| !workers.is_empty());
            let workers = until("a worker lives", living);
            procfs::send_if_there(random.one_of(&workers), Signal::SIGTERM);
            load.wait_for(100);
        },
    );
}

#[test]
fn at_sigterm_every_connection_in_hand_is_finished() {
    let address = Address::fresh();
    let daemon = Daemon::start(&echo(&address, ""));
    let mut clients: Vec<_> = (0..4).map(|_| Client::connect(&address)).collect();
    for client in &mut clients {
        client.ping("before the stop");
    }
    daemon.signal(Signal::SIGTERM);
    daemon.log().wait_for("stopping", |_| true);
    for client in &mut clients {
        client.ping("after the stop");
        client.half_close().expect("close one half");
        assert_eq!(client.rest(), "");
    }
    daemon.wait_for_code(0);
    daemon.wait_for_nothing_left();
    assert_eq!(served(&daemon), 4);
}

#[test]
fn at_sigterm_under_load_no_reply_is_cut() {
    for _ in 0..10 {
        let address = Address::fresh();
        let daemon = Daemon::start(&echo(&address, ""));
        let load = Load::start(&address, CLIENTS, usize::MAX);
        load.wait_for(500);
        assert_eq!(daemon.stop().code(), Some(0));
        load.stop();
        let tally = load.finish();
        // Those whom no worker had accepted yet get no answer; that is all.
        assert_eq!((tally.short, tally.wrong), (0, 0), "{tally:?}");
        assert_eq!(tally.complete as i64, served(&daemon), "{tally:?}");
    }
}

// PEERS: "all workers recycle at the same moment".
#[test]
fn workers_do_not_recycle_all_at_the_same_moment() {
    let address = Address::fresh();
    let config = echo(&address, "max_requests = 100\n").replace("workers = 4", "workers = 16");
    let daemon = Daemon::start(&config);
    let tally = Load::start(&address, 1, 5_000).finish();
    assert_eq!(tally.complete, 5_000, "{tally:?}");
    // Of 5,000 connections, 16 workers may have 109 each; 110 are the most of another.
    let ends = daemon.log().wait_count(daemon.log().start(), 30, "30 ends", Event::is_end);
    let quotas: Vec<_> = ends.iter().filter_map(|event| event.number("served")).collect();
    assert!(quotas.iter().all(|quota| (90..=110).contains(quota)), "10 % of jitter: {quotas:?}");
    // The load is spread evenly, so those who go after the same number go
    // together: there should be many different numbers.
    let different: BTreeSet<_> = quotas.iter().take(16).collect();
    assert!(different.len() >= 5, "{quotas:?}");
    for event in ends {
        assert_eq!(event.text("cause"), Some("recycled"), "{event}");
        assert_eq!(event.level(), "info", "{event}");
    }
}

// PEERS, "In our favour": accept wakes one sleeper, and in turn.
#[test]
fn connections_are_spread_evenly() {
    let address = Address::fresh();
    let daemon = Daemon::start(&echo(&address, ""));
    for _ in 0..400 {
        daemon.wait_for_children(4);
        assert_serves(&address);
    }
    assert_eq!(daemon.stop().code(), Some(0));
    daemon.wait_for_nothing_left();
    let events = daemon.log().events();
    let shares: Vec<_> = events.iter().filter_map(|event| event.number("served")).collect();
    assert_eq!(shares, [100; 4]);
}

#[test]
fn a_storm_of_10000_mixed_signals_leaves_the_daemon_at_size() {
    const TO_MASTER: [Signal; 5] =
        [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGTTIN, Signal::SIGTTOU, Signal::SIGCHLD];
    const TO_WORKERS: [Signal; 9] = [
        Signal::SIGTERM,
        Signal::SIGTERM,
        Signal::SIGKILL,
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGUSR1,
        Signal::SIGALRM,
        Signal::SIGTTOU,
    ];
    let address = Address::fresh();
    let config = |round| echo(&address, &format!("min_uptime = \"0s\"\nenv.ROUND = \"{round}\"\n"));
    let daemon = Daemon::start(&config(0));
    // A child may be the one that reads the configuration for a reload.
    daemon.expect(&["worker exited", "worker killed", "reload failed"]);
    let load = Load::start(&address, 4, usize::MAX);
    let mut random = Random::new();
    for number in 0..10_000 {
        if number % 20 == 0 {
            daemon.rewrite_config(&config(number));
        }
        if random.below(3) > 0 {
            daemon.signal(random.one_of(&TO_MASTER));
        } else if let workers @ [_, ..] = &daemon.children()[..] {
            procfs::send_if_there(random.one_of(workers), random.one_of(&TO_WORKERS));
        }
        random.pause(Duration::from_micros(500));
    }
    load.wait_for(1_000);
    load.stop();
    let tally = load.finish();
    assert_eq!((tally.refused, tally.wrong), (0, 0), "the listener is always there: {tally:?}");
    assert_eq!(daemon.status(), None);
    daemon.wait_until_obeyed();
    daemon.reload(&config(10_000));
    daemon.wait_for_children(4);
    for _ in 0..8 {
        assert_serves(&address);
    }
}

/// A pool named `gated` of two workers that do not get ready while the file
/// `gate` exists.
fn gated(address: &Address, gate: &Path, round: usize) -> String {
    format!(
        "[daemon]\nstop_timeout = \"10m\"\n[pool.gated]\nlisten = \"{address}\"\nworkers = 2\n\
         service.die_at_start = {{ gate = \"{}\" }}\nenv.ROUND = \"{round}\"\n",
        gate.display()
    )
}

/// A daemon in the middle of a reload: the new generation has started, and is
/// kept from getting ready.
#[track_caller]
fn in_the_middle_of_a_reload(address: &Address) -> Daemon {
    let setup = Setup::example("testsvc");
    let gate = setup.directory().join("gate");
    let config = gated(address, &gate, 0);
    let daemon = setup.config(&config).start();
    daemon.wait_for_idle("gated", 2);
    daemon.directory().write("gate", "");
    let mark = daemon.log().mark();
    daemon.rewrite_config(&gated(address, &gate, 1));
    daemon.signal(Signal::SIGHUP);
    daemon.log().wait_since(mark, "worker started", |_| true);
    daemon
}

fn open_the_gate(daemon: &Daemon) {
    std::fs::remove_file(daemon.directory().join("gate")).expect("open the gate");
}

// PEERS: "a second reload signal during the first kills the master".
#[test]
fn a_sighup_in_the_middle_of_a_reload_is_obeyed() {
    let address = Address::fresh();
    let daemon = in_the_middle_of_a_reload(&address);
    daemon.rewrite_config(&gated(&address, &daemon.directory().join("gate"), 2));
    daemon.signal(Signal::SIGHUP);
    // Meanwhile the old generation serves.
    assert!(ask(&address, "env\n").contains("ROUND=0"));
    open_the_gate(&daemon);
    until("the last configuration is in force", || {
        ask(&address, "env\n").contains("ROUND=2").then_some(())
    });
    daemon.wait_for_children(2);
    for _ in 0..4 {
        assert!(ask(&address, "env\n").contains("ROUND=2"));
    }
    daemon.log().wait_for("reloaded", |_| true);
}

#[test]
fn a_sigterm_in_the_middle_of_a_reload_is_obeyed() {
    let address = Address::fresh();
    let daemon = in_the_middle_of_a_reload(&address);
    daemon.signal(Signal::SIGTERM);
    daemon.log().wait_for("stopping", |_| true);
    open_the_gate(&daemon);
    daemon.wait_for_code(0);
}

#[test]
fn a_sigterm_in_the_middle_of_a_reload_that_hangs_is_obeyed() {
    let address = Address::fresh();
    let daemon = in_the_middle_of_a_reload(&address);
    daemon.signal(Signal::SIGTERM);
    daemon.wait_for_code(0);
}

#[test]
fn a_sigterm_at_any_moment_of_a_reload_is_obeyed() {
    let mut random = Random::new();
    for _ in 0..30 {
        let address = Address::fresh();
        let daemon = Daemon::start(&echo_of_round(&address, 0));
        daemon.rewrite_config(&echo_of_round(&address, 1));
        daemon.signal(Signal::SIGHUP);
        random.pause(Duration::from_millis(8));
        assert_eq!(daemon.stop().code(), Some(0));
        daemon.wait_for_nothing_left();
        let stopped =
            daemon.log().events().iter().filter(|event| event.message() == "stopped").count();
        assert_eq!(stopped, 1);
    }
}

#[test]
fn a_burst_of_sighups_ends_with_the_last_configuration() {
    let address = Address::fresh();
    let config = |round: usize| {
        format!(
            "[pool.command]\nlisten = \"{address}\"\nworkers = 3\nservice = \"command\"\nenv.ROUND = \"{round}\"\n"
        )
    };
    let daemon = Daemon::start_example("testsvc", &config(0));
    let mut random = Random::new();
    for round in 1..=100 {
        daemon.rewrite_config(&config(round));
        daemon.signal(Signal::SIGHUP);
        random.pause(Duration::from_millis(2));
    }
    until("the last configuration is in force", || {
        ask(&address, "env\n").contains("ROUND=100").then_some(())
    });
    daemon.wait_for_children(3);
    for _ in 0..6 {
        assert!(ask(&address, "env\n").contains("ROUND=100"));
    }
    let bad = daemon.log().events().iter().any(Event::is_bad);
    assert!(!bad);
}
