//! The service `exec`: programs that do not do as they should.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use nix::pty::openpty;
use nix::sys::signal::Signal;
use nix::sys::socket::{setsockopt, sockopt};

use super::{
    Escaped, assert_no_worker_ended, escape, exec, shell, the_program, the_worker, wait_for_close,
    wait_for_end, wait_for_end_of_group,
};
use support::client::ask;
use support::{Address, Client, Daemon, Setup, is_root, procfs, provided, until};

/// A client that leaves with a reset, which TCP tells from a half-close.
fn abort(client: Client) {
    if let Client::Tcp(stream) = &client {
        let now = nix::libc::linger { l_onoff: 1, l_linger: 0 };
        setsockopt(stream, sockopt::Linger, &now).expect("set SO_LINGER");
    }
    drop(client);
}

/// The number on the next line from the program.
fn number(client: &mut Client) -> i32 {
    let line = BufReader::new(client).lines().next().expect("a line");
    line.expect("a line").parse().expect("a number")
}

/// TCP and Unix: the kernel tells the client's leaving by other means.
fn addresses(setup: &Setup) -> [Address; 2] {
    [Address::fresh(), Address::unix(&setup.directory().join("exec.sock"))]
}

#[test]
fn a_program_that_ignores_its_clients_leaving_is_ended() {
    let setup = Setup::new();
    for address in addresses(&setup) {
        let daemon =
            Daemon::start(&exec(&address, 1, &["/bin/sleep", "1000"], "kill_timeout = \"200ms\""));
        daemon.expect(&["program killed"]);
        let worker = the_worker(&daemon, "exec");
        let client = Client::connect(&address);
        let program = the_program(worker, "sleep");
        abort(client);
        let end = daemon.log().wait_for("program killed", |event| event.pid() == program);
        assert_eq!(end.text("signal"), Some("SIGTERM"), "{end}");
        assert_eq!(the_worker(&daemon, "exec"), worker);
    }
}

#[test]
fn a_program_that_ignores_sigterm_too_is_killed() {
    let setup = Setup::new();
    for address in addresses(&setup) {
        // The trap is inherited by the two that it waits for.
        let script = "trap '' TERM; sleep 1000 & sleep 1000 & echo ready; wait";
        let daemon = Daemon::start(&shell(&address, 1, script, "kill_timeout = \"200ms\""));
        daemon.expect(&["program killed"]);
        let worker = the_worker(&daemon, "exec");
        let mut client = Client::connect(&address);
        client.expect("ready\n");
        let program = the_program(worker, "sh");
        abort(client);
        let end = daemon.log().wait_for("program killed", |event| event.pid() == program);
        assert_eq!(end.text("signal"), Some("SIGKILL"), "{end}");
        assert!(end.number("elapsed_ms").is_some_and(|millis| millis >= 400), "{end}");
        wait_for_end_of_group(program);
        assert_eq!(the_worker(&daemon, "exec"), worker);
    }
}

/// Whether a worker is in ppoll with a time-out, its third argument.
fn waits_with_a_deadline(worker: i32) -> bool {
    let text = fs::read_to_string(format!("/proc/{worker}/syscall")).unwrap_or_default();
    let mut words = text.split_whitespace();
    let is_ppoll = words.next() == Some(&nix::libc::SYS_ppoll.to_string());
    is_ppoll && words.nth(2).is_some_and(|pointer| pointer != "0x0")
}

