//! What a program leaves running: `leftovers`, and what ends with a connection.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use nix::sys::signal::Signal;

use super::{Escaped, assert_no_worker_ended, exec, shell, the_worker, wait_for_close};
use super::{wait_for_end, wait_for_end_of_group};
use support::client::ask;
use support::{Address, Client, Daemon, Setup, is_root, procfs, provided, until};

/// The ways to leave something running: in the group of the program, in a session of its
/// own, and that as an orphan from the start.
const WAYS: [&str; 3] = ["sh -c \"$0\" &", "setsid sh -c \"$0\" &", "(setsid sh -c \"$0\" &)"];

/// A command that starts `script` in each way, says the process of each, and then does
/// `last`.
fn leaving(script: &str, last: &str) -> [String; 4] {
    let starts = WAYS.join("\n");
    // Each says its own number, so that they are there when the program goes on.
    let own = format!("echo $$; exec <&- >&-\n{script}");
    ["/bin/sh", "-c", &format!("{starts}\n{last}"), &own].map(str::to_owned)
}

fn pool(address: &Address, command: &[String], keys: &str) -> String {
    let command: Vec<_> = command.iter().map(String::as_str).collect();
    exec(address, 1, &command, keys)
}

/// The next lines from the program, each a number.
#[track_caller]
fn numbers(client: &mut Client, count: usize) -> Vec<i32> {
    let lines = BufReader::new(client).lines().take(count);
    lines.map(|line| line.expect("a line").parse().expect("a number")).collect()
}

/// Waits as long as there is no file, and is gone after a minute.
fn until_there(path: &Path) -> String {
    format!("for i in $(seq 600); do [ -e {} ] && break; sleep 0.1; done", path.display())
}

#[track_caller]
fn wait_for_all(pids: &[i32]) {
    pids.iter().for_each(|&pid| wait_for_end(pid));
}

#[test]
fn what_a_program_leaves_running_lives_on_and_its_lines_are_logged() {
    let setup = Setup::new();
    let address = Address::fresh();
    let go = setup.directory().join("go");
    let script = format!("{}; echo \"late $$\" >&2", until_there(&go));
    let config = format!(
        "[log]\nlevel = \"debug\"\nformat = \"json\"\n{}",
        pool(&address, &leaving(&script, ""), "min_uptime = \"0s\"")
    );
    let daemon = setup.config(&config).start();
    daemon.expect(&["worker killed", "worker exited"]);
    for how in [Signal::SIGTERM, Signal::SIGKILL] {
        let worker = the_worker(&daemon, "exec");
        let mark = daemon.log().mark();
        let mut client = Client::connect(&address);
        let left = numbers(&mut client, 3);
        let told = daemon.log().wait_since(mark, "program left processes running", |_| true);
        assert!(told.is_of_pool("exec") && told.has("peer") && told.has("program"), "{told}");
        until("the worker is free", || procfs::is_in_accept(worker).then_some(()));
        for &pid in &left {
            // Its own pipes come and go.
            until("it has nothing but its standard error", || {
                (procfs::descriptors(pid).into_keys().collect::<Vec<_>>() == [2]).then_some(())
            });
        }
        procfs::send(worker, how);
        wait_for_end(worker);
        the_worker(&daemon, "exec");
        assert!(left.iter().all(|&pid| procfs::is_alive(pid)), "{left:?}");
        fs::write(&go, "").expect("let them go on");
        for pid in &left {
            let line = format!("late {pid}");
            let told = daemon
                .log()
                .wait_since(mark, "program stderr", |event| event.text("line") == Some(&line));
            assert!(!left.contains(&told.pid()), "the lines are the program's: {told}");
            assert!(told.is_of_pool("exec") && told.number("slot") == Some(0), "{told}");
        }
        wait_for_all(&left);
        fs::remove_file(&go).expect("for the next round");
    }
    until("nothing is left", || (daemon.children().len() == 1).then_some(()));
}

#[test]
fn leftovers_are_asked_to_end_at_a_stop() {
    let setup = Setup::new();
    let address = Address::fresh();
    let mark = setup.directory().join("asked");
    let script =
        format!("trap 'echo x >> {}; exit' TERM; while :; do sleep 0.05; done", mark.display());
    let daemon = setup.config(&pool(&address, &leaving(&script, ""), "")).start();
    let mut client = Client::connect(&address);
    let left = numbers(&mut client, 3);
    the_worker(&daemon, "exec");
    daemon.signal(Signal::SIGTERM);
    let told = daemon.log().wait_for("leftovers asked to end", |_| true);
    assert!(told.number("count") >= Some(3), "{told}");
    daemon.wait_for_code(0);
    assert!(left.iter().all(|&pid| !procfs::is_alive(pid)));
    assert_eq!(fs::read_to_string(mark).expect("the marks").lines().count(), 3);
}

