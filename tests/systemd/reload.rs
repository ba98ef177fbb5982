//! `systemctl reload`.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use nix::libc;

use crate::lab::{Lab, shipped_address, text};
use support::client::assert_serves;
use support::{procfs, until};

on_both_suites!(
    it_returns_when_the_new_generation_accepts,
    it_waits_for_a_master_that_is_busy,
    a_new_size_keeps_the_other_workers,
    a_bad_file_makes_it_fail_and_changes_nothing,
    what_only_the_daemon_finds_makes_it_fail_too,
    the_command_tells_the_reason_on_the_terminal,
);

const ECHO: &str = "[pool.echo]\nlisten = \"127.0.0.1:7007\"\nservice = \"echo\"\n";

fn set(workers: &[i32]) -> BTreeSet<i32> {
    workers.iter().copied().collect()
}

fn it_returns_when_the_new_generation_accepts(suite: &'static str) {
    let Some(lab) = Lab::with_pools(suite, &format!("{ECHO}workers = 60\n")) else { return };
    let old = set(&lab.wait_for_idle(60));
    for round in 1..=3 {
        lab.configure(&format!("{ECHO}workers = 60\nenv.ROUND = \"{round}\"\n"));
        lab.sh("systemctl reload preforkd");
        // No waiting here: they accept by now. The old ones are on their way.
        let workers = procfs::all_children(lab.master()).into_iter();
        let new = workers.filter(|pid| !old.contains(pid) && procfs::is_settled(*pid)).count();
        assert!(new >= 60, "round {round}: {new} new workers");
        lab.wait_for_entry("reloaded", &format!("GENERATION={}", round + 1));
    }
    lab.wait_for_idle(60);
    let reloaded = lab.journal("GENERATION=2 + GENERATION=3 + GENERATION=4");
    let reloaded = reloaded.iter().filter(|entry| text(entry, "MESSAGE").starts_with("reloaded"));
    assert_eq!(reloaded.count(), 3);
}

fn it_waits_for_a_master_that_is_busy(suite: &'static str) {
    let Some(lab) = Lab::with_pools(suite, &format!("{ECHO}workers = 2\n")) else { return };
    // A master that is held pings no watchdog.
    lab.edit("[Service]\nWatchdogSec=0\n");
    lab.sh("systemctl restart preforkd");
    lab.wait_for_idle(2);
    lab.configure(&format!("{ECHO}workers = 5\n"));
    // For far longer than what the reload runs beside the signal takes.
    let master = Held::new(lab.master());
    let reload = lab.spawn("systemctl reload preforkd");
    lab.wait_for("ActiveState", |state| state == "reloading");
    thread::sleep(Duration::from_secs(1));
    assert!(!reload.is_finished(), "it did not wait");
    drop(master);
    assert_eq!(reload.join().expect("the reload").code, 0);
    assert_eq!(lab.workers().len(), 5);
    lab.wait_for("ActiveState", |state| state == "active");
}

/// A process that is held by a debugger. SIGSTOP would not do: systemd sends SIGCONT
/// along with the signal for a reload.
struct Held(i32);

impl Held {
    #[track_caller]
    fn new(pid: i32) -> Self {
        let held = Held(pid);
        held.request(libc::PTRACE_SEIZE);
        held.request(libc::PTRACE_INTERRUPT);
        until("the process is held", || (procfs::Process::of(pid)?.state == 't').then_some(()));
        held
    }

    fn request(&self, request: u32) {
        let none = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: ptrace(2) takes no address or data for these requests, but options
        // and a signal, which are none.
        let done = unsafe { libc::ptrace(request, self.0, none, none) };
        assert_eq!(done, 0, "hold process {}: {}", self.0, std::io::Error::last_os_error());
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.request(libc::PTRACE_DETACH);
    }
}

fn a_new_size_keeps_the_other_workers(suite: &'static str) {
    let Some(lab) = Lab::with_package(suite) else { return };
    let old = set(&lab.wait_for_idle(4));
    let file = "/etc/preforkd/preforkd.toml";
    let shipped = lab.read(file);
    lab.configure(&shipped.replace("workers = 4", "workers = 6"));
    lab.sh("systemctl reload preforkd");
    let new = set(&lab.wait_for_idle(6));
    assert!(old.is_subset(&new), "{old:?} {new:?}");
    lab.configure(&shipped.replace("workers = 4", "workers = 2"));
    lab.sh("systemctl reload preforkd");
    let few = set(&lab.wait_for_idle(2));
    assert!(few.is_subset(&old), "{few:?} {old:?}");
}