// What has to be finished without a client may be: a mail to be delivered.
#[test]
fn a_program_has_time_to_finish_when_its_client_has_left() {
    let setup = Setup::new();
    let address = Address::unix(&setup.directory().join("exec.sock"));
    let (go, done) = (setup.directory().join("go"), setup.directory().join("done"));
    let script = format!(
        "echo ready; while ! [ -e '{}' ]; do sleep 0.02; done; echo finished > '{}'",
        go.display(),
        done.display()
    );
    let daemon = Daemon::start(&shell(&address, 1, &script, "kill_timeout = \"1m\""));
    let worker = the_worker(&daemon, "exec");
    let mut client = Client::connect(&address);
    client.expect("ready\n");
    let program = the_program(worker, "sh");
    drop(client);
    // Without one it has not seen yet that the client left.
    until("the worker waits with a deadline", || waits_with_a_deadline(worker).then_some(()));
    assert!(procfs::is_alive(program));
    fs::write(go, "").expect("let it go on");
    until("the program finishes", || done.exists().then_some(()));
    wait_for_end(program);
    assert_eq!(the_worker(&daemon, "exec"), worker);
}

// A client that only closed its sending side still waits for the answer.
#[test]
fn a_half_close_is_not_taken_for_leaving() {
    let setup = Setup::new();
    for address in addresses(&setup) {
        let _daemon = Daemon::start(&shell(
            &address,
            1,
            "cat; sleep 1; echo late",
            "kill_timeout = \"100ms\"",
        ));
        assert_eq!(ask(&address, "early\n"), "early\nlate\n");
    }
}

// Its worker cannot do it any more.
#[test]
fn a_killed_worker_takes_all_of_its_program_with_it() {
    let address = Address::fresh();
    let script = "sleep 1000 & (sleep 1000; sleep 1000) & echo $$; sleep 1000; :";
    let daemon = Daemon::start(&shell(&address, 1, script, ""));
    daemon.expect(&["worker killed"]);
    let worker = the_worker(&daemon, "exec");
    let mut client = Client::connect(&address);
    let program = number(&mut client);
    procfs::send(worker, Signal::SIGKILL);
    wait_for_end_of_group(program);
    wait_for_close(&mut client);
    // What a program of another worker has detached, and ends, harms nobody.
    let script = "(sleep 0.1 &) ; sleep 0.2; echo done";
    let elder = the_worker(&daemon, "exec");
    daemon.reload(&shell(&address, 1, script, ""));
    // Until it has left, it may take a client.
    wait_for_end(elder);
    assert_eq!(ask(&address, ""), "done\n");
}

#[test]
fn nothing_of_a_program_is_left_when_the_daemon_has_ended() {
    let address = Address::fresh();
    let script = "trap '' TERM; sleep 1000 & (sleep 1000; sleep 1000) & echo $$; wait; wait";
    let daemon = Daemon::start(&shell(&address, 1, script, "kill_timeout = \"100ms\""));
    daemon.expect(&["worker killed", "stop escalated", "program killed"]);
    daemon.expect(&["connection cut", "leftovers killed"]);
    let mut client = Client::connect(&address);
    let program = number(&mut client);
    daemon.signal(Signal::SIGINT);
    daemon.wait_for_code(0);
    let left = procfs::processes(|process| process.group == program && process.is_alive());
    assert!(left.is_empty(), "{} processes", left.len());
}

#[test]
fn a_stop_at_once_asks_programs() {
    for signals in [&[Signal::SIGINT][..], &[Signal::SIGQUIT], &[Signal::SIGTERM; 2]] {
        let address = Address::fresh();
        let script = "trap 'exit 7' TERM; echo ready; while :; do sleep 0.02; done";
        let daemon = Daemon::start(&shell(&address, 1, script, "kill_timeout = \"10m\""));
        daemon.expect(&["stop escalated", "program exited", "connection cut"]);
        let mut client = Client::connect(&address);
        client.expect("ready\n");
        for signal in signals {
            daemon.signal(*signal);
            daemon.log().wait_for("stopping", |_| true);
        }
        let end = daemon.log().wait_for("program exited", |_| true);
        assert_eq!(end.number("code"), Some(7), "{end}");
        daemon.wait_for_code(0);
    }
}