#[test]
fn leftovers_that_do_not_end_are_killed_at_the_end_of_a_stop() {
    for (signal, keys) in [(Signal::SIGTERM, ""), (Signal::SIGINT, "kill_timeout = \"300ms\"")] {
        let address = Address::fresh();
        let script = "trap '' TERM; while :; do sleep 0.05; done";
        let config = format!(
            "[daemon]\nstop_timeout = \"600ms\"\n{}",
            pool(&address, &leaving(script, ""), keys)
        );
        let daemon = Daemon::start(&config);
        daemon.expect(&["leftovers killed"]);
        let mut client = Client::connect(&address);
        let left = numbers(&mut client, 3);
        the_worker(&daemon, "exec");
        daemon.signal(signal);
        daemon.log().wait_for("leftovers killed", |_| true);
        daemon.wait_for_code(0);
        assert!(left.iter().all(|&pid| !procfs::is_alive(pid)));
    }
}

#[test]
fn with_wait_a_worker_is_busy_until_nothing_is_left() {
    let setup = Setup::new();
    let address = Address::fresh();
    let go = setup.directory().join("go");
    let script = format!("{}; echo late >&2", until_there(&go));
    let keys = "leftovers = \"wait\"";
    let daemon = setup.config(&pool(&address, &leaving(&script, "echo done"), keys)).start();
    let worker = the_worker(&daemon, "exec");
    // Its client is not kept waiting.
    let told = ask(&address, "");
    assert!(told.ends_with("done\n") || told.contains("done\n"), "{told}");
    let left: Vec<i32> = told.lines().filter_map(|line| line.parse().ok()).collect();
    assert_eq!(left.len(), 3, "{told}");
    until("the worker waits", || procfs::is_in_ppoll(worker).then_some(()));
    assert!(left.iter().all(|&pid| procfs::is_alive(pid)));
    let mark = daemon.log().mark();
    fs::write(&go, "").expect("let them go on");
    wait_for_all(&left);
    assert_eq!(the_worker(&daemon, "exec"), worker);
    until("all lines are logged", || {
        let lines = daemon.log().since(mark);
        (lines.iter().filter(|it| it.text("line") == Some("late")).count() == 3).then_some(())
    });
    assert_no_worker_ended(&daemon);
    assert!(procfs::children(worker).is_empty(), "it has reaped them");
}

#[test]
fn with_wait_request_timeout_ends_what_is_left() {
    let address = Address::fresh();
    let script = "trap '' TERM; while :; do sleep 0.05; done";
    let keys = "leftovers = \"wait\"\nrequest_timeout = \"2s\"\nkill_timeout = \"400ms\"";
    let daemon = Daemon::start(&pool(&address, &leaving(script, ""), keys));
    daemon.expect(&["worker timed out"]);
    let worker = the_worker(&daemon, "exec");
    let mut client = Client::connect(&address);
    let left = numbers(&mut client, 3);
    wait_for_all(&left);
    assert_eq!(the_worker(&daemon, "exec"), worker);
    assert_no_worker_ended(&daemon);
}

#[test]
fn with_kill_what_is_left_is_asked_and_killed_and_counted() {
    for (trap, keys) in [("exit", "kill_timeout = \"10m\""), ("", "kill_timeout = \"300ms\"")] {
        let address = Address::fresh();
        let script = format!("trap '{trap}' TERM; while :; do sleep 0.05; done");
        let keys = format!("leftovers = \"kill\"\n{keys}");
        let daemon = Daemon::start(&pool(&address, &leaving(&script, "read go"), &keys));
        let worker = the_worker(&daemon, "exec");
        let mut client = Client::connect(&address);
        let left = numbers(&mut client, 3);
        client.send("go\n");
        wait_for_close(&mut client);
        wait_for_all(&left);
        let told = daemon.log().wait_for("leftovers ended", |_| true);
        // And those that sleep for them.
        assert!(told.number("count").is_some_and(|count| (3..=6).contains(&count)), "{told}");
        assert!(told.is_of_pool("exec") && told.has("peer") && told.has("program"), "{told}");
        assert_eq!(told.level(), "info", "{told}");
        assert_eq!(the_worker(&daemon, "exec"), worker);
        assert_no_worker_ended(&daemon);
    }
    // A program that leaves nothing is not told.
    let address = Address::fresh();
    let daemon = Daemon::start(&shell(&address, 1, "echo done", "leftovers = \"kill\""));
    let mark = daemon.log().mark();
    assert_eq!(ask(&address, ""), "done\n");
    let told = super::stop_and_read(&daemon, mark);
    assert!(told.iter().all(|event| event.message() != "leftovers ended"), "{told:?}");
}

