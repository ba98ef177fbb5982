//! The processes that a program has left running at its end, if its worker waits for them.
//!
//! The worker adopts the orphans of its programs (PR_SET_CHILD_SUBREAPER of prctl(2)), so
//! that all of it is below the worker, and nothing else is.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::stat::fstat;
use nix::sys::time::TimeSpec;
use nix::unistd::{Pid, getppid};

use crate::config::Leftovers;
use crate::service::Connection;
use crate::service::child::Ended;
use crate::sys::clock::Moment;
use crate::sys::family::{self, Family};
use crate::sys::{handler, wait};

/// From here on this process gets what its programs leave running.
pub fn adopt() -> io::Result<()> {
    set_child_subreaper(true)?;
    handler::watch_children()
}

/// Reaps the children that have ended, until there is none or `leader` is one of them.
pub fn reap_strays(leader: Option<Pid>) -> io::Result<()> {
    while let Some(pid) = wait::ended_child()? {
        if Some(pid) == leader {
            break;
        }
        wait::reap(pid)?;
    }
    Ok(())
}

/// Whether something that a program has left running may go on with its connection.
pub fn may_hold(ended: &Ended, connection: &Connection) -> bool {
    let family = Family::of_possible_holders(getppid());
    match fstat(connection.socket()) {
        Ok(socket) if !family.is_empty() => family.may_hold(socket.st_ino),
        // Without /proc only the group can be asked.
        Ok(_) | Err(_) => ended.has_left_group(),
    }
}

/// How often what was killed is looked for again, and for how long.
const AGAIN: Duration = Duration::from_millis(500);
const GIVE_UP: Duration = Duration::from_secs(10);

/// The steps to end the rest of a program.
pub struct Rest {
    /// That of the program, which has ended.
    group: Pid,
    stage: Stage,
    /// How many processes were asked to end.
    pub asked: usize,
}

/// How far the end of the rest has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It ends by itself.
    Waiting,
    /// It was asked to, and is killed then.
    Asked(Moment),
    /// It was killed. What is there then cannot be ended.
    Killed(Moment),
}

impl Rest {
    /// The rest of the program that has led `group` and has just ended; by `leftovers` it is
    /// asked to end, too.
    ///
    /// # Errors
    ///
    /// This process may not ask it.
    pub fn begin(group: Pid, leftovers: Leftovers, kill_timeout: Duration) -> io::Result<Self> {
        reap_strays(None)?;
        if leftovers != Leftovers::Kill || !wait::has_children() {
            return Ok(Rest { group, stage: Stage::Waiting, asked: 0 });
        }
        let asked = match Family::below_us().signal(Signal::SIGTERM, |_| true)? {
            // Without a /proc of our PID namespace only the group is known; it counts as one.
            0 => signal_group(group, Signal::SIGTERM)?,
            asked => asked,
        };
        Ok(Rest { group, stage: Stage::Asked(Moment::now() + kill_timeout), asked })
    }

    /// Waits until something has happened to it, or there is something to read. Says whether
    /// it is still there.
    ///
    /// # Errors
    ///
    /// This process may not kill it, or cannot; or the wait has failed.
    pub fn goes_on(&mut self, pipe: Option<BorrowedFd<'_>>) -> io::Result<bool> {
        reap_strays(None)?;
        if !wait::has_children() {
            return Ok(false);
        }
        let now = Moment::now();
        if let Stage::Asked(until) = self.stage
            && now >= until
        {
            self.stage = Stage::Killed(now + GIVE_UP);
        }
        let timeout = match self.stage {
            Stage::Waiting => None,
            Stage::Asked(until) => Some(until - now),
            Stage::Killed(until) if now >= until => return Err(io::ErrorKind::TimedOut.into()),
            Stage::Killed(_) => {
                // A process may have come to this one only now.
                family::kill_below_us()?;
                signal_group(self.group, Signal::SIGKILL)?;
                Some(AGAIN)
            }
        };
        let mut written: Vec<_> =
            pipe.iter().map(|pipe| PollFd::new(*pipe, PollFlags::POLLIN)).collect();
        // The end of a child, which is blocked elsewhere, and SIGALRM end the sleep.
        match ppoll(&mut written, timeout.map(TimeSpec::from), Some(SigSet::empty())) {
            Ok(_) | Err(Errno::EINTR) => Ok(true),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Signals a group, if a child of this process is in it. Gives how many groups got it.
fn signal_group(group: Pid, signal: Signal) -> io::Result<usize> {
    if !wait::has_children_in(group) {
        return Ok(0);
    }
    match killpg(group, signal) {
        Ok(()) => Ok(1),
        Err(Errno::ESRCH) => Ok(0),
        Err(errno) => Err(errno.into()),
    }
}

/// Whether the rest of a program could not be ended, so that its worker has to leave it to
/// the master.
pub fn is_stuck(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::EPERM as i32) || error.kind() == io::ErrorKind::TimedOut
}
