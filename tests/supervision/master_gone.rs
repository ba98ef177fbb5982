//! A master that is killed, and one that is the init of its namespace.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use nix::libc;
use nix::sys::signal::Signal;

use super::echo;
use support::client::assert_serves;
use support::{Address, Client, Daemon, Event, Setup, is_root, procfs, provided, until};

// PEERS: "the 7 outlive the master".
#[test]
fn workers_of_a_killed_master_finish_their_connection_and_go() {
    let address = Address::fresh();
    let daemon = Daemon::start(&echo(&address, 4));
    let workers = daemon.wait_for_idle("echo", 4);
    let mut clients = [Client::connect(&address), Client::connect(&address)];
    for client in &mut clients {
        client.ping("before");
    }
    daemon.signal(Signal::SIGKILL);
    assert_eq!(daemon.wait().signal(), Some(libc::SIGKILL));
    let alive = || workers.iter().filter(|&&pid| procfs::is_alive(pid)).count();
    until("the idle workers go", || (alive() == 2).then_some(()));
    for client in &mut clients {
        client.ping("after");
        client.half_close().expect("close one half");
        assert_eq!(client.rest(), "");
    }
    daemon.wait_for_nothing_left();
}

// PEERS: "the exit code of an adopted orphan stops the server" and "thousands
// of zombies when run as PID 1".
#[test]
fn as_pid_1_it_reaps_adopted_orphans_quietly() {
    if !provided(is_root(), "root, to see into the daemon") {
        return;
    }
    let mut wrapper = vec!["unshare", "--pid", "--fork", "--kill-child"];
    if !is_root() {
        wrapper.push("--map-root-user");
    }
    let tool = Command::new(wrapper[0]).args(&wrapper[1..]).arg("true").status();
    if !provided(tool.is_ok_and(|status| status.success()), "PID namespaces") {
        return;
    }
    let address = Address::fresh();
    let daemon = Setup::new().config(&echo(&address, 3)).wrapper(&wrapper).start();
    assert_eq!(procfs::inner_pid(daemon.pid()), Some(1));
    let workers = daemon.wait_for_idle("echo", 3);
    let mark = daemon.log().mark();
    // Every exit code, and some signals. The shells in between are gone when
    // the sleepers end.
    let gate = daemon.directory().write("gate", "");
    let wait = format!("while [ -e {} ]; do sleep 0.1; done", gate.display());
    let script = format!(
        "for i in $(seq 0 255); do (sh -c '{wait}; exit '$i &); done; \
         for s in TERM KILL SEGV HUP; do (sh -c '{wait}; kill -'$s' $$' &); done"
    );
    let target = daemon.pid().to_string();
    let mut enter = Command::new("nsenter");
    enter.args(["--target", &target, "--pid"]);
    if !is_root() {
        enter.args(["--user", "--preserve-credentials"]);
    }
    let status = enter.args(["--", "sh", "-c", &script]).status().expect("run nsenter");
    assert!(status.success(), "nsenter: {status}");
    until("orphans are adopted", || {
        (procfs::all_children(daemon.pid()).len() == 3 + 260).then_some(())
    });
    fs::remove_file(gate).expect("let the orphans end");
    assert_eq!(daemon.wait_for_children(3), workers);
    assert_serves(&address);
    let told = daemon.log().since(mark);
    let told: Vec<_> =
        told.iter().filter(|it| it.level() != "debug").map(Event::to_string).collect();
    assert!(told.is_empty(), "{told:#?}");
}