// Whatever the mode: what was started for a connection ends with it by force.
#[test]
fn all_of_a_connection_ends_with_its_time() {
    for leftovers in ["leave", "wait", "kill"] {
        // The program ends when it is asked, or must be killed.
        for trap in ["", "trap '' TERM;"] {
            let address = Address::fresh();
            let script = "trap '' TERM; while :; do sleep 0.05; done";
            let keys = format!(
                "leftovers = \"{leftovers}\"\nrequest_timeout = \"2s\"\nkill_timeout = \"5s\""
            );
            let last = format!("{trap} echo $$; sleep 1000; sleep 1000");
            let daemon = Daemon::start(&pool(&address, &leaving(script, &last), &keys));
            daemon.expect(&["worker timed out", "program killed"]);
            let worker = the_worker(&daemon, "exec");
            let mut client = Client::connect(&address);
            let all = numbers(&mut client, 4);
            wait_for_all(&all);
            assert_eq!(the_worker(&daemon, "exec"), worker);
            assert_no_worker_ended(&daemon);
        }
    }
}

#[test]
fn all_of_a_connection_ends_with_its_worker() {
    for leftovers in ["leave", "wait", "kill"] {
        let address = Address::fresh();
        let script = "trap '' TERM; while :; do sleep 0.05; done";
        let keys = format!("leftovers = \"{leftovers}\"\nmin_uptime = \"0s\"");
        let command = leaving(script, "echo $$; read what; [ $what = leave ] || sleep 1000");
        let daemon = Daemon::start(&pool(&address, &command, &keys));
        daemon.expect(&["worker killed"]);
        let earlier = (leftovers == "leave").then(|| {
            let mut client = Client::connect(&address);
            client.send("leave\n");
            let left = numbers(&mut client, 4);
            the_worker(&daemon, "exec");
            left
        });
        let worker = the_worker(&daemon, "exec");
        let mut client = Client::connect(&address);
        client.send("stay\n");
        let all = numbers(&mut client, 4);
        procfs::send(worker, Signal::SIGKILL);
        wait_for_all(&all);
        wait_for_close(&mut client);
        assert_ne!(the_worker(&daemon, "exec"), worker);
        // What an earlier connection has left running goes on.
        let alive = earlier.iter().flatten().filter(|&&pid| procfs::is_alive(pid)).count();
        assert_eq!(alive, earlier.map_or(0, |_| 3));
        daemon.expect(&["leftovers killed"]);
        daemon.signal(Signal::SIGINT);
        daemon.signal(Signal::SIGQUIT);
        daemon.expect(&["stop escalated"]);
        daemon.wait_for_code(0);
    }
}

#[test]
fn all_of_a_connection_ends_although_it_has_changed_its_user() {
    if !provided(is_root(), "root") {
        return;
    }
    let address = Address::fresh();
    let script = "trap '' TERM; while :; do sleep 0.05; done";
    let drop = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"].map(str::to_owned);
    let command = [&drop[..], &leaving(script, "echo $$; sleep 1000; :")].concat();
    let keys = "user = \"root\"\nrequest_timeout = \"2s\"\nkill_timeout = \"5s\"";
    let daemon = Daemon::start(&pool(&address, &command, keys));
    daemon.expect(&["worker timed out", "program killed", "pool runs as root"]);
    let worker = the_worker(&daemon, "exec");
    let mut client = Client::connect(&address);
    let all = numbers(&mut client, 4);
    wait_for_all(&all);
    assert_eq!(the_worker(&daemon, "exec"), worker);
    assert_no_worker_ended(&daemon);
}

