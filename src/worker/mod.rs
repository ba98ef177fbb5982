//! The worker: settle after the fork, accept, serve, leave.
//!
//! [`run`] is the whole life of a child, from fork to `_exit`.
#![forbid(unsafe_code)]

mod access;
mod access_log;
mod door;
mod hand;
mod leave;
mod privileges;
mod profile;
mod quota;
mod reception;
mod serve;
mod settle;

use std::convert::Infallible;
use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use nix::unistd::Pid;
use slog::Logger;

use crate::config::Listens;
use crate::error::{Code, Error};
use crate::ledger::Entry;
use crate::scoreboard::Seat;
use crate::service::{Context, Service, panic};
use crate::sys::fork;
use crate::sys::handler::MOST_LISTENERS;
use crate::sys::identity::Terminal;

pub use profile::Profile;
pub use reception::{Ending, Inlet};

const _: () = assert!(Listens::MOST <= MOST_LISTENERS, "each has its place in the handlers");

/// The inputs of a worker at its fork. All of them are the child's copies.
pub struct Assignment<'a> {
    /// The name of its pool.
    pub pool: &'a str,
    /// Its place in the pool.
    pub slot: u32,
    /// The properties of the worker.
    pub profile: &'a Profile,
    /// The task of the worker.
    pub service: &'a mut dyn Service,
    /// The listeners on which the worker accepts.
    pub inlets: &'a [Inlet<'a>],
    /// Whether the worker may accept.
    pub entrance: Entrance,
    /// The file that replaces each listener when the worker retires.
    pub dead: BorrowedFd<'a>,
    /// The descriptors above 2 that it keeps, in order.
    pub kept: &'a [RawFd],
    /// Written to once, when the worker accepts.
    pub ready: BorrowedFd<'a>,
    /// A stream to the log that becomes its standard error.
    pub stderr: Option<BorrowedFd<'a>>,
    /// The terminal that it must not have.
    pub terminal: Terminal,
    /// Its place on the scoreboard.
    pub seat: &'a Seat,
    /// Its entry in the ledger of its pool, if the pool has one.
    pub entry: Option<&'a Entry>,
    /// The log.
    pub log: &'a Logger,
    /// The descriptor of the log.
    pub log_number: RawFd,
    /// The path of the log, if the log is a file.
    pub log_path: Option<&'static CStr>,
    /// The master's pid.
    pub master: Pid,
}

impl Assignment<'_> {
    fn listeners(&self) -> impl Iterator<Item = RawFd> {
        self.inlets.iter().map(|inlet| inlet.listener.as_raw_fd())
    }
}

/// Whether a worker may accept as soon as it can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entrance {
    /// The worker may.
    Open,
    /// The worker waits until its master lets it in, because its reload may still be
    /// undone.
    Shut,
}

/// Runs a worker from its start to its end. Signals are blocked at the start.
pub fn run(assignment: Assignment<'_>) -> Infallible {
    let Ok(page) = assignment.seat.map() else { fork::leave(Code::Os as u8) };
    // Above us are the master's frames, which must not be unwound in a child.
    let end = panic::catch(|| {
        let Assignment { log, pool, slot, profile, .. } = assignment;
        let context =
            Context::new(log, pool, slot, profile.kill_timeout).with_leftovers(profile.leftovers);
        let entry = assignment.entry.map(Entry::map).transpose();
        let entry = entry.map_err(|error| Error::system("open ledger", &error))?;
        let desk = settle::settle(assignment, page)?;
        let service = serve::serve(desk, entry, &context)?;
        leave::stop(service, page, profile.kill_timeout)
    });
    let failed = match end {
        Ok(Ok(())) => fork::leave(0),
        Ok(Err(error)) => error,
        Err(panic) => Error::new(Code::Software, format!("could not go on: {panic}")),
    };
    // The master logs these words with the death.
    page.explain(&failed.to_string());
    fork::leave(failed.code() as u8)
}
