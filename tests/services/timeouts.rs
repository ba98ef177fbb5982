//! `request_timeout`, `kill_timeout` and `idle_timeout`.
//!
//! None of these tests asserts that something happens soon. That nothing
//! happens too soon is asserted by what this process has measured itself, from
//! before its connect: the daemon counts from its accept. A daemon that cuts
//! after a fraction of a second is right to cut a test that is as slow.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::signal::Signal;

use super::{
    assert_no_worker_ended, command, echo, shell, the_worker, wait_for_close, wait_for_end_of_group,
};
use support::{Address, Client, Daemon, Event, PATIENCE, Setup, procfs, until};

/// Makes attempts, each from its connect on, until one is not cut. One that is
/// does not count if it took `limit`, after which the daemon has to cut.
#[track_caller]
fn in_time<T>(limit: Duration, mut attempt: impl FnMut() -> io::Result<T>) -> T {
    for _ in 0..20 {
        let began = Instant::now();
        match attempt() {
            Ok(done) => return done,
            Err(error) => {
                let took = began.elapsed();
                assert!((limit..PATIENCE).contains(&took), "failed after {took:?}: {error}");
            }
        }
    }
    panic!("this machine is too busy for what has {limit:?}");
}

/// A client that sent `request` and got `reply`, so that a worker holds it.
fn try_hold(address: &Address, request: &str, reply: &str) -> io::Result<Client> {
    let mut client = Client::try_connect(address)?;
    client.write_all(request.as_bytes())?;
    let mut buffer = vec![0; reply.len()];
    client.read_exact(&mut buffer)?;
    assert_eq!(String::from_utf8_lossy(&buffer), reply);
    Ok(client)
}

/// The same where the daemon cuts after `limit`, with an echo service.
#[track_caller]
fn hold(address: &Address, limit: Duration) -> Client {
    in_time(limit, || try_hold(address, "hello", "hello"))
}

/// A client of what writes its pid as a first line and then goes on for ever:
/// from when it connected, the client, and that pid.
#[track_caller]
fn hold_with_pid(address: &Address, limit: Duration, request: &str) -> (Instant, Client, i32) {
    in_time(limit, || {
        let began = Instant::now();
        let mut client = try_hold(address, request, "")?;
        let mut line = String::new();
        BufReader::new(&mut client).read_line(&mut line)?;
        let pid = line.trim().parse().map_err(io::Error::other)?;
        Ok((began, client, pid))
    })
}

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
    const LIMIT: Duration = Duration::from_millis(300);
    let setup = Setup::new();
    let unix = Address::unix(&setup.directory().join("echo.sock"));
    for address in [Address::fresh(), unix] {
        let keys = "request_timeout = \"300ms\"\nkill_timeout = \"1m\"";
        let daemon = Daemon::start(&echo(&address, 1, keys));
        daemon.expect(&["worker timed out"]);
        let worker = the_worker(&daemon, "echo");
        for round in 0..3 {
            let mark = daemon.log().mark();
            // It waits for the first byte, for one more, for room to send.
            let mut client =
                if round == 1 { hold(&address, LIMIT) } else { Client::connect(&address) };
            if round == 2 {
                stuff(&mut client);
            }
            let event = daemon.log().wait_since(mark, "worker timed out", |_| true);
            assert_told(&event, worker, 300);
            wait_for_close(&mut client);
            hold(&address, LIMIT);
            assert_eq!(the_worker(&daemon, "echo"), worker);
        }
        assert_no_worker_ended(&daemon);
    }
}

#[test]
fn a_worker_that_spins_or_sleeps_is_killed_after_kill_timeout() {
    const LIMIT: Duration = Duration::from_millis(300);
    for request in ["spin\n", "sleep\n"] {
        let address = Address::fresh();
        let keys = "request_timeout = \"300ms\"\nkill_timeout = \"400ms\"\nmin_uptime = \"0s\"";
        let daemon = Daemon::start_example("testsvc", &command(&address, 1, keys));
        daemon.expect(&["worker timed out", "worker killed"]);
        let (_, mut client, worker) = hold_with_pid(&address, LIMIT, request);
        wait_for_close(&mut client);
        let event = daemon.log().wait_for("worker timed out", |event| event.pid() == worker);
        assert_told(&event, worker, 300);
        let end = daemon.log().wait_for("worker killed", |event| event.pid() == worker);
        assert_eq!(end.text("signal"), Some("SIGKILL"), "{end}");
        assert_eq!(end.text("cause"), Some("timed out"), "{end}");
        assert_eq!(end.level(), "warning", "{end}");
        assert!(end.number("uptime_ms").is_some_and(|millis| millis >= 700), "{end}");
        assert_ne!(the_worker(&daemon, "command"), worker);
        in_time(LIMIT, || try_hold(&address, "echo\nagain", "again"));
    }
}