#[test]
fn all_of_a_connection_ends_at_a_stop_at_once() {
    for leftovers in ["leave", "wait", "kill"] {
        let address = Address::fresh();
        let script = "trap '' TERM; while :; do sleep 0.05; done";
        let keys = format!("leftovers = \"{leftovers}\"\nkill_timeout = \"400ms\"");
        let command = leaving(script, "trap '' TERM; echo $$; sleep 1000; :");
        let mut daemon = Daemon::start(&pool(&address, &command, &keys));
        let mut client = Client::connect(&address);
        let all = numbers(&mut client, 4);
        daemon.signal(Signal::SIGINT);
        let told = daemon.log().wait_for("connection cut", |_| true);
        assert_eq!(told.text("program"), Some("/bin/sh"), "{told}");
        daemon.wait_for_code(0);
        let alive: Vec<_> = all.iter().filter(|&&pid| procfs::is_alive(pid)).collect();
        assert!(alive.is_empty(), "{alive:?}");
        daemon.expect_anything();
    }
}

#[test]
fn programs_are_asked_before_stop_timeout_and_what_is_cut_is_told() {
    let setup = Setup::new();
    let address = Address::fresh();
    let script = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done";
    let config = format!(
        "[daemon]\nstop_timeout = \"2s\"\n{}",
        shell(&address, 2, script, "kill_timeout = \"1s\"")
    );
    let daemon = setup.config(&config).start();
    daemon.expect(&["connection cut"]);
    let mut clients = [Client::connect(&address), Client::connect(&address)];
    clients.iter_mut().for_each(|client| client.expect("ready\n"));
    daemon.signal(Signal::SIGTERM);
    for client in &mut clients {
        let Client::Tcp(stream) = &*client else { unreachable!("the address is of TCP") };
        let peer = stream.local_addr().expect("the client's address").to_string();
        // The program still has its client when it is asked.
        client.expect("bye\n");
        let told = daemon
            .log()
            .wait_for("connection cut", |event| event.text("peer") == Some(peer.as_str()));
        assert_eq!(told.text("program"), Some("/bin/sh"), "{told}");
        assert_eq!(told.text("reason"), Some("stop_timeout"), "{told}");
        assert!(told.number("elapsed_ms").is_some_and(|millis| millis >= 1000), "{told}");
    }
    daemon.wait_for_code(0);
    let stopped = daemon.log().wait_for("stopped", |_| true);
    assert_eq!(stopped.number("connections_cut"), Some(2), "{stopped}");
    assert_no_worker_was_killed(&daemon);
}

#[track_caller]
fn assert_no_worker_was_killed(daemon: &Daemon) {
    let events = daemon.log().events();
    assert!(events.iter().all(|event| event.message() != "worker killed"));
}

// It is nobody's any more, and floods the log.
#[test]
fn a_leftover_that_floods_its_standard_error_keeps_nobody() {
    let began = Instant::now();
    let address = Address::fresh();
    let script = super::escape("yes '' >&2 </dev/null");
    let mut daemon = Daemon::start(&shell(&address, 1, &script, ""));
    let worker = the_worker(&daemon, "exec");
    let mut client = Client::connect(&address);
    let escaped = Escaped::from(&mut client);
    for _ in 0..3 {
        the_worker(&daemon, "exec");
        let mut next = Client::connect(&address);
        drop(Escaped::from(&mut next));
    }
    assert!(escaped.is_alive());
    assert_eq!(the_worker(&daemon, "exec"), worker);
    assert_no_worker_ended(&daemon);
    // Ten thousand of the worker and a thousand of each leftover in ten seconds.
    let lines = daemon.log().events().len();
    let most = 15_000 * (1 + began.elapsed().as_secs() as usize / 10);
    assert!(lines < most, "{lines} lines");
    daemon.expect_anything();
}

#[test]
fn what_is_left_in_the_group_is_ended_with_kill() {
    let address = Address::fresh();
    let script = "trap '' HUP; sleep 1000 & (sleep 1000; sleep 1000) & echo $$";
    let daemon = Daemon::start(&shell(&address, 1, script, "leftovers = \"kill\""));
    let worker = the_worker(&daemon, "exec");
    let program: i32 = ask(&address, "").trim().parse().expect("a process id");
    wait_for_end_of_group(program);
    assert_eq!(the_worker(&daemon, "exec"), worker);
    assert_no_worker_ended(&daemon);
}

