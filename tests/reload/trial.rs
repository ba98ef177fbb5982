//! What a reload tries, and what becomes of what it replaces.

use std::collections::BTreeSet;
use std::fs;

use nix::sys::signal::Signal;

use super::echo;
use support::client::{ask, assert_serves};
use support::{Address, Client, Daemon, Event, Setup, procfs, until};

/// A pool `round` that tells its round, and a pool `slow` whose workers get ready when
/// the file `gate` goes, or die then if there is a file `broken`.
fn rounds(daemon: &Daemon, round: usize, address: &Address, slow: &Address) -> String {
    let place = |name: &str| daemon.directory().join(name).display().to_string();
    format!(
        "[pool.round]\nlisten = \"{address}\"\nworkers = 2\nenv.ROUND = \"{round}\"\n\
         service = \"command\"\n\
         [pool.slow]\nlisten = \"{slow}\"\nworkers = 1\nenv.ROUND = \"{round}\"\n\
         service.die_at_start = {{ gate = \"{}\", while_exists = \"{}\", code = 4 }}\n",
        place("gate"),
        place("broken")
    )
}

#[track_caller]
fn start_rounds(address: &Address, slow: &Address) -> Daemon {
    let daemon = Setup::example("testsvc").config(&echo("echo", &Address::fresh(), 1)).start();
    daemon.reload(&rounds(&daemon, 0, address, slow));
    daemon.wait_for_idle("round", 2);
    daemon
}

#[test]
fn no_client_is_served_by_a_generation_that_is_not_committed() {
    let (address, slow) = (Address::fresh(), Address::fresh());
    let daemon = start_rounds(&address, &slow);
    daemon.expect(&["worker exited", "respawn throttled", "reload failed"]);
    let gate = daemon.directory().write("gate", "");
    daemon.rewrite_config(&rounds(&daemon, 1, &address, &slow));
    daemon.signal(Signal::SIGHUP);
    until("both generations of both pools are there", || {
        let settled = daemon.workers("round").into_iter().filter(|&pid| procfs::is_settled(pid));
        (daemon.children().len() == 6 && settled.count() >= 2).then_some(())
    });
    for _ in 0..60 {
        assert!(ask(&address, "env\n").contains("ROUND=0"));
    }
    daemon.directory().write("broken", "");
    fs::remove_file(&gate).expect("open the gate");
    daemon.log().wait_for("reload failed", |_| true);
    assert!(ask(&address, "env\n").contains("ROUND=0"));
    // The same is right later, and is put in force at once for all.
    fs::remove_file(daemon.directory().join("broken")).expect("mend the service");
    daemon.reload(&rounds(&daemon, 2, &address, &slow));
    until("the new generation serves", || ask(&address, "env\n").contains("ROUND=2").then_some(()));
}

/// The workers of `round` on trial that wait to be let in, beside these old ones.
#[track_caller]
fn waiting_on_trial(daemon: &Daemon, old: &[i32]) -> Vec<i32> {
    until("the new workers wait to be let in", || {
        let tried = daemon.workers("round").into_iter().filter(|pid| !old.contains(pid));
        let tried: Vec<_> = tried.filter(|&pid| procfs::is_in_ppoll(pid)).collect();
        (tried.len() == 2).then_some(tried)
    })
}

#[test]
fn a_stop_does_not_wait_for_workers_on_trial() {
    let (address, slow) = (Address::fresh(), Address::fresh());
    let daemon = start_rounds(&address, &slow);
    let endless = |round| {
        format!("[daemon]\nstop_timeout = \"1h\"\n{}", rounds(&daemon, round, &address, &slow))
    };
    daemon.reload(&endless(0));
    let old = daemon.wait_for_idle("round", 2);
    daemon.directory().write("gate", "");
    daemon.rewrite_config(&endless(1));
    daemon.signal(Signal::SIGHUP);
    let tried = waiting_on_trial(&daemon, &old);
    // They get their signal when the master has long begun to drain.
    tried.iter().for_each(|&pid| procfs::send(pid, Signal::SIGSTOP));
    daemon.expect(&["worker stopped"]);
    daemon.signal(Signal::SIGTERM);
    daemon.log().wait_for("stopping", |_| true);
    daemon.wait_until_obeyed();
    tried.iter().for_each(|&pid| procfs::send(pid, Signal::SIGCONT));
    daemon.wait_for_code(0);
}