// What is to end is no reason for the client to wait.
#[test]
fn with_kill_a_process_that_leaves_the_group_does_not_keep_the_client_waiting() {
    let setup = Setup::new();
    for address in addresses(&setup) {
        // It goes on writing to all that it was given.
        let script =
            escape("sh -c 'trap \"\" PIPE TERM; while sleep 0.01; do echo x; echo y >&2; done'");
        let daemon = Daemon::start(&shell(&address, 1, &script, "leftovers = \"kill\""));
        let worker = the_worker(&daemon, "exec");
        // The worker goes on to the next, whose client is not kept either.
        let mut clients = [Client::connect(&address), Client::connect(&address)];
        clients.iter_mut().for_each(wait_for_close);
        assert_eq!(the_worker(&daemon, "exec"), worker);
        assert_no_worker_ended(&daemon);
    }
}

#[test]
fn a_program_that_is_gone_ends_the_connection_and_not_the_worker() {
    let setup = Setup::new();
    let address = Address::fresh();
    let program = setup.directory().join("program");
    let text = setup.directory().join("text");
    // By another process, as in `copy_for`.
    let install = |content: &str| {
        fs::write(&text, content).expect("write the text of the program");
        let status = Command::new("install").args(["-m", "755"]).arg(&text).arg(&program).status();
        assert!(status.is_ok_and(|status| status.success()), "install the program");
    };
    let mode = |mode| {
        fs::set_permissions(&program, fs::Permissions::from_mode(mode)).expect("change the mode")
    };
    install("#!/bin/sh\necho hello\n");
    let path = program.display().to_string();
    let daemon = setup.config(&exec(&address, 1, &[&path], "")).start();
    daemon.expect(&["program not started"]);
    let worker = the_worker(&daemon, "exec");
    assert_eq!(ask(&address, ""), "hello\n");

    let fails = |reason: &str| {
        let mark = daemon.log().mark();
        assert_eq!(Client::connect(&address).rest(), "");
        let event = daemon.log().wait_since(mark, "program not started", |_| true);
        assert_eq!(event.level(), "warning", "{event}");
        assert!(event.is_of_pool("exec") && event.has("peer"), "{event}");
        assert_eq!(event.text("program"), Some(path.as_str()), "{event}");
        let told = event.text("reason").unwrap_or_default();
        assert!(told.eq_ignore_ascii_case(reason), "{event}");
    };
    mode(0o644);
    fails("permission denied");
    mode(0o755);
    fs::rename(&program, program.with_extension("away")).expect("rename the program");
    fails("no such file or directory");
    install("#!/no/interpreter\n");
    fails("no such file or directory");
    install("no program at all");
    fails("exec format error");

    fs::rename(program.with_extension("away"), &program).expect("put the program back");
    assert_eq!(ask(&address, ""), "hello\n");
    assert_eq!(the_worker(&daemon, "exec"), worker);
    assert_eq!(procfs::children(worker).len(), 0, "no half-made child is left");
}

// A stop is not for a program that has a client.
#[test]
fn a_worker_that_retires_waits_for_its_program() {
    let setup = Setup::new();
    let address = Address::fresh();
    let go = setup.directory().join("go");
    let script = format!(
        "echo ready; while ! [ -e '{}' ]; do sleep 0.02; done; echo finished",
        go.display()
    );
    let daemon = setup.config(&shell(&address, 2, &script, "")).start();
    let mut client = Client::connect(&address);
    client.expect("ready\n");
    daemon.signal(Signal::SIGTERM);
    until("the idle worker has left", || (daemon.children().len() == 1).then_some(()));
    fs::write(go, "").expect("let it go on");
    assert_eq!(client.rest(), "finished\n");
    daemon.wait_for_code(0);
}

#[test]
fn a_worker_that_is_killed_takes_its_program_along() {
    let address = Address::fresh();
    let daemon = Daemon::start(&exec(&address, 1, &["/bin/sleep", "1000"], "min_uptime = \"0s\""));
    daemon.expect(&["worker killed"]);
    let worker = the_worker(&daemon, "exec");
    let mut client = Client::connect(&address);
    let program = the_program(worker, "sleep");
    procfs::send(worker, Signal::SIGKILL);
    wait_for_end(program);
    wait_for_close(&mut client);
    assert_ne!(the_worker(&daemon, "exec"), worker);
}

