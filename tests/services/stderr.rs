//! What programs write to their standard error, in the log.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Instant;

use nix::libc;

use super::{
    Escaped, assert_no_worker_ended, escape, shell, stop_and_read, the_program, the_worker,
};
use support::client::ask;
use support::log;
use support::{Address, Client, Daemon, Event, Setup, procfs, until};

/// The longest line that is kept whole.
const LINE_BYTES: usize = 48 * 1024;

fn line(event: &Event) -> &str {
    event.text("line").unwrap_or_default()
}

/// Runs this script once, and gives the lines that it wrote.
#[track_caller]
fn lines_of(script: &str) -> Vec<String> {
    let address = Address::fresh();
    let setup = Setup::new();
    // A file is never behind, as the reader of a pipe may be.
    let log = setup.directory().join("log");
    let daemon = setup.config(&to_file(&log, &shell(&address, 1, script, ""))).launch();
    daemon.wait_for_children(1);
    ask(&address, "");
    assert_eq!(daemon.stop().code(), Some(0));
    let events = log::read_file(&log);
    let is_end = |event: &Event| matches!(event.message(), "program exited" | "program killed");
    assert!(events.iter().all(|event| !event.is_bad() || is_end(event)), "{events:?}");
    whole(&events)
}

/// The configuration with a log that goes to this file.
fn to_file(log: &Path, config: &str) -> String {
    format!("[log]\nformat = \"json\"\nfile = \"{}\"\n{config}", log.display())
}

#[test]
fn a_line_is_tagged_with_its_pool_its_slot_and_the_pid_of_its_program() {
    let (one, other) = (Address::fresh(), Address::fresh());
    let script = "echo \"I am $$\" >&2; echo $$; exit 3";
    let config = shell(&one, 3, script, "")
        + &shell(&other, 3, script, "").replace("pool.exec", "pool.other");
    let daemon = Daemon::start(&config);
    daemon.expect(&["program exited"]);
    for (address, pool) in [(&one, "exec"), (&other, "other")].repeat(5) {
        let mark = daemon.log().mark();
        let pid: i32 = ask(address, "").trim().parse().expect("a process id");
        let told = daemon.log().wait_since(mark, "program stderr", |_| true);
        assert_eq!(line(&told), format!("I am {pid}"), "{told}");
        assert_eq!(told.pid(), pid, "{told}");
        assert!(told.is_of_pool(pool), "{told}");
        assert_eq!(told.text("program"), Some("/bin/sh"), "{told}");
        assert_eq!(told.level(), "info", "{told}");
        // Before the end of the program, and by the same worker.
        let end = daemon.log().wait_since(mark, "program exited", |event| event.pid() == pid);
        assert_eq!(end.number("slot"), told.number("slot"), "{told} {end}");
        let since = daemon.log().since(mark);
        let place = |message| since.iter().position(|event| event.message() == message);
        assert!(place("program stderr") < place("program exited"), "{since:?}");
    }
}

// PEERS: "a log line of a worker is cut at 1024 bytes".
#[test]
fn a_line_of_48_kib_is_whole_and_a_longer_one_is_cut() {
    let written = |bytes: usize| {
        format!("head -c {bytes} /dev/zero | tr '\\0' x >&2; echo >&2; echo end >&2")
    };
    assert_eq!(lines_of(&written(LINE_BYTES)), ["x".repeat(LINE_BYTES), "end".to_owned()]);
    assert_eq!(
        lines_of(&written(2 * LINE_BYTES + 5)),
        ["x".repeat(LINE_BYTES), "x".repeat(LINE_BYTES), "xxxxx".to_owned(), "end".to_owned()]
    );
}

#[test]
fn a_line_is_whole_however_it_is_written() {
    let script = "for part in one ' two' ' three'; do printf '%s' \"$part\" >&2; sleep 0.05; done; echo >&2; printf 'a\\n\\nb\\nc' >&2; sleep 0.05; echo d >&2";
    assert_eq!(lines_of(script), ["one two three", "a", "", "b", "cd"]);
}

#[test]
fn a_last_line_without_its_end_is_a_line() {
    assert_eq!(lines_of("printf 'first\\nno end' >&2"), ["first", "no end"]);
    assert_eq!(lines_of("printf 'no end' >&2; kill -9 $$"), ["no end"]);
}

