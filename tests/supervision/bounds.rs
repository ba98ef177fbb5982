//! What a worker or a client can do to the supervision: no more than it is bounded to.

use std::fs;
use std::io::{Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::echo;
use support::client::{ask, assert_serves};
use support::{Address, Client, Daemon, Event, PATIENCE, Setup, procfs, until};

/// Makes workers crash, so many a second, until the time is over. Who is not served
/// in time does not mind.
fn attack(address: &Address, each_second: u32, time: Duration) {
    let begun = Instant::now();
    let pause = Duration::from_secs(1) / each_second;
    for number in 0.. {
        let due = pause * number;
        if due > time {
            return;
        }
        thread::sleep(due.saturating_sub(begun.elapsed()));
        if let Ok(mut client) = Client::try_connect(address) {
            let _ = client.write_all(b"exit 3\n");
            // Held until the worker has read it.
            thread::spawn(move || client.read(&mut [0]));
        }
    }
}

/// Asks five times a second until the time is over; gives how many asked and how many
/// had no answer.
fn ask_honestly(address: &Address, time: Duration) -> (u32, u32) {
    let begun = Instant::now();
    let (mut asked, mut failed) = (0, 0);
    while begun.elapsed() < time {
        let answer = Client::try_connect(address).and_then(|mut client| {
            client.set_timeouts(PATIENCE)?;
            client.write_all(b"pid\n")?;
            let mut answer = String::new();
            client.read_to_string(&mut answer).map(|_| answer)
        });
        asked += 1;
        failed += u32::from(!answer.is_ok_and(|answer| answer.ends_with('\n')));
        thread::sleep(Duration::from_millis(200));
    }
    (asked, failed)
}

#[test]
fn clients_that_crash_workers_starve_nobody() {
    for (each_second, most_percent) in [(30, 1), (300, 5)] {
        let address = Address::fresh();
        let config = echo(&address, 4).replace("\"echo\"", "\"command\"");
        let mut daemon = Daemon::start_example("testsvc", &config);
        let time = Duration::from_secs(4);
        let (asked, failed) = thread::scope(|scope| {
            scope.spawn(|| attack(&address, each_second, time));
            ask_honestly(&address, time)
        });
        assert!(
            failed * 100 <= asked * most_percent,
            "{failed} of {asked} honest clients failed beside {each_second} crashes a second"
        );
        let death = daemon.log().wait_for("worker exited", |_| true);
        assert_eq!(death.number("code"), Some(3), "{death}");
        assert!(death.text("peer").is_some() && death.has("in_hand_ms"), "{death}");
        daemon.wait_for_idle("echo", 4);
        daemon.expect_anything();
    }
}

/// When workers died at their start, in milliseconds.
fn deaths(diary: &std::path::Path) -> Vec<i64> {
    let diary = fs::read_to_string(diary).unwrap_or_default();
    diary.lines().filter_map(|line| line.parse().ok()).collect()
}

// Its page says that it has served a thousand connections and leaves as asked.
#[test]
fn a_worker_that_lies_is_replaced_no_more_often() {
    let address = Address::fresh();
    let setup = Setup::example("testsvc");
    let diary = setup.directory().join("diary");
    let broken = setup.directory().write("broken", "");
    let config = format!(
        "{}[pool.liar]\nlisten = \"{}\"\nworkers = 1\n\
         service.die_at_start = {{ lie = true, code = 0, diary = \"{}\", while_exists = \"{}\" }}\n",
        echo(&address, 1),
        Address::fresh(),
        diary.display(),
        broken.display()
    );
    let mut daemon = setup.config(&config).start();
    let deaths = until("many have died", || Some(deaths(&diary)).filter(|it| it.len() > 150));
    // A second's worth at once, then 50 a second; a slow machine has fewer.
    let span = deaths[deaths.len() - 1] - deaths[0];
    let most = 50 + span / 20 + 2;
    assert!(deaths.len() as i64 <= most, "{} deaths in {span} ms", deaths.len());
    assert_serves(&address);
    fs::remove_file(broken).expect("mend the service");
    daemon.wait_for_children(2);
    daemon.expect_anything();
}

#[test]
fn workers_that_are_stopped_are_told_of_and_replaced() {
    let address = Address::fresh();
    let daemon = Daemon::start(&format!("{}kill_timeout = \"300ms\"\n", echo(&address, 3)));
    daemon.expect(&["worker stopped", "worker killed"]);
    let old = daemon.wait_for_idle("echo", 3);
    old.iter().for_each(|&pid| procfs::send(pid, Signal::SIGSTOP));
    let mark = daemon.log().start();
    daemon.log().wait_count(mark, 3, "three stops", |event| event.message() == "worker stopped");
    daemon.log().wait_count(mark, 3, "three ends", |event| {
        event.is_end() && event.text("cause") == Some("suspended")
    });
    daemon.wait_for_idle("echo", 3);
    assert_serves(&address);
}

#[test]
fn a_worker_that_goes_on_in_time_stays() {
    let address = Address::fresh();
    let daemon = Daemon::start(&format!("{}kill_timeout = \"1h\"\n", echo(&address, 1)));
    daemon.expect(&["worker stopped"]);
    let worker = daemon.wait_for_idle("echo", 1)[0];
    for round in 0..2 {
        let mark = daemon.log().mark();
        procfs::send(worker, Signal::SIGSTOP);
        daemon.log().wait_since(mark, "worker stopped", |event: &Event| event.pid() == worker);
        procfs::send(worker, Signal::SIGCONT);
        assert!(ask(&address, "hello").contains("hello"), "round {round}");
    }
    assert_eq!(daemon.wait_for_idle("echo", 1), [worker]);
}

// SIGCHLD and what waitid has to say of a child coalesce: of a worker that goes on and is
// stopped again, a busy master sees only that it is stopped.
#[test]
fn a_stop_that_follows_another_at_once_is_told_and_has_its_own_time() {
    let address = Address::fresh();
    let daemon = Daemon::start(&format!("{}kill_timeout = \"1h\"\n", echo(&address, 1)));
    daemon.expect(&["worker stopped"]);
    let worker = daemon.wait_for_idle("echo", 1)[0];
    let state_is = |pid: i32, state: char| {
        until(&format!("{pid} is in state {state}"), || {
            procfs::Process::of(pid).filter(|process| process.state == state).map(drop)
        });
    };
    let mark = daemon.log().mark();
    procfs::send(worker, Signal::SIGSTOP);
    daemon.log().wait_since(mark, "worker stopped", |_| true);
    let mark = daemon.log().mark();
    procfs::send(daemon.pid(), Signal::SIGSTOP);
    state_is(daemon.pid(), 'T');
    procfs::send(worker, Signal::SIGCONT);
    state_is(worker, 'S');
    procfs::send(worker, Signal::SIGSTOP);
    state_is(worker, 'T');
    procfs::send(daemon.pid(), Signal::SIGCONT);
    daemon.log().wait_since(mark, "worker stopped", |event: &Event| event.pid() == worker);
    procfs::send(worker, Signal::SIGCONT);
    assert!(ask(&address, "hello").contains("hello"));
    assert_eq!(daemon.wait_for_idle("echo", 1), [worker]);
}
