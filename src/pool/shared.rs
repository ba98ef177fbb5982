//! What the workers of all pools have in common.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;

use nix::unistd::{Pid, getpid};
use slog::Logger;

use crate::listener;
use crate::log::sink::Sink;

use crate::scoreboard::Scoreboard;

use super::arrivals::Arrivals;
use super::oom_kills::OomKills;

/// What every fork needs beside the pool.
pub struct Shared {
    /// The scoreboard.
    pub scoreboard: Scoreboard,
    /// What takes the place of the listener in a worker that retires.
    pub dead: OwnedFd,
    /// The workers that have got as far as accepting.
    pub arrivals: Arrivals,
    /// The log.
    pub log: Logger,
    /// Where it goes.
    pub sink: Sink,
    /// The configuration epoch.
    pub generation: u64,
    /// The kernel's kills for want of memory.
    pub oom_kills: OomKills,
    /// The pid of this process.
    pub master: Pid,
}

impl Shared {
    /// What the first generation has in common.
    pub fn new(log: Logger, sink: Sink) -> io::Result<Self> {
        Ok(Shared {
            scoreboard: Scoreboard::new()?,
            dead: listener::dead()?,
            arrivals: Arrivals::new()?,
            log,
            sink,
            generation: 1,
            oom_kills: OomKills::of_this_process(),
            master: getpid(),
        })
    }
}