// The files of a process of another user are hidden from the worker.
#[test]
fn the_leftovers_of_another_user_cut_nobodys_reply() {
    const BYTES: usize = 1_500_000;
    if !provided(is_root(), "root") {
        return;
    }
    let (first, second) = (Address::fresh(), Address::fresh());
    let left = shell(&first, 1, &super::escape("sleep 50"), "user = \"nobody\"");
    let script = format!("read go; head -c {BYTES} /dev/zero");
    let cut = shell(&second, 1, &script, "user = \"daemon\"").replace("pool.exec", "pool.other");
    let daemon = Daemon::start(&format!("{left}{cut}"));
    let mut client = Client::connect(&first);
    let escaped = Escaped::from(&mut client);
    the_worker(&daemon, "exec");
    let mut client = Client::connect(&second);
    client.send(&format!("go\n{}", "unread ".repeat(2_000)));
    // The program reads a byte at a time.
    let mut reply = Vec::new();
    client.read_to_end(&mut reply).expect("the whole reply");
    assert_eq!(reply.len(), BYTES);
    assert!(escaped.is_alive());
}

// The serving generation runs no program any more.
#[test]
fn what_an_earlier_generation_runs_is_asked_at_a_stop() {
    let address = Address::fresh();
    let script = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done";
    let stop = "[daemon]\nstop_timeout = \"2s\"\n";
    let keys = "kill_timeout = \"1s\"";
    let daemon = Daemon::start(&format!("{stop}{}", shell(&address, 1, script, keys)));
    daemon.expect(&["connection cut"]);
    let mut client = Client::connect(&address);
    client.expect("ready\n");
    let echo = super::echo(&address, 1, keys).replace("pool.echo", "pool.exec");
    daemon.reload(&format!("{stop}{echo}"));
    daemon.signal(Signal::SIGTERM);
    client.expect("bye\n");
    let told = daemon.log().wait_for("connection cut", |_| true);
    assert_eq!(told.text("program"), Some("/bin/sh"), "{told}");
    daemon.wait_for_code(0);
    assert_no_worker_was_killed(&daemon);
}

#[test]
fn with_wait_request_timeout_asks_each_process_that_is_left_once() {
    let setup = Setup::new();
    let address = Address::fresh();
    let mark = setup.directory().join("asked");
    let script =
        format!("trap 'echo x >> {}; exit' TERM; while :; do sleep 0.05; done", mark.display());
    let keys = "leftovers = \"wait\"\nrequest_timeout = \"2s\"\nkill_timeout = \"20s\"";
    let daemon = setup.config(&pool(&address, &leaving(&script, ""), keys)).start();
    daemon.expect(&["worker timed out"]);
    let worker = the_worker(&daemon, "exec");
    let mut client = Client::connect(&address);
    wait_for_all(&numbers(&mut client, 3));
    assert_eq!(the_worker(&daemon, "exec"), worker);
    assert_eq!(fs::read_to_string(mark).expect("the marks").lines().count(), 3);
    assert_no_worker_ended(&daemon);
}

// The daemon sees processes of another PID namespace in /proc.
#[test]
fn with_kill_the_group_is_ended_without_a_proc_of_its_own() {
    let tool = Command::new("unshare").args(["--pid", "--fork", "true"]).status();
    if !provided(is_root() && tool.is_ok_and(|it| it.success()), "root, for a PID namespace") {
        return;
    }
    for trap in ["exit", ""] {
        let address = Address::fresh();
        let script = format!(
            "(trap '{trap}' TERM; while :; do sleep 0.05; done) </dev/null >/dev/null 2>&1 & \
             echo done"
        );
        let keys = "leftovers = \"kill\"\nkill_timeout = \"300ms\"";
        let setup = Setup::new().config(&shell(&address, 1, &script, keys));
        let mut daemon = setup.wrapper(&["unshare", "--pid", "--fork", "--kill-child"]).launch();
        daemon.expect_anything();
        daemon.log().wait_for("ready", |_| true);
        // The second client is served when nothing is left of the first.
        for _ in 0..2 {
            assert_eq!(ask(&address, ""), "done\n");
        }
        daemon.log().wait_for("leftovers ended", |_| true);
    }
}

#[test]
fn a_program_that_cannot_be_watched_is_ended() {
    let address = Address::fresh();
    let script = "read go; echo line >&2; trap '' TERM; while :; do sleep 0.05; done";
    let mut daemon = Daemon::start(&shell(&address, 1, script, ""));
    let worker = the_worker(&daemon, "exec");
    let mut client = Client::connect(&address);
    let program = super::the_program(worker, "sh");
    // poll(2) fails with more descriptors than that.
    let limit =
        Command::new("prlimit").args(["--nofile=1:", "--pid", &worker.to_string()]).status();
    assert!(limit.expect("run prlimit").success());
    client.send("go\n");
    wait_for_end(program);
    wait_for_close(&mut client);
    daemon.expect_anything();
}
