//! The inheritance of every worker from the master, whatever its pool.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use nix::unistd::{Pid, getpid};
use slog::Logger;

use crate::listener;
use crate::log::sink::Sink;
use crate::scoreboard::Scoreboard;
use crate::worker::Inlet;

use super::arrivals::Arrivals;

/// The data that each fork needs in addition to the pool.
pub struct Inheritance {
    /// The scoreboard.
    pub scoreboard: Scoreboard,
    /// The file that replaces the listener in a worker that retires.
    pub dead: OwnedFd,
    /// The workers that have got as far as accepting.
    pub arrivals: Arrivals,
    /// The log.
    pub log: Logger,
    /// Where the log goes.
    pub sink: Sink,
    /// The pid of this process.
    pub master: Pid,
}

impl Inheritance {
    /// The inheritance of the workers of this process.
    pub fn new(log: Logger, sink: Sink) -> io::Result<Self> {
        // The descriptors that a worker keeps are opened first, because a worker must close
        // the gaps between them.
        Ok(Inheritance {
            dead: listener::dead()?,
            arrivals: Arrivals::new()?,
            scoreboard: Scoreboard::new()?,
            log,
            sink,
            master: getpid(),
        })
    }

    /// The descriptors above 2 that a worker with these inlets keeps, in order.
    pub fn kept(&self, inlets: &[Inlet<'_>]) -> Vec<RawFd> {
        let listeners = inlets.iter().map(|inlet| inlet.listener);
        let named = listeners.chain([self.dead.as_fd(), self.arrivals.announcer()]);
        let mut all: Vec<_> = named.map(|descriptor| descriptor.as_raw_fd()).collect();
        all.push(self.sink.number());
        all.sort_unstable();
        all
    }
}