fn a_bad_file_makes_it_fail_and_changes_nothing(suite: &'static str) {
    let Some(lab) = Lab::with_package(suite) else { return };
    let old = lab.wait_for_idle(4);
    let good = lab.read("/etc/preforkd/preforkd.toml");
    lab.configure(&format!("{good}\nwokers = 5\n"));
    let said = lab.try_sh("systemctl reload preforkd");
    assert_ne!(said.code, 0, "it succeeded");
    assert!(said.err.contains("journalctl -xeu preforkd.service"), "{}", said.err);
    // What that command shows, and the status.
    let fault = "unknown key \"wokers\" in pool.echo";
    for command in
        ["journalctl --sync; journalctl --no-pager -xu preforkd", "systemctl status preforkd"]
    {
        let told = lab.try_sh(command).out;
        assert!(told.contains(fault), "{command}: {told}");
    }
    let entry = lab.wait_for_entry("reload failed", "-p err");
    assert!(text(&entry, "REASON").contains(fault), "{entry}");
    assert!(lab.show("StatusText").contains(fault), "the status");
    assert_eq!(lab.wait_for_idle(4), old, "the old workers serve on");
    assert_eq!(lab.show("ActiveState"), "active");
    lab.inside(|| assert_serves(&shipped_address()));

    lab.configure(&good);
    lab.sh("systemctl reload preforkd");
    assert_eq!(lab.wait_for_idle(4), old);
    lab.wait_for("StatusText", |status| !status.contains(fault));
}

// An address in use and workers that do not start are nothing that `check` could
// see: the daemon itself has to say so.
fn what_only_the_daemon_finds_makes_it_fail_too(suite: &'static str) {
    let Some(lab) = Lab::with_pools(suite, &format!("{ECHO}workers = 4\n")) else { return };
    let old = lab.wait_for_idle(4);
    let _occupant = lab.inside(|| std::net::TcpListener::bind("127.0.0.1:7008").expect("bind"));
    // Everybody sees that it is there, and only root may enter it.
    let nowhere = "/root";
    let bad = |rest: &str| format!("{ECHO}workers = 4\n[pool.bad]\nworkers = 1\n{rest}\n");
    for (config, reason) in [
        (
            bad("listen = \"127.0.0.1:7008\"\nservice = \"echo\""),
            "could not bind listener \"127.0.0.1:7008\": address already in use",
        ),
        (
            bad(&format!(
                "listen = \"127.0.0.1:7009\"\nservice = \"echo\"\nworking_directory = \"{nowhere}\""
            )),
            "could not start pool \"bad\": ",
        ),
    ] {
        lab.configure(&config);
        assert_ne!(lab.try_sh("systemctl reload preforkd").code, 0, "it succeeded: {reason}");
        let told = lab.try_sh("systemctl status preforkd").out;
        assert!(told.contains(reason), "{told}");
        let entry = lab.wait_for_entry("reload failed", "-p err");
        assert!(text(&entry, "REASON").contains(reason), "{entry}");
        assert_eq!(lab.wait_for_idle(4), old, "the old workers serve on");
        assert_eq!(lab.show("ActiveState"), "active");
    }
    lab.configure(&format!("{ECHO}workers = 4\n"));
    lab.sh("systemctl reload preforkd");
    assert_eq!(lab.wait_for_idle(4), old);
}

fn the_command_tells_the_reason_on_the_terminal(suite: &'static str) {
    let Some(lab) = Lab::with_package(suite) else { return };
    let old = lab.wait_for_idle(4);
    let good = lab.read("/etc/preforkd/preforkd.toml");
    lab.configure(&format!("{good}\nwokers = 5\n"));
    let said = lab.try_sh("preforkd reload");
    assert_eq!(said.code, 78, "{said:?}");
    assert!(said.err.contains("unknown key \"wokers\" in pool.echo"), "{said:?}");
    assert_eq!(lab.wait_for_idle(4), old);
    lab.configure(&good.replace("workers = 4", "workers = 5"));
    assert_eq!(lab.sh("preforkd reload"), "reloaded, generation: 2, resized: echo\n");
    lab.wait_for_idle(5);
    // It is for root and the service's own user.
    let said = lab.try_sh("setpriv --reuid nobody --clear-groups preforkd reload");
    assert_eq!(said.code, 77, "{said:?}");
    assert_eq!(lab.show("ActiveState"), "active");
}