// PEERS: "a child's last output lost, SIGCHLD handled first".
#[test]
fn the_last_words_of_a_program_that_dies_at_once_are_not_lost() {
    const COUNT: usize = 200;
    let address = Address::fresh();
    let setup = Setup::new();
    let log = setup.directory().join("log");
    let script = "read n; echo \"last words $n\" >&2; kill -9 $$";
    let daemon = setup.config(&to_file(&log, &shell(&address, 2, script, ""))).launch();
    daemon.wait_for_children(2);
    for number in 0..COUNT {
        ask(&address, &format!("{number}\n"));
    }
    assert_eq!(daemon.stop().code(), Some(0));
    let told: BTreeSet<_> = whole(&log::read_file(&log)).into_iter().collect();
    let expected: BTreeSet<_> = (0..COUNT).map(|number| format!("last words {number}")).collect();
    assert_eq!(told, expected);
}

// More than the pipe holds, and gone at once: what is in the pipe is read.
#[test]
fn a_full_pipe_is_read_to_its_end() {
    // More than ten thousand lines in ten seconds are counted and not told.
    let told = lines_of("seq 1 9000 >&2; kill -9 $$");
    let expected: Vec<_> = (1..=9000).map(|number| number.to_string()).collect();
    assert!(told == expected, "{} lines, the last {:?}", told.len(), told.last());
}

#[test]
fn what_is_no_text_harms_no_line() {
    let told = lines_of("printf 'a\\000b\\033[2Jc\\377d\\r\\n\"quoted\" \\\\ \\t.\\n' >&2");
    assert_eq!(told, ["a\0b\u{1b}[2Jc\u{fffd}d\r", "\"quoted\" \\ \t."]);
}

// The form for people must not let a client write lines of its own, nor
// control the terminal on which they are read.
#[test]
fn in_the_form_for_people_a_line_stays_a_line() {
    let address = Address::fresh();
    let setup = Setup::new();
    let log = setup.directory().join("log");
    let script = "printf 'a\\033[2J\\rworker killed\\bx\\n' >&2";
    let config = format!(
        "[log]\nformat = \"term\"\nfile = \"{}\"\n{}",
        log.display(),
        shell(&address, 1, script, "")
    );
    let daemon = setup.config(&config).launch();
    daemon.wait_for_children(1);
    ask(&address, "");
    let text = until("the line is in the log", || {
        fs::read_to_string(&log).ok().filter(|text| text.contains("program stderr"))
    });
    let line = text.lines().find(|line| line.contains("program stderr")).unwrap_or_default();
    assert!(line.contains("worker killed"), "{line:?}");
    assert!(!line.chars().any(char::is_control), "{line:?}");
}

#[test]
fn lines_of_many_programs_at_once_do_not_mix() {
    const CLIENTS: usize = 6;
    const ROUNDS: usize = 3;
    const LINES: usize = 25;
    // To a file lines of any length, to a pipe those of a page (PIPE_BUF).
    for bytes in [3000, 40_000] {
        let address = Address::fresh();
        let setup = Setup::new();
        let log = setup.directory().join("log");
        let script = format!(
            "read c; [ \"$c\" ] || exit 0; line=$(head -c {bytes} /dev/zero | tr '\\0' $c); yes $line | head -n {LINES} >&2"
        );
        let config = shell(&address, CLIENTS, &script, "");
        let is_file = bytes > 4096;
        let config = if is_file { to_file(&log, &config) } else { config };
        let daemon = setup.config(&config).launch();
        daemon.wait_for_children(CLIENTS);
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let address = address.clone();
                let letter = char::from(b'a' + client as u8);
                thread::spawn(move || {
                    for _ in 0..ROUNDS {
                        ask(&address, &format!("{letter}\n"));
                    }
                })
            })
            .collect();
        for client in clients {
            client.join().expect("a client");
        }
        daemon.wait_for_children(CLIENTS);
        daemon.expect(&["log lines lost"]);
        let events = if is_file {
            log::read_file(&log)
        } else {
            // A pipe whose reader is behind for long loses lines, and says so
            // when a worker that lost some has served its next client.
            until("all lines are told or told to be lost", || {
                ask(&address, "");
                let events = daemon.log().events();
                (whole(&events).len() + lost(&events) >= CLIENTS * ROUNDS * LINES).then_some(events)
            })
        };
        let broken: Vec<_> = events.iter().filter(|event| event.level().is_empty()).collect();
        assert!(broken.is_empty(), "{} broken lines", broken.len());
        let told = whole(&events);
        assert_eq!(told.len() + lost(&events), CLIENTS * ROUNDS * LINES);
        assert!(!is_file || lost(&events) == 0, "a file is never behind");
        for line in told {
            let letter = line.chars().next().unwrap_or('?');
            assert!(('a'..='f').contains(&letter) && line == letter.to_string().repeat(bytes));
        }
    }
}

