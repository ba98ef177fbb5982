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
use nix::sys::signal::{SigSet, Signal};
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

/// The steps to end the rest of a program.
pub struct Rest {
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
    /// It was killed.
    Killed,
}

impl Rest {
    /// The rest of a program that has just ended; by `leftovers` it is asked to end, too.
    ///
    /// # Errors
    ///
    /// This process may not ask it.
    pub fn begin(leftovers: Leftovers, kill_timeout: Duration) -> io::Result<Self> {
        reap_strays(None)?;
        if leftovers != Leftovers::Kill || !wait::has_children() {
            return Ok(Rest { stage: Stage::Waiting, asked: 0 });
        }
        let asked = Family::below_us().signal(Signal::SIGTERM, |_| true)?;
        Ok(Rest { stage: Stage::Asked(Moment::now() + kill_timeout), asked })
    }

    /// Waits until something has happened to it, or there is something to read. Says whether
    /// it is still there.
    ///
    /// # Errors
    ///
    /// This process may not kill it; or the wait has failed.
    pub fn goes_on(&mut self, pipe: Option<BorrowedFd<'_>>) -> io::Result<bool> {
        reap_strays(None)?;
        if !wait::has_children() {
            return Ok(false);
        }
        if let Stage::Asked(until) = self.stage
            && Moment::now() >= until
        {
            self.stage = Stage::Killed;
            family::kill_below_us()?;
        }
        let timeout = match self.stage {
            Stage::Asked(until) => Some(TimeSpec::from(until - Moment::now())),
            Stage::Waiting | Stage::Killed => None,
        };
        let mut written: Vec<_> =
            pipe.iter().map(|pipe| PollFd::new(*pipe, PollFlags::POLLIN)).collect();
        // The end of a child, which is blocked elsewhere, and SIGALRM end the sleep.
        match ppoll(&mut written, timeout, Some(SigSet::empty())) {
            Ok(_) | Err(Errno::EINTR) => Ok(true),
            Err(errno) => Err(errno.into()),
        }
    }
}
