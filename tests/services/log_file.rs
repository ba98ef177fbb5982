//! The log file while it is renamed under load.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::libc;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::shell;
use support::client::ask;
use support::{Address, Event, Setup, is_root, log, procfs, provided, until};

// Workers that run as somebody who may not even look into the directory of the
// log: they retire, and their successors inherit the new file.
#[test]
fn after_sigusr1_no_line_of_a_worker_of_another_user_is_lost() {
    const CLIENTS: usize = 4;
    const ROUNDS: usize = 150;
    const ROTATIONS: usize = 2;
    if !provided(is_root(), "root") {
        return;
    }
    let address = Address::fresh();
    let setup = Setup::new();
    let directory = setup.directory().join("logs");
    fs::create_dir(&directory).expect("create a directory");
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).expect("close it");
    let log = directory.join("log");
    let script = "read n; echo number $n. >&2; echo done";
    let config = format!(
        "[log]\nformat = \"json\"\nfile = \"{}\"\n{}",
        log.display(),
        shell(&address, CLIENTS, script, "user = \"nobody\"")
    );
    let daemon = setup.config(&config).launch();
    until("the daemon is ready", || {
        log::read_file(&log).iter().any(|event| event.message() == "ready").then_some(())
    });
    let first = daemon.wait_for_children(CLIENTS);
    let rotated = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (address, rotated) = (address.clone(), Arc::clone(&rotated));
            thread::spawn(move || {
                let mut numbers = Vec::new();
                while numbers.len() < ROUNDS || !rotated.load(Ordering::Relaxed) {
                    let number = client * 1_000_000 + numbers.len();
                    assert_eq!(ask(&address, &format!("{number}\n")), "done\n");
                    numbers.push(format!("number {number}."));
                }
                numbers
            })
        })
        .collect();
    let mut files = Vec::new();
    while !clients.iter().all(|client| client.is_finished()) {
        let old = log.with_extension(files.len().to_string());
        fs::rename(&log, &old).expect("rename the log");
        daemon.signal(Signal::SIGUSR1);
        let name = old.display().to_string();
        until("all write to the new log", || {
            let mut pids = daemon.children();
            pids.push(daemon.pid());
            let has_old =
                |pid: &i32| procfs::descriptors(*pid).values().any(|target| *target == name);
            (log.exists() && !pids.iter().any(has_old)).then_some(())
        });
        files.push(old);
        rotated.store(files.len() >= ROTATIONS, Ordering::Relaxed);
    }
    let mut numbers: Vec<_> =
        clients.into_iter().flat_map(|client| client.join().expect("a client")).collect();
    assert!(files.len() >= ROTATIONS, "only {} rotations", files.len());
    let last = daemon.wait_for_children(CLIENTS);
    assert!(last.iter().all(|pid| !first.contains(pid)), "they could not have opened the new file");
    assert_eq!(daemon.stop().code(), Some(0));
    files.push(log);
    let text: String =
        files.iter().map(|path| fs::read_to_string(path).expect("read a log")).collect();
    let events: Vec<_> = text.lines().map(Event::parse).collect();
    let broken: Vec<_> = events.iter().filter(|event| event.level().is_empty()).collect();
    assert!(broken.is_empty(), "{broken:#?}");
    let mut told: Vec<_> = events.iter().filter_map(|event| event.text("line")).collect();
    told.sort();
    numbers.sort();
    assert!(told == numbers, "{} lines of {}", told.len(), numbers.len());
    // They left of their own accord, for a reason that is no fault.
    for end in events.iter().filter(|event| event.is_end()) {
        assert!(!end.is_bad(), "{end}");
        assert!(matches!(end.text("cause"), Some("recycled" | "stopped")), "{end}");
    }
}

// A FIFO whose reader sleeps must make nobody wait, and neither must its successor.
#[test]
fn a_fifo_is_opened_again_so_that_no_write_waits() {
    let address = Address::fresh();
    let setup = Setup::new();
    let fifo = setup.directory().join("fifo");
    mkfifo(&fifo, Mode::S_IRWXU).expect("make a FIFO");
    let log = format!("[log]\nformat = \"json\"\nfile = \"{}\"\n", fifo.display());
    let daemon = setup.config(&(log + &shell(&address, 1, "echo done", ""))).launch();
    daemon.wait_for_children(1);
    let never_waits = |pid: i32| {
        let name = fifo.display().to_string();
        let descriptors = procfs::descriptors(pid);
        let (number, _) = descriptors.iter().find(|(_, target)| **target == name)?;
        let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).ok()?;
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?.trim();
        Some(i32::from_str_radix(flags, 8).ok()? & libc::O_NONBLOCK != 0)
    };
    for round in 0..2 {
        let pids = daemon.children().into_iter().chain([daemon.pid()]);
        for pid in pids {
            assert!(until("it has the FIFO", || never_waits(pid)), "in round {round}");
        }
        fs::rename(&fifo, fifo.with_extension("old")).expect("rename the FIFO");
        mkfifo(&fifo, Mode::S_IRWXU).expect("make a FIFO");
        daemon.signal(Signal::SIGUSR1);
    }
    assert_eq!(ask(&address, ""), "done\n");
}
