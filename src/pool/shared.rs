//! What the workers of all pools have in common.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::unistd::{Pid, getpid};
use slog::Logger;

use crate::listener;
use crate::log::sink::Sink;

use crate::scoreboard::Scoreboard;

use super::memory::OomKills;

/// What every fork needs beside the pool.
pub struct Shared {
    /// The scoreboard.
    pub scoreboard: Scoreboard,
    /// What takes the place of the listener in a worker that retires.
    pub dead: OwnedFd,
    /// Readable when a worker has got as far as accepting.
    pub ready: EventFd,
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
            ready: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
            log,
            sink,
            generation: 1,
            oom_kills: OomKills::of_this_process(),
            master: getpid(),
        })
    }
}
