//! Each system call of a worker fails once; whatever becomes of it is told, and its
//! place is not lost.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::time::Duration;

use nix::sys::signal::Signal;
use support::client::assert_serves;
use support::random::Random;
use support::{Address, Client, Daemon, Event, extent, procfs, until};

use super::injection::{Fault, Trace, Whom, all_faults, can_attach};

/// The services, as keys of a pool: one within the worker, and one with a program.
const SERVICES: [&str; 2] =
    ["service = \"echo\"\n", "service.exec = { command = [\"/bin/cat\"], stderr = \"log\" }\n"];

#[test]
fn a_worker_with_a_fault_of_any_system_call_is_explained_and_replaced() {
    if !can_attach() {
        return;
    }
    let mut random = Random::new();
    let mut faults = Vec::new();
    for service in SERVICES {
        let of_service = all_faults(&live(service, None).calls);
        assert!(of_service.len() > 30, "{} faults: {of_service:?}", of_service.len());
        faults.extend(of_service.into_iter().map(|fault| (service, fault)));
    }
    random.shuffle(&mut faults);
    let (all, mut met) = (faults.len(), 0);
    for (service, fault) in faults.iter().take(extent(12, all)) {
        met += usize::from(live(service, Some(fault)).is_hit);
    }
    eprintln!("{met} of {} faults were met, of {all} that there are", extent(12, all));
    assert!(met > 0, "no fault was met");
}

/// What a life under strace has shown.
struct Seen {
    /// How often the worker made each call.
    calls: BTreeMap<String, usize>,
    /// Whether a worker has met the fault.
    is_hit: bool,
}

/// A pool of one worker, which is traced from its birth to its end, with a fault.
#[track_caller]
fn live(service: &str, fault: Option<&Fault>) -> Seen {
    let story = fault.map_or_else(|| "no fault".to_owned(), Fault::to_string);
    eprintln!("{story}, {service}");
    let address = Address::fresh();
    // Workers that die young come back soon.
    let mut daemon = Daemon::start(&format!(
        "[log]\nlevel = \"info\"\nformat = \"json\"\n[pool.subject]\nlisten = \"{address}\"\nworkers = 1\nmin_uptime = \"0s\"\n{service}"
    ));
    // What a fault makes of a worker is up to it. What it must not leave is looked for below.
    daemon.expect_anything();
    let output = daemon.directory().join("trace");
    let mut trace = Trace::attach(daemon.pid(), Whom::Descendants, output, fault);

    // The successor is under the eyes of strace from its birth on.
    let mark = daemon.log().mark();
    procfs::send(daemon.wait_for_children(1)[0], Signal::SIGKILL);
    let born = daemon.log().wait_since(mark, "worker started", |_| true).pid();
    until("the successor accepts, or has died", || {
        (procfs::is_in_accept(born) || !procfs::is_alive(born)).then_some(())
    });
    for _ in 0..2 {
        try_it(&address);
    }
    if procfs::is_alive(born) {
        procfs::send_if_there(born, Signal::SIGTERM);
    }
    let is_its_end = |event: &Event| event.is_end() && event.pid() == born;
    let end = daemon.log().wait_count(mark, 1, "the end of the successor", is_its_end).remove(0);
    trace.detach();

    // Without the fault everything is as it was.
    daemon.wait_for_children(1);
    assert_serves(&address);
    assert_serves(&address);
    let until_the_stop = daemon.wait_for_children(1);
    let victims = trace.victims();
    let seen =
        Seen { calls: trace.counts(born), is_hit: victims.iter().any(|&pid| pid != daemon.pid()) };
    if fault.is_none() {
        assert_eq!((end.number("code"), end.number("served")), (Some(0), Some(2)), "{end}");
    }
    assert_eq!(daemon.stop().code(), Some(0), "with {story}");
    daemon.wait_for_nothing_left();
    assert_explained(&daemon, &victims, &until_the_stop);
    seen
}

/// Every worker that has met the fault has an end in the log; one that gave up has said
/// why. At this level, no line tells of a worker that the stop has ended with 0.
#[track_caller]
fn assert_explained(daemon: &Daemon, victims: &[i32], until_the_stop: &[i32]) {
    let events = daemon.log().events();
    let of = |pid: i32, fits: fn(&Event) -> bool| {
        events.iter().rev().find(move |event| event.pid() == pid && fits(event))
    };
    for &pid in victims {
        if of(pid, |event| event.message() == "worker started").is_none() {
            continue;
        }
        let Some(end) = of(pid, Event::is_end) else {
            assert!(until_the_stop.contains(&pid), "worker {pid} has no end");
            continue;
        };
        let is_told = end.number("code") == Some(0) || end.has("reason") || end.has("signal");
        assert!(is_told, "{end}");
    }
}

/// A connection that may come to grief, and must not take long about it: a fault may
/// hit the call that would have ended it.
fn try_it(address: &Address) {
    let Ok(mut client) = Client::try_connect(address) else { return };
    let _ = client.set_timeouts(Duration::from_secs(1));
    let _ = client.write_all(b"a fault");
    let _ = client.half_close();
    let _ = client.read_to_end(&mut Vec::new());
}