#[test]
fn a_generation_without_a_worker_is_not_committed() {
    let (address, slow) = (Address::fresh(), Address::fresh());
    let daemon = start_rounds(&address, &slow);
    daemon.expect(&["worker killed", "respawn throttled"]);
    let old = daemon.wait_for_idle("round", 2);
    let gate = daemon.directory().write("gate", "");
    let pool = "[pool.round]\nmin_uptime = \"1h\"\n";
    daemon.rewrite_config(&rounds(&daemon, 1, &address, &slow).replace("[pool.round]\n", pool));
    daemon.signal(Signal::SIGHUP);
    waiting_on_trial(&daemon, &old);
    let others: Vec<_> = daemon.workers("slow").into_iter().chain(old).collect();
    // Not by the log, which does not tell of each of them.
    let on_trial = || daemon.children().into_iter().filter(|pid| !others.contains(pid));
    // They were ready once. Then they die until their slots wait for long.
    for _ in 0..6 {
        let tried = until("two wait to be let in", || {
            let tried: Vec<_> = on_trial().filter(|&pid| procfs::is_in_ppoll(pid)).collect();
            (tried.len() == 2).then_some(tried)
        });
        tried.iter().for_each(|&pid| procfs::send(pid, Signal::SIGKILL));
        until("they are dead", || on_trial().all(|pid| !tried.contains(&pid)).then_some(()));
    }
    fs::remove_file(gate).expect("open the gate");
    daemon.log().wait_for("reloaded", |event| event.text("renewed").is_some());
    assert_ne!(on_trial().count(), 0, "workers of the new generation");
    until("the new generation serves", || ask(&address, "env\n").contains("ROUND=1").then_some(()));
}

#[test]
fn a_worker_on_trial_does_not_wake_up_and_goes_with_its_master() {
    let (address, slow) = (Address::fresh(), Address::fresh());
    let daemon = start_rounds(&address, &slow);
    let old = daemon.workers("round");
    daemon.directory().write("gate", "");
    daemon.rewrite_config(&rounds(&daemon, 1, &address, &slow));
    daemon.signal(Signal::SIGHUP);
    let tried = waiting_on_trial(&daemon, &old);
    let switches =
        || -> Vec<_> { tried.iter().map(|&pid| procfs::context_switches(pid)).collect() };
    let before = switches();
    for _ in 0..50 {
        assert!(ask(&address, "env\n").contains("ROUND=0"));
    }
    assert_eq!(switches(), before);
    daemon.signal(Signal::SIGKILL);
    until("the workers on trial are gone", || {
        tried.iter().all(|&pid| !procfs::is_alive(pid)).then_some(())
    });
    daemon.wait();
    daemon.wait_for_nothing_left();
}

// The serving generation's `min_uptime` would make each of these deaths a young one.
#[test]
fn a_worker_on_trial_is_judged_by_its_own_min_uptime() {
    let (address, slow) = (Address::fresh(), Address::fresh());
    let config = |daemon: &Daemon, round, min_uptime: &str| {
        let pool = format!("[pool.round]\nmin_uptime = \"{min_uptime}\"\n");
        rounds(daemon, round, &address, &slow).replace("[pool.round]\n", &pool)
    };
    let daemon = start_rounds(&address, &slow);
    daemon.expect(&["worker killed"]);
    daemon.reload(&config(&daemon, 1, "1h"));
    let old = daemon.wait_for_idle("round", 2);
    let gate = daemon.directory().write("gate", "");
    daemon.rewrite_config(&config(&daemon, 2, "0s"));
    daemon.signal(Signal::SIGHUP);
    let mark = daemon.log().mark();
    let mut killed = old;
    for _ in 0..6 {
        let tried = until("two workers on trial wait to be let in", || {
            let tried = daemon.workers("round").into_iter().filter(|pid| !killed.contains(pid));
            let tried: Vec<_> = tried.filter(|&pid| procfs::is_in_ppoll(pid)).collect();
            (tried.len() == 2).then_some(tried)
        });
        procfs::send(tried[0], Signal::SIGKILL);
        killed.push(tried[0]);
    }
    fs::remove_file(&gate).expect("open the gate");
    // With no slot throttled, which the end of the test holds.
    daemon.log().wait_since(mark, "reloaded", |_| true);
}

fn deaf(address: &Address, round: usize, more: &str) -> String {
    format!(
        "[pool.deaf]\nlisten = \"{address}\"\nworkers = 2\nenv.ROUND = \"{round}\"\n\
         kill_timeout = \"200ms\"\n{more}\n\
         service.die_at_start = {{ deaf = true, while_exists = \"/nowhere/at/all\" }}\n"
    )
}

