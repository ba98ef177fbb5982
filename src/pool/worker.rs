//! The master's own record of a worker.
#![forbid(unsafe_code)]

use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::scoreboard::Seat;
use crate::sys::clock::Moment;

use super::cause::Asked;
use super::overdue::Watch;

/// A child that is not reaped yet, so its pid is nobody else's.
#[derive(Debug)]
pub struct Worker {
    /// Its pid.
    pub pid: Pid,
    /// Its place in the pool.
    pub slot: u32,
    /// The configuration epoch in which it was forked.
    pub generation: u64,
    pub(super) seat: Seat,
    pub(super) started: Moment,
    /// What it was asked to do, if anything.
    pub(super) asked: Option<Asked>,
    /// The master has sent SIGKILL.
    pub(super) killed: bool,
    pub(super) watch: Watch,
    pub(super) timeouts: Timeouts,
}

/// How long a worker may take, by the settings that it was forked with.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For one connection.
    pub request: Option<Duration>,
    /// From the polite signal to SIGKILL.
    pub kill: Duration,
}

impl Worker {
    /// Asks it to retire; the first reason stays.
    pub fn retire(&mut self, why: Asked) {
        if self.asked.is_none() {
            self.asked = Some(why);
            self.signal(Signal::SIGTERM);
        }
    }

    /// Kills it.
    pub fn kill(&mut self, why: Asked) {
        self.asked = Some(why);
        self.killed = true;
        self.signal(Signal::SIGKILL);
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        // ESRCH cannot be: it is our child and not reaped. EPERM could, if the
        // daemon is not root and the worker runs a setuid program in its place.
        let sent = kill(self.pid, signal);
        debug_assert!(matches!(sent, Ok(()) | Err(Errno::EPERM)), "{sent:?}");
    }
}
