//! The story in the journal: every event a native entry, found by its fields and
//! explained by the catalog.

use std::collections::{BTreeMap, BTreeSet};

use nix::sys::signal::Signal;

use crate::lab::{Lab, text};
use support::client::ask;
use support::daemon::example;
use support::{Address, Client, procfs, until};

on_both_suites!(
    a_crash_is_told_in_one_line_and_explained,
    programs_speak_for_themselves,
    workers_speak_for_themselves,
    every_event_is_a_native_entry,
);

const CATALOG: &str = include_str!("../../packaging/catalog/preforkd.catalog");

fn tcp(port: u16) -> Address {
    Address::Tcp(format!("127.0.0.1:{port}").parse().expect("an address"))
}

fn inner(pid: i32) -> String {
    procfs::inner_pid(pid).expect("its number in the container").to_string()
}

/// The id of each event.
fn ids() -> BTreeMap<&'static str, &'static str> {
    let entries = CATALOG.split("# event: ").skip(1);
    entries
        .map(|entry| {
            let mut lines = entry.lines();
            let event = lines.next().expect("an event");
            (event, lines.next().and_then(|line| line.strip_prefix("-- ")).expect("an id"))
        })
        .collect()
}

fn a_crash_is_told_in_one_line_and_explained(suite: &'static str) {
    let Some(lab) = Lab::with_package(suite) else { return };
    let workers = lab.wait_for_idle(4);
    let address = crate::lab::shipped_address();
    assert_eq!(lab.inside(|| ask(&address, "hello")), "hello");
    let victim = inner(workers[0]);
    procfs::send(workers[0], Signal::SIGSEGV);
    let entry = lab.wait_for_entry("worker killed", "EXIT_SIGNAL=SIGSEGV POOL=echo -p err");
    let expected = [
        ("WORKER_PID", victim.as_str()),
        ("POOL", "echo"),
        ("EXIT_SIGNAL", "SIGSEGV"),
        ("CAUSE", "crashed"),
        ("GENERATION", "1"),
        ("PRIORITY", "3"),
        ("SYSLOG_IDENTIFIER", "preforkd"),
        ("MESSAGE_ID", ids()["worker killed"]),
        ("_PID", &lab.show("MainPID")),
        ("_SYSTEMD_UNIT", "preforkd.service"),
    ];
    for (field, value) in expected {
        assert_eq!(text(&entry, field), value, "{field} of {entry}");
    }
    for field in ["SLOT", "UPTIME_MS", "SERVED", "CPU_MS", "MAX_RSS_KIB"] {
        assert!(text(&entry, field).parse::<u64>().is_ok(), "{field} of {entry}");
    }
    assert!(["true", "false"].contains(&text(&entry, "CORE_DUMPED")), "{entry}");
    // Nobody needs a second line.
    let message = text(&entry, "MESSAGE");
    for part in ["echo", "SIGSEGV", "crashed", victim.as_str(), "served", "uptime_ms"] {
        assert!(message.contains(part), "{message}");
    }
    let told = lab.sh("journalctl --no-pager -x -u preforkd EXIT_SIGNAL=SIGSEGV");
    let subject = format!("Subject: Worker {victim} of pool echo was killed by SIGSEGV (crashed)");
    assert!(told.contains(&subject), "{told}");
    assert!(told.contains("coredumpctl info"), "{told}");

    // One that a person kills is told apart.
    let victim = *lab.wait_for_idle(4).last().expect("a worker");
    let number = inner(victim);
    procfs::send(victim, Signal::SIGKILL);
    let entry = lab.wait_for_entry("worker killed", &format!("WORKER_PID={number}"));
    assert_eq!((text(&entry, "CAUSE"), text(&entry, "EXIT_SIGNAL")), ("killed", "SIGKILL"));
    lab.wait_for_idle(4);
}

