//! Each system call of the master fails once; the daemon goes on.

use std::collections::BTreeMap;
use std::path::PathBuf;

use nix::sys::signal::Signal;
use support::client::assert_serves;
use support::command::{finish, preforkd};
use support::random::Random;
use support::{Address, Daemon, Setup, extent, log, procfs, until};

use super::injection::{Fault, Trace, Whom, all_faults, can_attach};

const WORKERS: usize = 3;

#[test]
fn the_master_survives_a_fault_of_any_system_call() {
    if !can_attach() {
        return;
    }
    let mut faults = all_faults(&live(None).calls);
    assert!(faults.len() > 100, "{} faults: {faults:?}", faults.len());
    let mut random = Random::new();
    let all = faults.len();
    random.shuffle(&mut faults);
    let mut met = 0;
    for fault in faults.iter().take(extent(12, all)) {
        met += usize::from(live(Some(fault)).is_hit);
    }
    eprintln!("{met} of {} faults were met, of {all} that there are", extent(12, all));
    assert!(met > 0, "no fault was met");
}

/// What a life under strace has shown.
struct Seen {
    /// How often the master made each call.
    calls: BTreeMap<String, usize>,
    /// Whether the fault was met.
    is_hit: bool,
}

/// A daemon with all that a master deals with, which says what it went through if it
/// does not survive.
struct Subject {
    daemon: Daemon,
    address: Address,
    log: PathBuf,
    story: String,
}

impl Drop for Subject {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- with {}, its log:", self.story);
            log::read_file(&self.log).iter().for_each(|event| eprintln!("{event}"));
        }
    }
}

impl Subject {
    fn start(story: String) -> Self {
        let address = Address::fresh();
        let setup = Setup::new();
        let log = setup.directory().join("log");
        let config = config(&address, &log, 0, "");
        let daemon = setup.config(&config).launch();
        daemon.wait_for_children(WORKERS);
        Subject { daemon, address, log, story }
    }

    /// Runs `preforkd reload`, and tells whether it was done. The fault may hit the
    /// reload or the answer, but the command ends.
    #[track_caller]
    fn reload(&self, round: usize, more: &str) -> bool {
        self.daemon.rewrite_config(&config(&self.address, &self.log, round, more));
        let ended = finish(preforkd().arg("reload").arg("-c").arg(self.daemon.config_path()));
        assert!(ended.code.is_some(), "{ended:?}");
        ended.code == Some(0)
    }

    #[track_caller]
    fn signal(&self, signal: Signal) {
        self.assert_lives();
        self.daemon.signal(signal);
        until("the signal is obeyed, or the daemon is not", || {
            let is_obeyed = procfs::status(self.daemon.pid(), "ShdPnd")
                .is_some_and(|pending| pending.bytes().all(|digit| digit == b'0'));
            (is_obeyed || self.daemon.status().is_some()).then_some(())
        });
    }

    #[track_caller]
    fn assert_lives(&self) {
        let status = self.daemon.status();
        assert!(status.is_none(), "with {} the daemon ended: {status:?}", self.story);
    }

    /// The pool is at size, and serves.
    #[track_caller]
    fn assert_is_whole(&self) {
        self.assert_lives();
        self.daemon.wait_for_children(WORKERS);
        for _ in 0..WORKERS {
            assert_serves(&self.address);
        }
    }
}

/// A pool of echo workers that may be killed at will, and a log file.
fn config(address: &Address, log: &std::path::Path, round: usize, more: &str) -> String {
    format!(
        "[pool.echo]\nlisten = \"{address}\"\nworkers = {WORKERS}\nservice = \"echo\"\n\
         min_uptime = \"0s\"\nenv.ROUND = \"{round}\"\n{more}\n\
         [log]\nformat = \"json\"\nfile = \"{}\"\n",
        log.display()
    )
}

/// A life of a daemon from its start to its stop, in which the master does all that it
/// ever does, with a fault.
#[track_caller]
fn live(fault: Option<&Fault>) -> Seen {
    let story = fault.map_or_else(|| "no fault".to_owned(), Fault::to_string);
    let subject = Subject::start(story);
    let daemon = &subject.daemon;
    let directory = daemon.directory();
    let trace = Trace::attach(daemon.pid(), Whom::Itself, directory.join("trace"), fault);

    // A worker dies.
    procfs::send(daemon.children()[0], Signal::SIGKILL);
    subject.assert_is_whole();
    // A generation is renewed, and a pool is added that has a program and a Unix socket.
    let second = format!(
        "[pool.second]\nlisten = \"{}\"\nworkers = 1\nservice.exec.command = [\"/bin/cat\"]\n",
        directory.join("second.sock").display()
    );
    subject.reload(1, &second);
    for signal in [Signal::SIGUSR1, Signal::SIGTTIN, Signal::SIGTTOU, Signal::SIGHUP] {
        subject.signal(signal);
    }
    // A configuration is wrong, another cannot be applied.
    subject.reload(1, "wrong = 1\n");
    subject.reload(1, "[pool.third]\nlisten = \"192.0.2.1:7\"\nworkers = 1\nservice = \"echo\"\n");
    // The pool goes again. A second time, if the fault has hit the first: there is one.
    let is_done = subject.reload(2, "") || subject.reload(2, "");
    subject.assert_lives();
    assert!(is_done, "with {} no reload is done", subject.story);
    subject.assert_is_whole();
    procfs::send(daemon.children()[0], Signal::SIGKILL);
    subject.assert_is_whole();
    let status = daemon.stop();
    assert_eq!(status.code(), Some(0), "with {}", subject.story);
    daemon.wait_for_nothing_left();
    Seen { calls: trace.counts(0), is_hit: !trace.victims().is_empty() }
}
