//! The access log: a line when a connection begins, and one when it ends.
#![forbid(unsafe_code)]

use std::time::Duration;

use nix::unistd::{Pid, getpid};

use crate::log::event::Event;
use crate::log::rate::{HeldBack, Rate};
use crate::service::{Context, Peer, Record, SharedRecord};
use crate::sys::clock::Moment;
use crate::sys::wait::{Exit, signal_name};

/// How many lines of each kind a worker may write in ten seconds. That is more than clients
/// that send something can cause, and a bound all the same.
const LINES: u32 = 20_000;

/// The access log of one worker.
pub struct AccessLog {
    pid: Pid,
    opened: Rate,
    closed: Rate,
    refused: Rate,
}

/// A connection that was begun.
pub struct Visit {
    peer: Peer,
    began: Moment,
    record: SharedRecord,
}

impl Visit {
    /// The record into which the connection writes its figures.
    pub fn record(&self) -> SharedRecord {
        self.record.clone()
    }
}

impl AccessLog {
    /// A log without a line.
    pub fn new() -> Self {
        let [opened, closed, refused] = [LINES; 3].map(Rate::new);
        AccessLog { pid: getpid(), opened, closed, refused }
    }

    /// A connection begins.
    pub fn open(&mut self, peer: Peer, context: &Context<'_>) -> Visit {
        let (pid, began) = (self.pid, Moment::now());
        if let Some(held_back) = self.opened.admit(began) {
            Event::ConnectionOpened { pid, peer: peer.to_string(), held_back }.tell(context.log());
        }
        Visit { peer, began, record: SharedRecord::default() }
    }

    /// That connection has ended, by itself or for this reason.
    pub fn close(&mut self, visit: Visit, reason: Option<String>, context: &Context<'_>) {
        let now = Moment::now();
        if let Some(held_back) = self.closed.admit(now) {
            let Visit { peer, began, record } = visit;
            closed(self.pid, peer, now - began, record.read(), reason, held_back)
                .tell(context.log());
        }
    }

    /// Whether to write a line about a client that was turned away.
    pub fn admit_refusal(&mut self) -> Option<HeldBack> {
        self.refused.admit(Moment::now())
    }
}

fn closed(
    pid: Pid,
    peer: Peer,
    elapsed_ms: Duration,
    record: Record,
    reason: Option<String>,
    held_back: HeldBack,
) -> Event {
    let (program_pid, exit) = record.program.unzip();
    let (code, signal) = match exit {
        Some(Exit::Code(code)) => (Some(code), None),
        Some(Exit::Signal { number, .. }) => (None, Some(signal_name(number))),
        None => (None, None),
    };
    Event::ConnectionClosed {
        pid,
        peer: peer.to_string(),
        elapsed_ms,
        received_bytes: record.received,
        sent_bytes: record.sent,
        program_pid,
        code,
        signal,
        reason,
        held_back,
    }
}