/// The lines of programs among these events.
fn whole(events: &[Event]) -> Vec<String> {
    let told = events.iter().filter(|event| event.message() == "program stderr");
    told.map(|event| line(event).to_owned()).collect()
}

/// How many lines were lost by what these events say.
fn lost(events: &[Event]) -> usize {
    let told = events.iter().filter(|event| event.message() == "log lines lost");
    told.filter_map(|event| event.number("count")).sum::<i64>() as usize
}

#[test]
fn stderr_can_go_to_the_client_or_nowhere() {
    for (stderr, answer) in [("socket", "words\nreply\n"), ("null", "reply\n")] {
        let address = Address::fresh();
        let config = shell(&address, 1, "echo words >&2; echo reply", "");
        let daemon = Daemon::start(&format!("{config}service.exec.stderr = \"{stderr}\"\n"));
        let start = daemon.log().start();
        assert_eq!(ask(&address, ""), answer);
        let told = stop_and_read(&daemon, start);
        assert!(!told.iter().any(|event| event.message() == "program stderr"), "{told:?}");
    }
}

// Empty lines come faster than they are logged, so there is always more to
// read; the worker must still see that the client has left.
#[test]
fn a_program_that_floods_its_stderr_is_ended_when_its_client_leaves() {
    let setup = Setup::new();
    let address = Address::unix(&setup.directory().join("exec.sock"));
    let log = setup.directory().join("log");
    let config = shell(&address, 1, "exec yes '' >&2", "kill_timeout = \"100ms\"");
    let daemon = setup.config(&to_file(&log, &config)).launch();
    let worker = daemon.wait_for_children(1)[0];
    let began = Instant::now();
    let client = Client::connect(&address);
    let program = the_program(worker, "yes");
    drop(client);
    until("the program ends", || (!procfs::is_alive(program)).then_some(()));
    assert_eq!(daemon.wait_for_children(1), [worker]);
    // What a client can cause does not fill the disk.
    let lines = log::read_file(&log).len();
    // Ten thousand in each ten seconds, and a few of the daemon's own.
    let most = 10_000 * (1 + began.elapsed().as_secs() as usize / 10) + 50;
    assert!(lines <= most, "{lines} lines");
}

// It is no more the program's, but it has its end of the pipe.
#[test]
fn a_process_that_escapes_and_floods_stderr_does_not_keep_the_worker() {
    let address = Address::fresh();
    let script = escape("yes '' >&2 </dev/null");
    let mut daemon = Daemon::start(&shell(&address, 1, &script, ""));
    let worker = the_worker(&daemon, "exec");
    let mut client = Client::connect(&address);
    let _escaped = Escaped::from(&mut client);
    until("the worker lets go of what an ended program has left behind", || {
        procfs::is_in_accept(worker).then_some(())
    });
    assert_no_worker_ended(&daemon);
    daemon.expect_anything();
}

// O_NONBLOCK belongs to the open file, and a size to the pipe (F_SETFL and F_SETPIPE_SZ of
// fcntl(2)): a program that sets one must not set it for the next.
#[test]
fn each_program_has_a_standard_error_of_its_own() {
    let address = Address::fresh();
    let script = "read what; [ $what = look ] || dd if=/dev/null oflag=nonblock status=none >&2; \
                  grep flags /proc/self/fdinfo/2; readlink /proc/self/fd/2";
    let daemon = Daemon::start(&shell(&address, 1, script, ""));
    let worker = the_worker(&daemon, "exec");
    let look = |what: &str| {
        let told = ask(&address, what);
        let (flags, pipe) = told.trim().split_once('\n').expect("two lines");
        let flags = flags.split_whitespace().last().expect("the flags");
        (i32::from_str_radix(flags, 8).expect("a number"), pipe.to_owned())
    };
    let (first, other) = (look("change\n"), look("look\n"));
    assert_ne!(first.0 & libc::O_NONBLOCK, 0, "{first:?}");
    assert_eq!(other.0 & libc::O_NONBLOCK, 0, "{other:?}");
    assert_ne!(first.1, other.1);
    assert_eq!(the_worker(&daemon, "exec"), worker);
}