#[test]
fn a_worker_that_does_not_retire_is_told_of_and_killed() {
    let address = Address::fresh();
    let daemon = Daemon::start_example("testsvc", &deaf(&address, 0, ""));
    // At the stop the listener goes, which ends these, too.
    daemon.expect(&["worker not retiring", "worker killed", "worker exited"]);
    let old: BTreeSet<i32> = daemon.wait_for_idle("deaf", 2).into_iter().collect();
    let mark = daemon.log().mark();
    daemon.reload(&deaf(&address, 1, ""));
    daemon.log().wait_count(mark, 2, "two ends", Event::is_end);
    let told = daemon.log().since(mark);
    let told: BTreeSet<i32> = told
        .iter()
        .filter(|event| event.message() == "worker not retiring")
        .map(Event::pid)
        .collect();
    assert_eq!(told, old);
    for _ in 0..20 {
        assert!(ask(&address, "env\n").contains("ROUND=1"));
    }
}

#[test]
fn retire_timeout_bounds_a_connection_in_hand() {
    let address = Address::fresh();
    let config = |round: usize| {
        format!(
            "{}env.ROUND = \"{round}\"\nretire_timeout = \"300ms\"\n",
            echo("echo", &address, 1)
        )
    };
    let daemon = Daemon::start(&config(0));
    daemon.expect(&["connection cut"]);
    let old = daemon.wait_for_idle("echo", 1);
    let mut client = Client::connect(&address);
    client.ping("before");
    daemon.reload(&config(1));
    let cut = daemon.log().wait_for("connection cut", |_| true);
    assert_eq!((cut.pid(), cut.text("reason")), (old[0], Some("retire_timeout")), "{cut}");
    assert!(cut.text("peer").is_some_and(|peer| peer.starts_with("127.")), "{cut}");
    assert_eq!(client.rest(), "");
    until("the old worker is gone", || (!procfs::is_alive(old[0])).then_some(()));
    assert_serves(&address);
}

#[test]
fn max_workers_bounds_all_processes_of_a_pool() {
    let address = Address::fresh();
    let config = |round: usize| {
        format!("{}env.ROUND = \"{round}\"\nmax_workers = 5\n", echo("echo", &address, 4))
    };
    let daemon = Daemon::start(&config(0));
    daemon.expect(&["reload held back"]);
    daemon.wait_for_idle("echo", 4);
    let mut clients: Vec<_> = (0..4).map(|_| Client::connect(&address)).collect();
    clients.iter_mut().for_each(|client| client.ping("in hand"));
    // The first has room for one worker of its own, which is enough to serve.
    daemon.reload(&config(1));
    let told = daemon.log().wait_for("reload held back", |_| true);
    assert_eq!((told.number("max_workers"), told.number("workers")), (Some(5), Some(5)), "{told}");
    assert_serves(&address);
    for round in 2..12 {
        daemon.rewrite_config(&config(round));
        daemon.signal(Signal::SIGHUP);
        daemon.wait_until_obeyed();
        assert!(daemon.workers("echo").len() <= 5, "{:?}", daemon.workers("echo"));
        assert_serves(&address);
    }
    clients.iter_mut().for_each(|client| client.ping("still in hand"));
    drop(clients);
    daemon.log().wait_for("reloaded", |event| event.number("generation").is_some_and(|it| it > 2));
    daemon.wait_for_children(4);
    daemon.wait_for_idle("echo", 4);
}

#[test]
fn max_workers_never_leaves_a_reload_without_room_for_ever() {
    let address = Address::fresh();
    let config = |round: usize, bounds: &str| {
        format!("{}env.ROUND = \"{round}\"\n{bounds}\n", echo("echo", &address, 4))
    };
    let daemon = Daemon::start(&config(0, "max_workers = 5"));
    daemon.expect(&["reload held back"]);
    for _ in 0..3 {
        daemon.signal(Signal::SIGTTIN);
        daemon.wait_until_obeyed();
    }
    assert_serves(&address);
    daemon.reload(&config(1, "max_workers = 5"));
    daemon.wait_for_idle("echo", 4);
    // The bound is below what serves now.
    daemon.reload(&config(2, "").replace("workers = 4", "workers = 2\nmax_workers = 3"));
    daemon.wait_for_children(2);
    daemon.wait_for_idle("echo", 2);
}

#[test]
fn a_reload_of_idle_workers_without_much_room_warns_of_nothing() {
    let address = Address::fresh();
    let config = |round: usize| {
        format!("{}env.ROUND = \"{round}\"\nmax_workers = 3\n", echo("echo", &address, 2))
    };
    let daemon = Daemon::start(&config(0));
    let old = daemon.wait_for_idle("echo", 2);
    daemon.reload(&config(1));
    until("the old workers are gone", || {
        (!old.iter().any(|&pid| procfs::is_alive(pid))).then_some(())
    });
    daemon.wait_for_idle("echo", 2);
    assert_serves(&address);
}
