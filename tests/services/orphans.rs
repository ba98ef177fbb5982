//! Children of the master that are no workers: those that were there before it, what
//! programs have left, and the processes that read for them.

use std::fs;

use nix::sys::signal::Signal;

use super::{echo, shell, the_worker, wait_for_end};
use support::client::ask;
use support::{Address, Daemon, Setup, log, procfs, until};

/// Goes on until a signal comes.
const LOOP: &str = "while :; do sleep 0.05; done";

/// Processes that a start script has started before it became the daemon. They are killed
/// at the end.
struct Sidecars(Vec<i32>);

impl Drop for Sidecars {
    fn drop(&mut self) {
        self.0.iter().for_each(|&pid| procfs::send_if_there(pid, Signal::SIGKILL));
    }
}

/// The daemon of a script that first starts one process in its own group and one in a
/// session of its own.
fn start_with_sidecars(setup: Setup) -> (Daemon, Sidecars) {
    let file = setup.directory().join("sidecars");
    let script = format!(
        "sleep 1000 >/dev/null 2>&1 & echo $! >{file}\n\
         setsid sleep 1000 >/dev/null 2>&1 & echo $! >>{file}\n\
         exec \"$@\"",
        file = file.display()
    );
    let daemon = setup.wrapper(&["/bin/sh", "-c", &script, "sh"]).start();
    let text = fs::read_to_string(file).expect("the numbers");
    let pids: Vec<i32> = text.lines().map(|line| line.parse().expect("a number")).collect();
    assert_eq!(pids.len(), 2, "{text}");
    let is_apart = |pid| procfs::Process::of(pid).is_some_and(|it| it.session == pid);
    until("the second one has its session", || is_apart(pids[1]).then_some(()));
    (daemon, Sidecars(pids))
}

#[test]
fn children_from_before_the_daemon_are_not_its_own() {
    let address = Address::fresh();
    let setup = Setup::new().config(&shell(&address, 1, "echo done", ""));
    let (daemon, sidecars) = start_with_sidecars(setup);
    let are_alive = || sidecars.0.iter().all(|&pid| procfs::is_alive(pid));
    the_worker(&daemon, "exec");
    daemon.signal(Signal::SIGUSR1);
    daemon.wait_until_obeyed();
    assert_eq!(ask(&address, ""), "done\n");
    assert!(are_alive(), "after SIGUSR1");
    daemon.signal(Signal::SIGTERM);
    daemon.wait_for_code(0);
    assert!(are_alive(), "after the stop");
    drop(sidecars);
    daemon.wait_for_nothing_left();
    let events = daemon.log().events();
    let told = events.iter().find(|event| event.message().contains("leftovers"));
    assert!(told.is_none(), "{told:?}");
}

// The removed pool has taken the last program with it, but not what that has left running.
#[test]
fn a_leftover_of_a_removed_pool_follows_the_log_to_its_new_file() {
    let setup = Setup::new();
    let (address, other) = (Address::fresh(), Address::fresh());
    let (path, go) = (setup.directory().join("log"), setup.directory().join("go"));
    let keys = format!("[log]\nformat = \"json\"\nfile = \"{}\"\n", path.display());
    let late = format!("for i in $(seq 600); do [ -e {} ] && break; sleep 0.1; done", go.display());
    let script = format!("(setsid sh -c '{late}; echo late >&2' <&- >&- &); echo done");
    let daemon = setup.config(&(keys.clone() + &shell(&address, 1, &script, ""))).launch();
    daemon.wait_for_children(1);
    assert_eq!(ask(&address, ""), "done\n");
    daemon.rewrite_config(&(keys + &echo(&other, 1, "")));
    daemon.signal(Signal::SIGHUP);
    let is_told = |message| log::read_file(&path).iter().any(|event| event.message() == message);
    until("the reload is done", || is_told("reloaded").then_some(()));
    until("the worker has left", || is_told("worker exited").then_some(()));
    let old = path.with_extension("1");
    fs::rename(&path, &old).expect("rename the log");
    daemon.signal(Signal::SIGUSR1);
    let name = old.display().to_string();
    until("all write to the new file", || {
        let pids = procfs::all_children(daemon.pid()).into_iter().chain([daemon.pid()]);
        let has_old = |pid| procfs::descriptors(pid).values().any(|target| *target == name);
        (path.exists() && !pids.into_iter().any(has_old)).then_some(())
    });
    fs::write(&go, "").expect("let it go on");
    let has_line = || log::read_file(&path).iter().any(|it| it.text("line") == Some("late"));
    until("its line is in the new file", || has_line().then_some(()));
}

#[test]
fn a_leftover_that_appears_during_a_stop_is_asked_to_end_as_well() {
    let setup = Setup::new();
    let address = Address::fresh();
    let marks = setup.directory().join("asked");
    // Each is asked, and leaves the next one when it ends.
    let last =
        format!("trap 'echo last >>{0}; exit' TERM; echo ready >>{0}; {1}", marks.display(), LOOP);
    let first = format!(
        "trap 'setsid sh -c \"$0\" & until [ -s {} ]; do sleep 0.05; done; exit' TERM\n\
         echo $$; exec >&- <&-; {LOOP}",
        marks.display()
    );
    let command = ["/bin/sh", "-c", "setsid sh -c \"$0\" \"$1\" & exit", &first, &last];
    let daemon = setup.config(&super::exec(&address, 1, &command, "")).start();
    let first: i32 = ask(&address, "").trim().parse().expect("a number");
    the_worker(&daemon, "exec");
    daemon.signal(Signal::SIGTERM);
    wait_for_end(first);
    daemon.wait_for_code(0);
    let told = fs::read_to_string(marks).expect("the marks");
    assert_eq!(told, "ready\nlast\n");
}
