//! The log over a rotation and a reload.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sys::signal::Signal;

use super::echo;
use support::client::{ask, assert_serves};
use support::log::{self, Mark};
use support::{Address, Daemon, Event, Setup, is_root, procfs, provided, until};

/// A pool whose programs write a line to stderr, which goes to the log.
fn chatty(address: &Address, log: &Path, more: &str) -> String {
    format!(
        "[log]\nformat = \"json\"\nfile = \"{}\"\n\
         [pool.chatty]\nlisten = \"{address}\"\nworkers = 4\n{more}\
         service.exec.command = [\"/bin/sh\", \"-c\", \"read n; echo number $n. >&2; echo done\"]\n",
        log.display()
    )
}

/// Renames the log, sends SIGUSR1, and waits until nobody has the old file.
#[track_caller]
fn rotate(daemon: &Daemon, log: &Path, number: usize) -> PathBuf {
    let old = log.with_extension(number.to_string());
    fs::rename(log, &old).expect("rename the log");
    daemon.signal(Signal::SIGUSR1);
    let name = old.display().to_string();
    until("all write to the new log", || {
        let mut pids = daemon.children();
        pids.push(daemon.pid());
        let has_old = |pid: &i32| procfs::descriptors(*pid).values().any(|target| *target == name);
        (log.exists() && !pids.iter().any(has_old)).then_some(())
    });
    old
}

#[test]
fn after_sigusr1_all_write_to_the_new_log_and_no_line_is_lost() {
    let address = Address::fresh();
    let setup = Setup::new();
    let log = setup.directory().join("log");
    let config = chatty(&address, &log, "");
    let daemon = setup.config(&config).launch();
    until("the daemon is ready", || {
        log::read_file(&log).iter().any(|e| e.message() == "ready").then_some(())
    });
    let enough = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|client| {
            let (address, enough) = (address.clone(), Arc::clone(&enough));
            thread::spawn(move || {
                let mut numbers = 0..;
                while numbers.start < 200 || !enough.load(Ordering::Relaxed) {
                    let number = numbers.next().expect("a number");
                    let request = format!("{}\n", client * 1_000_000 + number);
                    assert_eq!(ask(&address, &request), "done\n");
                }
                numbers.start
            })
        })
        .collect();
    let mut files = Vec::new();
    while !clients.iter().all(|client| client.is_finished()) {
        files.push(rotate(&daemon, &log, files.len()));
        enough.store(files.len() > 2, Ordering::Relaxed);
    }
    let counts = clients.into_iter().map(|client| client.join().expect("a client"));
    let counts: Vec<i32> = counts.collect();
    assert_eq!(daemon.stop().code(), Some(0));
    files.push(log);
    let text: String =
        files.iter().map(|path| fs::read_to_string(path).expect("read a log")).collect();
    let numbers = (0..)
        .zip(counts)
        .flat_map(|(client, count)| (0..count).map(move |number| client * 1_000_000 + number));
    for number in numbers {
        let line = format!("number {number}.");
        assert_eq!(text.matches(&line).count(), 1, "{line}");
    }
    let broken: Vec<_> =
        text.lines().filter(|line| Event::parse(line).level().is_empty()).collect();
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn after_sigusr1_workers_of_another_user_write_to_the_new_log_too() {
    if !provided(is_root(), "root") {
        return;
    }
    let address = Address::fresh();
    let setup = Setup::new();
    let directory = setup.directory().join("logs");
    fs::create_dir(&directory).expect("create a directory");
    // The user of the workers may not even look into it.
    fs::set_permissions(&directory, std::os::unix::fs::PermissionsExt::from_mode(0o700))
        .expect("close it");
    let log = directory.join("log");
    let daemon = setup.config(&chatty(&address, &log, "user = \"nobody\"\n")).launch();
    until("the daemon is ready", || {
        log::read_file(&log).iter().any(|e| e.message() == "ready").then_some(())
    });
    for number in 0..5 {
        assert_eq!(ask(&address, &format!("{number}\n")), "done\n");
        rotate(&daemon, &log, number);
        daemon.wait_for_children(4);
        assert_eq!(ask(&address, &format!("1{number}\n")), "done\n");
        until("the line is in the new log", || {
            let text = fs::read_to_string(&log).unwrap_or_default();
            text.contains(&format!("number 1{number}.")).then_some(())
        });
    }
}

#[test]
fn the_level_of_the_log_changes_with_a_reload() {
    let address = Address::fresh();
    let config = |level: &str| {
        format!("[log]\nformat = \"json\"\nlevel = \"{level}\"\n{}", echo("echo", &address, 2))
    };
    let daemon = Daemon::start(&config("info"));
    daemon.wait_for_children(2);
    let quiet: Mark = daemon.log().mark();
    daemon.rewrite_config(&config("error"));
    daemon.signal(Signal::SIGHUP);
    // No event tells it, by its very nature; a worker that is taken away does.
    until("the log is quiet", || {
        let mark = daemon.log().mark();
        daemon.signal(Signal::SIGTTIN);
        until("one more", || (daemon.children().len() > 2).then_some(()));
        daemon.signal(Signal::SIGTTOU);
        until("one less", || (procfs::children(daemon.pid()).len() == 2).then_some(()));
        daemon.log().since(mark).is_empty().then_some(())
    });
    daemon.rewrite_config(&config("info"));
    daemon.signal(Signal::SIGHUP);
    daemon.log().wait_since(quiet, "reloaded", |_| true);
    assert_serves(&address);
}
