//! Starting, being watched, and what the status tells.

use std::fs;
use std::net::TcpListener;
use std::process::{Child, Command};

use nix::sys::signal::Signal;

use crate::lab::{Lab, shipped_address, text};
use support::client::{ask, assert_serves};
use support::daemon::example;
use support::{Address, Client, Directory, has_strace, procfs, provided, until};

on_both_suites!(
    it_is_ready_when_every_pool_accepts,
    a_pool_that_cannot_start_does_not_end_the_others,
    without_a_control_socket_it_serves_and_says_so,
    what_a_restart_cannot_mend_is_not_restarted,
    a_hung_master_is_restarted_and_an_idle_one_sleeps,
    the_status_tells_how_the_pools_are,
);

fn it_is_ready_when_every_pool_accepts(suite: &'static str) {
    let pools = (0..5).map(|pool| {
        format!(
            "[pool.p{pool}]\nlisten = \"127.0.0.1:{}\"\nservice = \"echo\"\nworkers = 30\n",
            8000 + pool
        )
    });
    let program =
        "[pool.env]\nlisten = \"127.0.0.1:8100\"\nservice.exec.command = [\"env\"]\nworkers = 1\n";
    let config = pools.chain([program.to_owned()]).collect::<String>();
    let Some(lab) = Lab::with_pools(suite, &config) else { return };
    let workers = procfs::all_children(lab.master());
    let settled = workers.into_iter().filter(|&pid| procfs::is_settled(pid)).count();
    assert_eq!(settled, 151, "workers that accept when the start is over");
    // A program has nothing by which it could speak for the service.
    let address = Address::Tcp("127.0.0.1:8100".parse().expect("an address"));
    let environment = lab.inside(|| ask(&address, ""));
    assert!(environment.contains("TCPREMOTEIP="), "{environment}");
    for name in ["NOTIFY_SOCKET", "FDSTORE", "WATCHDOG_", "LISTEN_", "INVOCATION_ID"] {
        assert!(!environment.contains(name), "{environment}");
    }
}

fn a_pool_that_cannot_start_does_not_end_the_others(suite: &'static str) {
    let Some(lab) = Lab::with_package(suite) else { return };
    lab.copy(&example("testsvc"), "/usr/local/sbin");
    let good = lab.read("/etc/preforkd/preforkd.toml");
    // However long its workers take to die, they die young.
    let bad = "[pool.bad]\nlisten = \"127.0.0.1:7001\"\nworkers = 1\nmin_uptime = \"1h\"\n\
               service.die_at_start.code = 3\n";
    lab.configure(&format!("{good}{bad}"));
    lab.edit("[Service]\nExecStart=\nExecStart=/usr/local/sbin/testsvc run\n");
    let start = lab.spawn("systemctl restart preforkd");
    let reason = "could not start pool \"bad\": its worker exited with code 3";
    lab.wait_for("StatusText", |status| status.contains(reason));
    let master = lab.master();
    // Nothing ends the start: no time-out, also not after what makes systemd forget
    // those that were asked for.
    lab.sh("systemctl daemon-reload");
    assert_eq!(lab.show("TimeoutStartUSec"), "infinity");
    assert_eq!(lab.show("ActiveState"), "activating");
    assert!(!start.is_finished(), "it waits for every pool");
    lab.inside(|| assert_serves(&shipped_address()));

    // A reload that does not mend it does not hide it, and one that does ends it.
    lab.configure(&format!("{}{bad}", good.replace("workers = 4", "workers = 5")));
    lab.sh("preforkd reload");
    lab.wait_for("StatusText", |status| status.contains("5 idle"));
    assert!(lab.show("StatusText").contains(reason), "{}", lab.show("StatusText"));
    assert!(!start.is_finished());
    lab.configure(&good);
    lab.sh("preforkd reload");
    assert_eq!(start.join().expect("the start").code, 0);
    assert_eq!((lab.show("ActiveState"), lab.show("NRestarts")), ("active".into(), "0".into()));
    assert_eq!(lab.master(), master);
}

fn without_a_control_socket_it_serves_and_says_so(suite: &'static str) {
    let Some(lab) = Lab::with_package(suite) else { return };
    lab.sh("systemctl stop preforkd; mkdir -p /run/preforkd/control.sock");
    lab.sh("systemctl start preforkd");
    lab.inside(|| assert_serves(&shipped_address()));
    lab.wait_for_entry("could not take commands", "-p warning");
    // The reload is done; that nobody answers for it is told.
    lab.configure("[pool.echo]\nlisten = \"127.0.0.1:7007\"\nservice = \"echo\"\nworkers = 6\n");
    assert_ne!(lab.try_sh("systemctl reload preforkd").code, 0);
    lab.wait_for_idle(6);
    assert_eq!(lab.show("ActiveState"), "active");
}