/// A pool that runs, for each connection, the first line that the client sends.
const SHELL: &str = "
    [log]
    level = \"debug\"
    [pool.shell]
    listen = \"127.0.0.1:7001\"
    service.exec.command = [\"/bin/sh\", \"-c\", 'read -r line; eval \"$line\"']
    workers = 1
    kill_timeout = \"300ms\"
";

fn programs_speak_for_themselves(suite: &'static str) {
    let Some(lab) = Lab::with_pools(suite, SHELL) else { return };
    let run = |line: &str| lab.inside(|| ask(&tcp(7001), &format!("{line}\n")));

    let pid = run("echo $$; echo first of two >&2; echo second of two >&2; exit 3");
    let pid = pid.trim();
    let lines = "SYSLOG_IDENTIFIER=preforkd/shell";
    let first = lab.wait_for_entry("first of two", lines);
    let second = lab.wait_for_entry("second of two", lines);
    for (entry, message) in [(&first, "first of two"), (&second, "second of two")] {
        assert_eq!(text(entry, "MESSAGE"), message);
        assert_eq!(text(entry, "SYSLOG_PID"), pid, "{entry}");
        assert_eq!((text(entry, "POOL"), text(entry, "PROGRAM_PID")), ("shell", pid), "{entry}");
    }
    let exited = lab.wait_for_entry("program exited", &format!("PROGRAM_PID={pid}"));
    for (field, value) in
        [("EXIT_CODE", "3"), ("PRIORITY", "4"), ("POOL", "shell"), ("PROGRAM", "/bin/sh")]
    {
        assert_eq!(text(&exited, field), value, "{field} of {exited}");
    }
    assert!(text(&exited, "PEER").starts_with("127."), "{exited}");

    // A line of 48 KiB is one entry, and one more byte begins a second.
    const LINE: usize = 48 * 1024;
    run(&format!("printf %0{LINE}d 0 >&2; echo >&2; echo short >&2"));
    lab.wait_for_entry("short", lines);
    let zeros: Vec<_> = lab.journal(lines);
    let lengths: Vec<_> = zeros
        .iter()
        .map(|entry| text(entry, "MESSAGE"))
        .filter(|message| message.starts_with("0000"))
        .map(str::len)
        .collect();
    assert_eq!(lengths, [LINE]);

    let pid = run("echo $$; kill -ABRT $$");
    let killed = lab.wait_for_entry("program killed", &format!("PROGRAM_PID={}", pid.trim()));
    assert_eq!(text(&killed, "EXIT_SIGNAL"), "SIGABRT", "{killed}");

    let pid = run("echo $$; exit 0");
    let well = lab.wait_for_entry("program exited", &format!("PROGRAM_PID={}", pid.trim()));
    assert_eq!((text(&well, "EXIT_CODE"), text(&well, "PRIORITY")), ("0", "7"), "{well}");
}

// The standard error of a worker itself, as an embedding program may use it.
fn workers_speak_for_themselves(suite: &'static str) {
    let Some(lab) = Lab::with_package(suite) else { return };
    lab.copy(&example("testsvc"), "/usr/local/sbin");
    lab.configure("[pool.own]\nlisten = \"127.0.0.1:7001\"\nservice = \"command\"\nworkers = 2\n");
    lab.edit("[Service]\nExecStart=\nExecStart=/usr/local/sbin/testsvc run\n");
    lab.sh("systemctl restart preforkd");
    const LINE: usize = 48 * 1024;
    let pid = lab.inside(|| ask(&tcp(7001), &format!("complain {LINE}\n")));
    let of_worker = format!("SYSLOG_IDENTIFIER=preforkd/own _PID={}", pid.trim());
    lab.wait_for_entry("a short line", &of_worker);
    let lines = lab.journal(&of_worker);
    let lengths: Vec<_> = lines.iter().map(|entry| text(entry, "MESSAGE").len()).collect();
    assert_eq!(lengths, [LINE, "a short line".len()], "whole lines");
}

fn every_event_is_a_native_entry(suite: &'static str) {
    let config = format!(
        "{SHELL}
        deny = [\"127.0.0.66\"]
        [pool.slow]
        listen = \"127.0.0.1:7002\"
        service = \"echo\"
        workers = 1
        request_timeout = \"500ms\"
        [pool.weak]
        listen = \"127.0.0.1:7003\"
        service = \"echo\"
        workers = 1
        min_uptime = \"1h\"
        max_requests = 1
        max_requests_jitter = \"0%\"
        "
    );
    let Some(lab) = Lab::with_pools(suite, &config) else { return };
    lab.wait_for_idle(3);
    let mut seen = BTreeSet::new();
    let mut expect = |event: &'static str, fields: &str| {
        let entry = lab.wait_for_entry(event, fields);
        assert_eq!(text(&entry, "MESSAGE_ID"), ids()[event], "{entry}");
        seen.insert(event);
        entry
    };
    expect("listening", "POOL=slow ADDRESS=127.0.0.1:7002");
    expect("ready", "POOLS=3 WORKERS=3");
    expect("worker started", "POOL=slow SLOT=0 GENERATION=1");
    expect("phase changed", "PRIORITY=7");

    // Clients: one that is slow, one that is refused, one that leaves its program.
    let slow = lab.inside(|| Client::connect(&tcp(7002)));
    let entry = expect("worker timed out", "POOL=slow SLOT=0 PRIORITY=4");
    assert!(text(&entry, "PEER").starts_with("127.0.0.1:"), "{entry}");
    assert!(text(&entry, "ELAPSED_MS").parse::<u64>().is_ok_and(|ms| ms >= 500), "{entry}");
    drop(slow);
    lab.inside(|| {
        let from = std::net::Ipv4Addr::new(127, 0, 0, 66);
        Client::try_connect_from(from, &tcp(7001)).expect("connect").rest()
    });
    let entry = expect("client refused", "POOL=shell");
    assert!(text(&entry, "PEER").starts_with("127.0.0.66:"), "{entry}");
    let mut leaver = lab.inside(|| Client::connect(&tcp(7001)));
    leaver.send("trap '' TERM; echo here and there; sleep 60\n");
    leaver.expect("here");
    // What it has not read makes its leaving more than the end of what it sends.
    drop(leaver);
    expect("program outlives its client", "POOL=shell");
    expect("program killed", "POOL=shell EXIT_SIGNAL=SIGKILL");
    lab.inside(|| ask(&tcp(7001), "echo lines >&2; exit 1\n"));
    expect("program exited", "POOL=shell EXIT_CODE=1");
    let entry = lab.wait_for_entry("lines", "SYSLOG_IDENTIFIER=preforkd/shell");
    assert_eq!(text(&entry, "MESSAGE_ID"), ids()["program stderr"], "{entry}");

    // Workers: one is recycled, others die young.
    lab.inside(|| ask(&tcp(7003), "one connection"));
    let entry = expect("worker exited", "POOL=weak CAUSE=recycled");
    assert_eq!((text(&entry, "EXIT_CODE"), text(&entry, "PRIORITY")), ("0", "6"), "{entry}");
    until("a slot backs off", || {
        let started = lab.journal(&format!("POOL=weak MESSAGE_ID={}", ids()["worker started"]));
        let newest = text(started.last()?, "WORKER_PID").parse().ok()?;
        if let Some(pid) = lab.host_pid(newest) {
            procfs::send_if_there(pid, Signal::SIGKILL);
        }
        (!lab.journal(&format!("MESSAGE_ID={}", ids()["respawn throttled"])).is_empty())
            .then_some(())
    });
    let entry = expect("respawn throttled", "POOL=weak SLOT=0 PRIORITY=3");
    assert!(
        text(&entry, "DELAY_MS").parse::<u64>().is_ok() && !text(&entry, "DEATHS").is_empty(),
        "{entry}"
    );
    expect("worker killed", "POOL=weak CAUSE=killed");

    // The daemon.
    lab.sh("systemctl kill --kill-whom main --signal TTIN preforkd");
    expect("scaled", "WORKERS=6");
    lab.sh("systemctl kill --kill-whom main --signal USR1 preforkd");
    expect("log reopened", "PRIORITY=6");
    lab.sh("systemctl reload preforkd");
    let entry = expect("reloaded", "GENERATION=2");
    assert_eq!(text(&entry, "RESIZED"), "shell slow weak", "{entry}");
    lab.configure("[pool");
    assert_ne!(lab.try_sh("systemctl reload preforkd").code, 0);
    expect("reload failed", "PRIORITY=3");
    let mut client = lab.inside(|| Client::connect(&tcp(7001)));
    client.send("echo here and now; sleep 60\n");
    client.expect("here and now\n");
    let (master, number) = (lab.master(), lab.show("MainPID"));
    let of_master = format!("_PID={number} CAUSE=SIGTERM");
    let stop = lab.spawn("systemctl stop preforkd");
    expect("stopping", &of_master);
    procfs::send(master, Signal::SIGTERM);
    expect("stop escalated", &format!("{of_master} PRIORITY=4"));
    drop(client);
    assert_eq!(stop.join().expect("the stop").code, 0);
    expect("stopped", &of_master);
    let count = seen.len();
    assert!(count >= 18, "{count}: {seen:?}");

    // Nothing of the daemon went another way: each entry has the id of its event.
    let ids = ids();
    for entry in lab.journal("SYSLOG_IDENTIFIER=preforkd") {
        if text(&entry, "_TRANSPORT") != "journal" {
            continue;
        }
        let message = text(&entry, "MESSAGE");
        let event = ids
            .iter()
            .filter(|(event, _)| message.starts_with(**event))
            .max_by_key(|(e, _)| e.len());
        let (_, id) = event.unwrap_or_else(|| panic!("no event of {message:?}"));
        assert_eq!(text(&entry, "MESSAGE_ID"), *id, "{message}");
    }
}
