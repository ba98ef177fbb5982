//! The harness: the real binary in a private directory, seen from outside.
//!
//! A test starts its daemon with [`Daemon::start`], learns what happens from
//! the daemon's log, looks at processes through `/proc`, and ends by dropping
//! the daemon: that stops it and checks that nothing is left and that the log
//! holds no warning that the test did not announce.

pub mod address;
pub mod client;
pub mod command;
pub mod daemon;
pub mod directory;
pub mod guide;
pub mod load;
pub mod log;
pub mod procfs;
pub mod random;
pub mod skipped;
pub mod source;
pub mod words;

pub use address::Address;
pub use client::Client;
pub use daemon::{Daemon, Setup};
pub use directory::Directory;
pub use load::Load;
pub use log::{Event, Log};

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take. Far more than it does take: the machine may be
/// busy, and a bound is there to end a test that hangs, not to measure.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// Asks `probe` until it has an answer.
///
/// For facts that no event tells, such as the system call that a process
/// sleeps in.
///
/// # Panics
///
/// When [`PATIENCE`] ends before there is one.
#[track_caller]
pub fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = probe() {
            return answer;
        }
        assert!(Instant::now() < end, "waited {PATIENCE:?} in vain: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// True if the test can go on, because `it_can`. Otherwise says on stderr why
/// the test is skipped, and notes it for the end of `cargo test`.
///
/// # Panics
///
/// In CI, where every test has to run.
#[track_caller]
pub fn provided(it_can: bool, need: &str) -> bool {
    if !it_can {
        let ci = std::env::var("CI").is_ok_and(|value| value == "true");
        assert!(!ci, "this test needs {need}, and CI has to run it");
        eprintln!("skipped: this test needs {need}");
        skipped::note(need);
    }
    it_can
}

/// Whether the tests run as root.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Whether strace(1) is there and may trace.
pub fn has_strace() -> bool {
    let tool = Command::new("strace").args(["-o", "/dev/null", "true"]).status();
    tool.is_ok_and(|status| status.success())
}

/// How much of a test is done: what takes some seconds, or all of it where the variable
/// `PREFORKD_TEST_LONG` is set.
pub fn extent(short: usize, long: usize) -> usize {
    if std::env::var_os("PREFORKD_TEST_LONG").is_some() { long } else { short }
}