// The terminal's signals reach the whole group of the master; a program has
// its own, so Ctrl-C does not cut a connection.
#[test]
fn a_program_is_not_in_the_group_of_the_daemon() {
    let address = Address::fresh();
    let daemon = Daemon::start(&exec(&address, 1, &["/bin/sleep", "1000"], ""));
    daemon.expect(&["program killed"]);
    let worker = the_worker(&daemon, "exec");
    let _client = TcpStream::connect(address.tcp()).expect("connect");
    let program = the_program(worker, "sleep");
    let group = |pid| procfs::Process::of(pid).map(|process| process.group);
    assert_eq!(group(worker), group(daemon.pid()));
    assert_eq!(group(program), Some(program));
    procfs::send(program, Signal::SIGKILL);
}

/// The device number of a process's controlling terminal, 0 if it has none (proc_pid_stat(5)).
fn terminal(pid: i32) -> Option<i32> {
    let line = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = line.rsplit_once(')')?;
    fields.split_whitespace().nth(4)?.parse().ok()
}

// Whoever shares a terminal with root's shell can put keystrokes into it (TIOCSTI).
#[test]
fn workers_and_programs_have_no_terminal() {
    let terminal_of_test = openpty(None, None).expect("make a pseudo-terminal");
    let mut keyboard = File::from(terminal_of_test.master);
    let address = Address::fresh();
    // The leader of a session takes the terminal at its standard input, as a shell would
    // have it, and starts the daemon in its own process group.
    let shell_like = "ioctl(STDIN, 0x540E, 0) or die; $SIG{INT} = 'IGNORE'; \
                      fork or exec @ARGV; wait; exit $? >> 8";
    let program = "if (: </dev/tty) 2>/dev/null; then echo some; else echo none; fi";
    let daemon = Setup::new()
        .config(&shell(&address, 1, program, ""))
        .wrapper(&["perl", "-e", shell_like])
        .stdin(terminal_of_test.slave)
        .start();
    assert_ne!(terminal(daemon.pid()), Some(0), "the daemon has no terminal to give away");
    assert_eq!(terminal(the_worker(&daemon, "exec")), Some(0));
    assert_eq!(ask(&address, ""), "none\n");
    // Ctrl-C is the master's to obey all the same.
    keyboard.write_all(b"\x03").expect("press Ctrl-C");
    let stop = daemon.log().wait_for("stopping", |_| true);
    assert_eq!(stop.text("cause"), Some("SIGINT"), "{stop}");
    daemon.wait_for_code(0);
}

/// The numbers on the next line from the program.
#[track_caller]
fn numbers(client: &mut Client) -> [i32; 2] {
    let line = BufReader::new(client).lines().next().expect("a line").expect("a line");
    let numbers: Vec<_> = line.split(' ').map(|word| word.parse().expect("a number")).collect();
    numbers.try_into().expect("two numbers")
}