fn what_a_restart_cannot_mend_is_not_restarted(suite: &'static str) {
    let Some(lab) = Lab::with_package(suite) else { return };
    let good = lab.read("/etc/preforkd/preforkd.toml");
    // The file ends in the table of its only pool.
    let other_user = format!("{good}user = \"nobody\"\n");
    for (config, code) in [("[pool", "78"), (other_user.as_str(), "77")] {
        lab.configure(config);
        assert_ne!(lab.try_sh("systemctl restart preforkd").code, 0);
        assert_eq!(
            (lab.show("ExecMainStatus"), lab.show("ActiveState")),
            (code.into(), "failed".into())
        );
        assert_eq!(lab.show("NRestarts"), "0");
    }
    lab.sh("rm /etc/preforkd/preforkd.toml");
    assert_ne!(lab.try_sh("systemctl restart preforkd").code, 0);
    assert_eq!((lab.show("ExecMainStatus"), lab.show("NRestarts")), ("66".into(), "0".into()));

    // An address in use may be free in a moment: it is tried again, more often
    // than the start limit of five would let it. systemd lets go of what it kept
    // when it comes to it.
    lab.configure(&good);
    let occupant =
        until("the address is free", || lab.inside(|| TcpListener::bind("127.0.0.1:7007")).ok());
    assert_ne!(lab.try_sh("systemctl restart preforkd").code, 0);
    lab.wait_for("NRestarts", |count| count.parse::<u32>().is_ok_and(|count| count > 5));
    lab.wait_for("ExecMainStatus", |code| code == "73");
    drop(occupant);
    lab.wait_for("ActiveState", |state| state == "active");
    lab.inside(|| assert_serves(&shipped_address()));
}

fn a_hung_master_is_restarted_and_an_idle_one_sleeps(suite: &'static str) {
    let Some(lab) = Lab::with_package(suite) else { return };
    if !provided(has_strace(), "strace") {
        return;
    }
    // It need not be on time while it is traced, which slows it down.
    lab.sh("systemctl service-watchdogs off");
    // A ping every two seconds: the status, which follows a change within one,
    // has nothing to wait for.
    lab.edit("[Service]\nWatchdogSec=4s\nWatchdogSignal=KILL\n");
    lab.sh("systemctl restart preforkd");
    lab.wait_for_idle(4);
    let master = lab.master();
    // From the second ping on, when nothing of the start is left to be told.
    let calls = calls_until(master, |line| line.contains("WATCHDOG=1"), 4);
    let pings: Vec<_> = (0..calls.len()).filter(|&at| calls[at].contains("WATCHDOG=1")).collect();
    for pair in pings[1..].windows(2) {
        let between = &calls[pair[0]..pair[1]];
        let waits = between.iter().filter(|call| call.starts_with("ppoll(")).count();
        assert_eq!(waits, 1, "an idle master wakes for its ping alone: {between:#?}");
    }
    assert_eq!(lab.master(), master, "an idle master is alive");

    procfs::send(master, Signal::SIGSTOP);
    lab.sh("systemctl service-watchdogs on");
    lab.wait_for("NRestarts", |count| count != "0");
    lab.wait_for("ActiveState", |state| state == "active");
    assert_ne!(lab.master(), master);
    lab.inside(|| assert_serves(&shipped_address()));
    let told = lab.sh("journalctl --sync; journalctl --no-pager -u preforkd");
    assert!(told.contains("Watchdog timeout"), "{told}");
}

/// The system calls of a process until so many of them are `wanted`.
#[track_caller]
fn calls_until(pid: i32, wanted: impl Fn(&str) -> bool, count: usize) -> Vec<String> {
    let directory = Directory::new();
    let trace = directory.join("trace");
    let mut strace = Command::new("strace");
    strace.args(["-qq", "-o", &trace.display().to_string(), "-p", &pid.to_string()]);
    let _strace = Strace(strace.spawn().expect("run strace"));
    until("the system calls of the master", || {
        let text = fs::read_to_string(&trace).unwrap_or_default();
        let calls: Vec<_> = text.lines().map(str::to_owned).collect();
        (calls.iter().filter(|call| wanted(call)).count() >= count).then_some(calls)
    })
}

/// A process of strace, which at its end lets go of whom it traces.
struct Strace(Child);

impl Drop for Strace {
    fn drop(&mut self) {
        procfs::send_if_there(self.0.id() as i32, Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

fn the_status_tells_how_the_pools_are(suite: &'static str) {
    let config = "
        [log]
        level = \"debug\"
        [pool.echo]
        listen = \"127.0.0.1:7007\"
        service = \"echo\"
        workers = 3
        [pool.weak]
        listen = \"127.0.0.1:7008\"
        service = \"echo\"
        workers = 1
        min_uptime = \"1h\"
    ";
    let Some(lab) = Lab::with_pools(suite, config) else { return };
    let status = |wanted: [&str; 4]| {
        lab.wait_for("StatusText", |status| wanted.iter().all(|part| status.contains(part)));
    };
    status(["2 pools", "0 workers busy", "4 idle", "0 slots throttled"]);
    let mut client = lab.inside(|| Client::connect(&shipped_address()));
    client.ping("hello");
    // The master sleeps, and is woken by whatever comes next.
    procfs::send(lab.master(), Signal::SIGUSR1);
    status(["2 pools", "1 worker busy", "3 idle", "0 slots throttled"]);

    // The worker of the second pool dies young until its slot backs off for long.
    let weak = Address::Tcp("127.0.0.1:7008".parse().expect("an address"));
    let all = lab.workers();
    let started = lab.wait_for_entry("worker started", "POOL=weak");
    let victim = text(&started, "WORKER_PID").parse().expect("a pid");
    let victim = lab.host_pid(victim).expect("a worker");
    drop(client);
    procfs::send(victim, Signal::SIGKILL);
    until("a slot backs off", || {
        let new: Vec<_> = lab.workers().into_iter().filter(|pid| !all.contains(pid)).collect();
        new.iter().for_each(|&pid| procfs::send_if_there(pid, Signal::SIGKILL));
        lab.show("StatusText").contains("1 slot throttled").then_some(())
    });
    // It recovers by itself.
    lab.inside(|| assert_serves(&weak));
}
