//! `request_timeout`, `kill_timeout` and `idle_timeout`.
//!
//! None of these tests asserts that something happens soon. That nothing
//! happens too soon is asserted by what this process has measured itself.

use std::io::{ErrorKind, Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use super::support::client::{ask, assert_serves};
use super::support::{Address, Client, Daemon, Event, PATIENCE, Setup, procfs, until};
use super::{
    assert_no_worker_ended, command, echo, shell, the_program, the_worker, wait_for_close,
    wait_for_end_of_group,
};

/// Checks the fields of `worker timed out`.
#[track_caller]
fn assert_told(event: &Event, worker: i32, least_ms: i64) {
    assert_eq!(event.level(), "warning", "{event}");
    assert_eq!(event.pid(), worker, "{event}");
    assert_eq!(event.number("slot"), Some(0), "{event}");
    assert!(event.has("pool"), "{event}");
    assert!(event.number("elapsed_ms").is_some_and(|millis| millis >= least_ms), "{event}");
    assert!(
        event.text("peer").is_some_and(|peer| peer == "unix" || peer.starts_with("127.")),
        "{event}"
    );
}

/// Writes until the connection takes no more.
fn stuff(client: &mut Client) {
    client.set_timeouts(Duration::from_millis(200)).expect("set a time-out");
    while client.write(&[b'x'; 60_000]).is_ok() {}
    client.set_timeouts(PATIENCE).expect("set a time-out");
}

#[test]
fn request_timeout_frees_a_worker_that_waits_for_its_client() {
    let setup = Setup::new();
    let unix = Address::unix(&setup.directory().join("echo.sock"));
    for address in [Address::fresh(), unix] {
        let daemon = Daemon::start(&echo(&address, 1, "request_timeout = \"300ms\""));
        daemon.expect(&["worker timed out"]);
        let worker = the_worker(&daemon, "echo");
        for round in 0..3 {
            let mark = daemon.log().mark();
            let mut client = Client::connect(&address);
            match round {
                // It waits for the first byte, for one more, for room to send.
                0 => {}
                1 => client.ping("hello"),
                _ => stuff(&mut client),
            }
            let event = daemon.log().wait_since(mark, "worker timed out", |_| true);
            assert_told(&event, worker, 300);
            wait_for_close(&mut client);
            assert_serves(&address);
            assert_eq!(the_worker(&daemon, "echo"), worker);
        }
        assert_no_worker_ended(&daemon);
    }
}

#[test]
fn a_worker_that_spins_or_sleeps_is_killed_after_kill_timeout() {
    for request in ["spin\n", "sleep\n"] {
        let address = Address::fresh();
        let config = command(&address, 1, "request_timeout = \"300ms\"\nkill_timeout = \"400ms\"");
        let daemon = Daemon::start_example("testsvc", &config);
        daemon.expect(&["worker timed out", "worker killed"]);
        let worker = the_worker(&daemon, "command");
        let mut client = Client::connect(&address);
        client.send(request);
        let event = daemon.log().wait_for("worker timed out", |_| true);
        assert_told(&event, worker, 300);
        let end = daemon.log().wait_for("worker killed", |_| true);
        assert_eq!(end.pid(), worker, "{end}");
        assert_eq!(end.text("signal"), Some("SIGKILL"), "{end}");
        assert_eq!(end.text("cause"), Some("timed out"), "{end}");
        assert_eq!(end.level(), "warning", "{end}");
        assert!(end.number("uptime_ms").is_some_and(|millis| millis >= 700), "{end}");
        wait_for_close(&mut client);
        assert_ne!(the_worker(&daemon, "command"), worker);
        assert_eq!(ask(&address, "echo\nagain"), "again");
    }
}

/// Asks `attempt`, which gives what it saw and whether its time was short
/// enough to count, until one counts.
#[track_caller]
fn measured(limit: Duration, mut attempt: impl FnMut()) {
    for _ in 0..20 {
        let began = Instant::now();
        attempt();
        if began.elapsed() < limit {
            return;
        }
    }
    panic!("this machine is too busy to do in {limit:?} what takes half of that");
}

// PEERS: "an idle connection is killed as a slow request".
#[test]
fn request_timeout_cuts_nothing_before_its_time() {
    const LIMIT: Duration = Duration::from_millis(1500);
    let address = Address::fresh();
    let daemon = Daemon::start(&echo(&address, 1, "request_timeout = \"1500ms\""));
    let mut daemon = daemon;
    let worker = the_worker(&daemon, "echo");
    // An idle worker has no connection to be late with.
    thread::sleep(2 * LIMIT);
    assert!(daemon.log().events().iter().all(|event| event.message() != "worker timed out"));
    // One after the other, together longer than the time of one: the time of
    // the next is its own. The fractions differ, so that they meet the
    // master's looks at different moments.
    for part in [0.5, 0.3, 0.7, 0.1, 0.6, 0.45] {
        measured(LIMIT, || {
            let mut client = Client::connect(&address);
            // Should the time be over already, it does not count.
            let mut exchange = || -> std::io::Result<()> {
                client.write_all(b"early")?;
                client.read_exact(&mut [0; 5])?;
                thread::sleep(LIMIT.mul_f64(part));
                client.write_all(b"late")?;
                client.read_exact(&mut [0; 4])
            };
            let began = Instant::now();
            let result = exchange();
            assert!(
                result.is_ok() || began.elapsed() >= LIMIT,
                "cut after {:?}: {result:?}",
                began.elapsed()
            );
        });
    }
    assert_eq!(the_worker(&daemon, "echo"), worker);
    for event in daemon.log().events().iter().filter(|event| event.message() == "worker timed out")
    {
        assert_told(event, worker, 1500);
    }
    daemon.expect_anything();
}

#[test]
fn request_timeout_finds_each_of_many_workers() {
    let address = Address::fresh();
    let daemon = Daemon::start(&echo(&address, 6, "request_timeout = \"400ms\""));
    daemon.expect(&["worker timed out"]);
    let workers = daemon.wait_for_idle("echo", 6);
    let mut clients: Vec<_> = (0..5)
        .map(|_| {
            thread::sleep(Duration::from_millis(70));
            let mut client = Client::connect(&address);
            client.ping("hello");
            client
        })
        .collect();
    // The sixth serves on.
    assert_serves(&address);
    clients.iter_mut().for_each(wait_for_close);
    let told = daemon.log().wait_count(daemon.log().start(), 5, "time-outs", |event| {
        event.message() == "worker timed out"
    });
    let mut pids: Vec<_> = told.iter().map(Event::pid).collect();
    pids.sort();
    pids.dedup();
    assert_eq!(pids.len(), 5, "{told:?}");
    assert_eq!(daemon.wait_for_idle("echo", 6), workers);
}

#[test]
fn request_timeout_ends_the_group_of_a_program() {
    let address = Address::fresh();
    let script = "sleep 1000 & echo $$; sleep 1000";
    let daemon = Daemon::start(&shell(&address, 1, script, "request_timeout = \"500ms\""));
    daemon.expect(&["worker timed out", "program killed"]);
    let worker = the_worker(&daemon, "exec");
    let mut client = Client::connect(&address);
    let program = the_program(worker, "sh");
    wait_for_close(&mut client);
    wait_for_end_of_group(program);
    let event = daemon.log().wait_for("worker timed out", |_| true);
    assert_told(&event, worker, 500);
    let end = daemon.log().wait_for("program killed", |_| true);
    assert_eq!((end.pid(), end.text("signal")), (program, Some("SIGTERM")), "{end}");
    assert_eq!(the_worker(&daemon, "exec"), worker);
    assert_no_worker_ended(&daemon);
}

// PEERS: "hung CGI never killed (`kill` with its arguments swapped)".
#[test]
fn a_program_that_ignores_sigterm_is_killed_and_its_worker_lives() {
    let address = Address::fresh();
    let script = "trap '' TERM; sleep 1000 & while :; do sleep 1000; done";
    let keys = "request_timeout = \"300ms\"\nkill_timeout = \"2s\"";
    let daemon = Daemon::start(&shell(&address, 1, script, keys));
    daemon.expect(&["worker timed out", "program killed"]);
    let worker = the_worker(&daemon, "exec");
    for _ in 0..2 {
        let mark = daemon.log().mark();
        let mut client = Client::connect(&address);
        let program = the_program(worker, "sh");
        let end = daemon.log().wait_since(mark, "program killed", |_| true);
        assert_eq!((end.pid(), end.text("signal")), (program, Some("SIGKILL")), "{end}");
        // Asked first: half of kill_timeout lies between the two.
        assert!(end.number("elapsed_ms").is_some_and(|millis| millis >= 1300), "{end}");
        wait_for_close(&mut client);
        wait_for_end_of_group(program);
        assert_eq!(the_worker(&daemon, "exec"), worker);
    }
    assert_no_worker_ended(&daemon);
}

#[test]
fn idle_timeout_drops_a_client_that_sends_or_takes_nothing() {
    let setup = Setup::new();
    let unix = Address::unix(&setup.directory().join("echo.sock"));
    for address in [Address::fresh(), unix] {
        let daemon = Daemon::start(&echo(&address, 1, "idle_timeout = \"300ms\""));
        let worker = the_worker(&daemon, "echo");
        let began = Instant::now();
        wait_for_close(&mut Client::connect(&address));
        assert!(began.elapsed() >= Duration::from_millis(300), "after {:?}", began.elapsed());

        let mut client = Client::connect(&address);
        client.ping("hello");
        wait_for_close(&mut client);

        let mut client = Client::connect(&address);
        stuff(&mut client);
        until("the worker is free", || procfs::is_in_accept(worker).then_some(()));
        drop(client);
        assert_serves(&address);
        assert_eq!(the_worker(&daemon, "echo"), worker);
        // A client causes this, so it is not logged.
        assert_no_worker_ended(&daemon);
        assert!(daemon.complaints().is_empty());
    }
}

#[test]
fn idle_timeout_lets_a_client_be_that_is_slow_and_not_idle() {
    const LIMIT: Duration = Duration::from_millis(1000);
    let address = Address::fresh();
    let _daemon = Daemon::start(&echo(&address, 1, "idle_timeout = \"1s\""));
    // In all three times as long as a pause may be.
    'attempts: for _ in 0..20 {
        let mut client = Client::connect(&address);
        let mut last = Instant::now();
        for _ in 0..7 {
            thread::sleep(LIMIT.mul_f64(0.45));
            let mut buffer = [0; 5];
            let result = client.write_all(b"slow.").and_then(|()| client.read_exact(&mut buffer));
            match result {
                Ok(()) => last = Instant::now(),
                Err(error) => {
                    assert!(last.elapsed() >= LIMIT, "cut after {:?}: {error}", last.elapsed());
                    continue 'attempts;
                }
            }
        }
        return;
    }
    panic!("this machine is too busy to write a few bytes each half second");
}

#[test]
fn idle_timeout_ends_a_program_that_waits_for_its_client() {
    let address = Address::fresh();
    let daemon = Daemon::start(&super::exec(&address, 1, &["cat"], "idle_timeout = \"300ms\""));
    // cat says that its input is unavailable, and exits with 1.
    daemon.expect(&["program exited"]);
    let worker = the_worker(&daemon, "exec");
    let mut client = Client::connect(&address);
    client.ping("hello");
    let mut buffer = [0; 1];
    match client.read(&mut buffer) {
        Ok(0) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(the_worker(&daemon, "exec"), worker);
}