// The kernel kills the program of a dead worker, unless it has changed its user, as sudo
// and sshd do (PR_SET_PDEATHSIG of prctl(2)).
#[test]
fn a_killed_worker_takes_along_a_program_that_has_changed_its_user() {
    if !provided(is_root(), "root") {
        return;
    }
    let address = Address::fresh();
    // What it starts makes a session of its own. Where its client says so, the program
    // ends and leaves that behind.
    let script = "read what; setsid timeout 60 sleep 1000 </dev/null >&0 & \
                  until [ \"$(cut -d' ' -f6 /proc/$!/stat)\" = $! ]; do sleep 0.01; done; \
                  [ $what = leave ] && echo $! || { echo $! $$; sleep 1000; }";
    let as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let command: Vec<_> = as_nobody.into_iter().chain(["/bin/sh", "-c", script]).collect();
    let keys = "user = \"root\"\nmin_uptime = \"0s\"";
    let daemon = Daemon::start(&exec(&address, 1, &command, keys));
    daemon.expect(&["worker killed", "pool runs as root"]);
    let worker = the_worker(&daemon, "exec");
    let mut client = Client::connect(&address);
    client.send("leave\n");
    let left = Escaped::from(&mut client);
    wait_for_close(&mut client);
    assert_eq!(the_worker(&daemon, "exec"), worker);

    let mut client = Client::connect(&address);
    client.send("stay\n");
    let [child, program] = numbers(&mut client);
    procfs::send(worker, Signal::SIGKILL);
    wait_for_end_of_group(program);
    wait_for_end(child);
    wait_for_close(&mut client);
    assert_ne!(the_worker(&daemon, "exec"), worker);
    // What an earlier connection has left behind is nobody's business.
    assert!(left.is_alive());
}

/// A command that changes all of its ids, says its number and its user, and runs on.
fn as_another_user(setup: &Setup) -> [String; 7] {
    let helper = setup.directory().join("setpriv").display().to_string();
    let copy = "cp \"$(command -v setpriv)\" \"$0\"";
    let status = Command::new("sh").args(["-c", copy, &helper]).status();
    assert!(status.is_ok_and(|status| status.success()), "copy setpriv");
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o4755)).expect("make it setuid");
    let script = "trap '' TERM; echo $$ $(id -u); while :; do sleep 1; done";
    let words = [&helper, "--reuid=1", "--regid=1", "--clear-groups", "/bin/sh", "-c", script];
    words.map(str::to_owned)
}

// The worker may not, because the program has changed all of its ids.
#[test]
fn a_program_that_its_worker_may_not_kill_is_ended_by_the_master() {
    if !provided(is_root(), "root") {
        return;
    }
    let setup = Setup::new();
    let address = Address::fresh();
    let command = as_another_user(&setup);
    let keys = "user = \"nobody\"\nkill_timeout = \"200ms\"\nmin_uptime = \"0s\"";
    let daemon =
        setup.config(&exec(&address, 1, &command.each_ref().map(String::as_str), keys)).start();
    daemon.expect(&["worker exited"]);
    let worker = the_worker(&daemon, "exec");
    let mut client = Client::connect(&address);
    let [program, user] = numbers(&mut client);
    assert_eq!(user, 1, "it has not changed its user");
    abort(client);
    let end = daemon.log().wait_for("worker exited", |event| event.pid() == worker);
    let reason = end.text("reason").unwrap_or_default();
    assert!(reason.contains("could not end program"), "{end}");
    wait_for_end_of_group(program);
    assert_ne!(the_worker(&daemon, "exec"), worker);
}

// Somebody has to end it by hand, and needs its number for that.
#[test]
fn a_program_that_the_daemon_may_not_end_is_told_by_its_number() {
    if !provided(is_root(), "root") {
        return;
    }
    let setup = Setup::new();
    let address = Address::fresh();
    let command = as_another_user(&setup);
    let daemon = setup
        .config(&exec(&address, 1, &command.each_ref().map(String::as_str), ""))
        .user(65534)
        .start();
    daemon.expect(&["worker killed", "could not end program"]);
    let worker = the_worker(&daemon, "exec");
    let mut client = Client::connect(&address);
    let [program, user] = numbers(&mut client);
    assert_eq!(user, 1, "it has not changed its user");
    procfs::send(worker, Signal::SIGKILL);
    let told = daemon.log().wait_for("could not end program", |_| true);
    procfs::send(program, Signal::SIGKILL);
    assert_eq!(told.pid(), worker, "{told}");
    let reason = told.text("reason").unwrap_or_default();
    assert!(reason.contains(&format!("process {program}:")), "{told}");
    wait_for_end_of_group(program);
}