// PEERS: "an idle connection is killed as a slow request".
#[test]
fn request_timeout_cuts_nothing_before_its_time() {
    const LIMIT: Duration = Duration::from_millis(1500);
    let address = Address::fresh();
    let keys = "request_timeout = \"1500ms\"\nkill_timeout = \"1m\"";
    let mut daemon = Daemon::start(&echo(&address, 1, keys));
    let worker = the_worker(&daemon, "echo");
    // An idle worker has no connection to be late with.
    thread::sleep(2 * LIMIT);
    assert!(daemon.log().events().iter().all(|event| event.message() != "worker timed out"));
    // One after the other, together longer than the time of one: the time of
    // the next is its own. The fractions differ, so that they meet the
    // master's looks at different moments.
    for part in [0.5, 0.3, 0.7, 0.1, 0.6, 0.45] {
        in_time(LIMIT, || {
            let mut client = try_hold(&address, "early", "early")?;
            thread::sleep(LIMIT.mul_f64(part));
            client.write_all(b"late")?;
            client.read_exact(&mut [0; 4])
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
    const LIMIT: Duration = Duration::from_secs(2);
    let address = Address::fresh();
    let keys = "request_timeout = \"2s\"\nkill_timeout = \"1m\"";
    let daemon = Daemon::start(&echo(&address, 6, keys));
    daemon.expect(&["worker timed out"]);
    let workers = daemon.wait_for_idle("echo", 6);
    let mut clients = in_time(LIMIT, || {
        let began = Instant::now();
        let held = (0..5).map(|_| {
            thread::sleep(Duration::from_millis(70));
            try_hold(&address, "hello", "hello")
        });
        let clients = held.collect::<io::Result<Vec<_>>>()?;
        // The sixth serves on.
        try_hold(&address, "who is there", "who is there")?;
        // Only if none was cut meanwhile has each a worker of its own.
        if began.elapsed() < LIMIT { Ok(clients) } else { Err(io::Error::other("too late")) }
    });
    let mut pids = Vec::new();
    for client in &mut clients {
        wait_for_close(client);
        let Client::Tcp(stream) = client else { unreachable!("the address is of TCP") };
        let peer = stream.local_addr().expect("the client's address").to_string();
        let is_it = |event: &Event| event.text("peer") == Some(&peer);
        pids.push(daemon.log().wait_for("worker timed out", is_it).pid());
    }
    pids.sort();
    pids.dedup();
    assert_eq!(pids.len(), 5, "{pids:?}");
    assert_eq!(daemon.wait_for_idle("echo", 6), workers);
}

#[test]
fn request_timeout_ends_the_group_of_a_program() {
    let address = Address::fresh();
    let script = "sleep 1000 & echo $$; sleep 1000";
    let keys = "request_timeout = \"500ms\"\nkill_timeout = \"1m\"";
    let daemon = Daemon::start(&shell(&address, 1, script, keys));
    daemon.expect(&["worker timed out", "program killed"]);
    let worker = the_worker(&daemon, "exec");
    let (_, mut client, program) = hold_with_pid(&address, Duration::from_millis(500), "");
    wait_for_close(&mut client);
    wait_for_end_of_group(program);
    let event = daemon.log().wait_for("worker timed out", |_| true);
    assert_told(&event, worker, 500);
    let end = daemon.log().wait_for("program killed", |event| event.pid() == program);
    assert_eq!(end.text("signal"), Some("SIGTERM"), "{end}");
    assert_eq!(the_worker(&daemon, "exec"), worker);
    assert_no_worker_ended(&daemon);
}

// PEERS: "hung CGI never killed (`kill` with its arguments swapped)".
#[test]
fn a_program_that_ignores_sigterm_is_killed_and_its_worker_lives() {
    const LIMIT: Duration = Duration::from_millis(300);
    const KILL: Duration = Duration::from_secs(8);
    let address = Address::fresh();
    // A pid that came tells that no SIGTERM has been before the trap.
    let script = "trap '' TERM; echo $$; sleep 1000 & while :; do sleep 1000; done";
    let keys = "request_timeout = \"300ms\"\nkill_timeout = \"8s\"";
    let daemon = Daemon::start(&shell(&address, 1, script, keys));
    daemon.expect(&["worker timed out", "program killed"]);
    let worker = the_worker(&daemon, "exec");
    let (began, mut client, program) = hold_with_pid(&address, LIMIT, "");
    let end = daemon.log().wait_for("program killed", |event| event.pid() == program);
    // Asked first: half of kill_timeout lies between the two.
    let took = began.elapsed();
    assert!(took >= LIMIT + KILL / 2, "after {took:?}: {end}");
    assert_eq!(end.text("signal"), Some("SIGKILL"), "{end}");
    wait_for_close(&mut client);
    wait_for_end_of_group(program);
    assert_eq!(the_worker(&daemon, "exec"), worker);
    assert_no_worker_ended(&daemon);
}

#[test]
fn idle_timeout_drops_a_client_that_sends_or_takes_nothing() {
    const LIMIT: Duration = Duration::from_millis(300);
    let setup = Setup::new();
    let unix = Address::unix(&setup.directory().join("echo.sock"));
    for address in [Address::fresh(), unix] {
        let daemon = Daemon::start(&echo(&address, 1, "idle_timeout = \"300ms\""));
        let worker = the_worker(&daemon, "echo");
        let began = Instant::now();
        wait_for_close(&mut Client::connect(&address));
        assert!(began.elapsed() >= LIMIT, "after {:?}", began.elapsed());

        wait_for_close(&mut hold(&address, LIMIT));

        let mut client = hold(&address, LIMIT);
        stuff(&mut client);
        until("the worker is free", || procfs::is_in_accept(worker).then_some(()));
        drop(client);
        hold(&address, LIMIT);
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
        // The worker's pause begins later, and may end before the reply is read.
        let mut last = Instant::now();
        let mut client = Client::connect(&address);
        for _ in 0..7 {
            thread::sleep(LIMIT.mul_f64(0.45));
            let next = Instant::now();
            let mut buffer = [0; 5];
            let result = client.write_all(b"slow.").and_then(|()| client.read_exact(&mut buffer));
            match result {
                Ok(()) => last = next,
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

/// Programs that would wait for their client for ever, each in its own way: in a read, in
/// poll(2), without a look at it, deaf to SIGTERM, in a write.
const PATIENT: [&[&str]; 5] = [
    &["cat"],
    &[
        "perl",
        "-e",
        "sysread(STDIN, $_, 5); vec($r, 0, 1) = 1; $| = 1; print qq(hello); 1 while select($s = $r, undef, undef, 0.05) <= 0",
    ],
    &["sh", "-c", "printf hello; while :; do sleep 0.05; done"],
    &["sh", "-c", "trap '' TERM; printf hello; while :; do sleep 0.05; done"],
    &["sh", "-c", "printf hello; exec cat /dev/zero"],
];

#[test]
fn idle_timeout_ends_a_program_however_it_waits_for_its_client() {
    const LIMIT: Duration = Duration::from_millis(300);
    let setup = Setup::new();
    let unix = Address::unix(&setup.directory().join("idle.sock"));
    for address in [Address::fresh(), unix] {
        for program in PATIENT {
            let keys = "idle_timeout = \"300ms\"\nkill_timeout = \"400ms\"";
            let daemon = Daemon::start(&super::exec(&address, 1, program, keys));
            daemon.expect(&["program exited", "program killed"]);
            let worker = the_worker(&daemon, "exec");
            let (began, client) = in_time(LIMIT, || {
                let began = Instant::now();
                Ok((began, try_hold(&address, "hello", "hello")?))
            });
            // It takes nothing more, whatever the program writes.
            until("the program ends", || procfs::children(worker).is_empty().then_some(()));
            assert!(began.elapsed() >= LIMIT, "{program:?} after {:?}", began.elapsed());
            drop(client);
            assert_eq!(the_worker(&daemon, "exec"), worker);
            assert_no_worker_ended(&daemon);
        }
    }
}

// The time-out of one direction is none of the connection: here the program reads all the
// time, and its client only takes; and the other way round.
#[test]
fn idle_timeout_lets_a_client_be_that_only_sends_or_only_takes() {
    const LIMIT: Duration = Duration::from_millis(1000);
    let setup = Setup::new();
    let unix = Address::unix(&setup.directory().join("busy.sock"));
    let sends = "while sleep 0.25; do printf hello; done & cat; kill $!";
    let takes = "while IFS= read -r line; do :; done; printf done";
    for address in [Address::fresh(), unix] {
        let daemon = Daemon::start(&shell(&address, 1, sends, "idle_timeout = \"1s\""));
        daemon.expect(&["program exited", "program killed"]);
        in_time(LIMIT, || {
            let mut client = Client::try_connect(&address)?;
            let mut last = Instant::now();
            for _ in 0..14 {
                let result = client.read_exact(&mut [0; 5]);
                // A machine that is too busy to write for so long proves nothing.
                if result.is_err() && last.elapsed() < LIMIT {
                    panic!("cut after {:?}: {result:?}", last.elapsed());
                }
                result?;
                last = Instant::now();
            }
            Ok(())
        });
        drop(daemon);
        let daemon = Daemon::start(&shell(&address, 1, takes, "idle_timeout = \"1s\""));
        daemon.expect(&["program exited", "program killed"]);
        in_time(LIMIT, || {
            let mut client = Client::try_connect(&address)?;
            for _ in 0..14 {
                thread::sleep(LIMIT / 4);
                client.write_all(b"line\n")?;
            }
            client.half_close()?;
            let mut reply = [0; 4];
            client.read_exact(&mut reply)
        });
        assert_no_worker_ended(&daemon);
    }
}

// Both time-outs want the same connection to end.
#[test]
fn idle_timeout_and_request_timeout_share_a_connection() {
    let address = Address::fresh();
    let script = "trap '' TERM; echo $$; while :; do sleep 0.05; done";
    for (idle, request) in [("300ms", "600ms"), ("600ms", "300ms"), ("300ms", "300ms")] {
        let keys = format!(
            "idle_timeout = \"{idle}\"\nrequest_timeout = \"{request}\"\nkill_timeout = \"8s\""
        );
        let daemon = Daemon::start(&shell(&address, 1, script, &keys));
        daemon.expect(&["worker timed out", "program killed"]);
        let worker = the_worker(&daemon, "exec");
        let (_, mut client, program) = hold_with_pid(&address, Duration::from_millis(300), "");
        wait_for_close(&mut client);
        wait_for_end_of_group(program);
        let end = daemon.log().wait_for("program killed", |event| event.pid() == program);
        assert_eq!(end.text("signal"), Some("SIGKILL"), "{end}");
        assert_eq!(the_worker(&daemon, "exec"), worker);
        assert_no_worker_ended(&daemon);
    }
}

/// Sends a signal to a worker that waits for its client, and waits until it is handled.
#[track_caller]
fn interrupt(worker: i32, signal: Signal) {
    until("the worker waits for its client", || {
        (procfs::system_call(worker) == Some(libc::SYS_recvfrom)).then_some(())
    });
    procfs::send(worker, signal);
    until("the worker has handled the signal", || {
        procfs::status(worker, "ShdPnd")?.chars().all(|digit| digit == '0').then_some(())
    });
}

// Linux restarts no call on a socket that has a time limit (signal(7)).
#[test]
fn a_signal_costs_no_connection_where_there_is_an_idle_timeout() {
    let address = Address::fresh();
    let keys = "idle_timeout = \"10m\"\nmin_uptime = \"0s\"";
    let daemon = Daemon::start_example("testsvc", &command(&address, 2, keys));
    // Somebody's SIGTERM is told.
    daemon.expect(&["worker exited"]);
    for signal in [Signal::SIGUSR1, Signal::SIGALRM, Signal::SIGTERM].repeat(5) {
        daemon.wait_for_idle("command", 2);
        let mut client = Client::connect(&address);
        client.send("echo\nbefore");
        client.expect("before");
        let is_busy = |worker: &i32| !procfs::is_in_accept(*worker);
        let worker = *daemon.workers("command").iter().find(|it| is_busy(it)).expect("it is busy");
        interrupt(worker, signal);
        client.ping("after");
        client.half_close().expect("close one half");
        assert_eq!(client.rest(), "");
    }
}

// The kernel counts the time from the start again for each call.
#[test]
fn signals_do_not_make_an_idle_timeout_longer() {
    let address = Address::fresh();
    let daemon =
        Daemon::start_example("testsvc", &command(&address, 1, "idle_timeout = \"500ms\""));
    let worker = the_worker(&daemon, "command");
    let mut client = Client::connect(&address);
    let (done, is_done) = mpsc::channel::<()>();
    let storm = thread::spawn(move || {
        // One each 5 ms, far more often than the time runs out.
        while is_done.recv_timeout(Duration::from_millis(5)) == Err(RecvTimeoutError::Timeout) {
            procfs::send_if_there(worker, Signal::SIGUSR1);
        }
    });
    client.send("wait\n");
    let answer = client.rest();
    drop(done);
    storm.join().expect("the storm ends");
    assert_eq!(answer, format!("{worker}\nTimedOut\n"));
    assert_eq!(the_worker(&daemon, "command"), worker);
}
