//! The end of a pool at a stop: serve those who wait, then close the listener.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::time::Duration;

use nix::unistd::Pid;

use crate::listener::{Listener, Queue};
use crate::scoreboard::{Leaving, Look};
use crate::sys::clock::Moment;
use crate::sys::wait::Exit;

use super::agenda::Task;
use super::cause::Killer;
use super::death::Death;
use super::generation::Gate;
use super::worker::Place;
use super::{Asked, Pool};

/// For how long a listener stays open at least: a client whose handshake was under way
/// has as long to get into the queue.
const HANDSHAKE: Duration = Duration::from_millis(100);

/// How often to look whether a queue is empty. No event tells that.
const PACE: Duration = Duration::from_millis(50);

/// How far the end of a pool has come.
#[derive(Debug, Default)]
pub(super) struct Closing {
    drain: Drain,
    /// The workers whose connection was ended, so that they can leave.
    pub cut: HashSet<Pid>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Drain {
    /// The listener does not drain.
    #[default]
    No,
    /// It is closed.
    Closed,
    /// It drains since then.
    Since(Moment, Seen),
}

/// What is known of a queue into which nobody comes any more, where only accept can
/// tell. Once it was empty, it stays so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// Somebody may wait.
    Waiting,
    /// A worker has found its end, or nobody was in it.
    Empty,
}

impl Closing {
    /// Whether the listener drains, or is closed.
    pub fn has_begun(&self) -> bool {
        self.drain != Drain::No
    }

    /// Whether nobody waits in the queue.
    pub fn is_over(&self) -> bool {
        !matches!(self.drain, Drain::Since(..))
    }

    /// The listener is closed.
    pub fn end(&mut self) {
        self.drain = Drain::Closed;
    }

    /// A worker has ended, in this place.
    pub fn note_death(&mut self, look: Look, place: Place, death: &Death) {
        if look.has_cut || death.killer == Killer::Master && look.in_hand.is_some() {
            self.cut.insert(death.pid);
        }
        if let Drain::Since(_, seen) = &mut self.drain {
            // One that retires does not look at the queue, nor does one that was asked
            // before it could accept.
            let has_looked = place != Place::Leaving && look.is_accepting;
            let is_done = death.exit == Exit::Code(0) && look.leaving == Some(Leaving::Asked);
            if has_looked && is_done {
                *seen = Seen::Empty;
            }
        }
    }
}

impl Pool {
    /// Stops: serves those who wait in the queue, lets nobody else into it, and closes
    /// the listener then. One that stays open for the next daemon is left at once, and
    /// connections over which nothing was transferred get `idle_stop`.
    pub fn drain(&mut self, now: Moment) {
        let Some(listener) = self.serving.listener.clone() else {
            // A worker had shut it down, and its name was not free since.
            return self.close(Asked::Stop, now);
        };
        let is_ours = !listener.stays_open();
        if is_ours {
            // First, so that a worker which finds the end of the queue knows why. Who was
            // asked to retire goes by that, though its signal may still be on its way.
            let serving = self.workers.values().filter(|worker| worker.place != Place::Leaving);
            serving.for_each(|worker| worker.seat.drain());
        }
        // Of a Unix socket that drains, the kernel does not tell.
        let seen = match listener.queue() {
            Queue::Empty => Seen::Empty,
            Queue::Waiting | Queue::Unknown => Seen::Waiting,
        };
        if !is_ours || listener.begin_drain().is_err() {
            self.close(Asked::Stop, now);
            self.agenda.add(now + self.config().idle_stop, Task::Unused);
            return;
        }
        self.serving.gate = Gate::Draining;
        self.closing.drain = Drain::Since(now, seen);
        for worker in self.workers.values_mut() {
            worker.drain(Asked::Stop);
        }
        self.agenda.add(now + PACE, Task::Queue);
    }

    /// Closes the listener if nobody waits there any more.
    pub(super) fn look_at_queue(&mut self, now: Moment) {
        let Drain::Since(since, seen) = self.closing.drain else { return };
        let queue = self.queue();
        let is_empty = match queue {
            Some(Queue::Waiting) => false,
            Some(Queue::Empty) => now >= since + HANDSHAKE,
            Some(Queue::Unknown) => self.workers.is_empty() && seen == Seen::Empty,
            None => true,
        };
        if is_empty {
            self.close(Asked::Stop, now);
        } else {
            self.agenda.add(now + PACE, Task::Queue);
        }
    }

    /// Whether a new worker would have something to do: at the end, only if somebody
    /// waits.
    pub(super) fn has_use_for_workers(&self) -> bool {
        let Drain::Since(_, seen) = self.closing.drain else {
            return self.serving.listener.is_some();
        };
        match self.queue() {
            Some(Queue::Waiting) => true,
            Some(Queue::Unknown) => seen == Seen::Waiting,
            Some(Queue::Empty) | None => false,
        }
    }

    /// Ends the connections that nobody uses, so that a new daemon need not wait for
    /// their workers.
    pub(super) fn end_unused(&mut self, now: Moment) {
        let idle_stop = self.config().idle_stop;
        for worker in self.workers.values() {
            let in_hand = worker.seat.look().in_hand;
            if let Some(connection) = in_hand.filter(|it| now - it.began >= idle_stop) {
                worker.end_if_unused(connection);
            }
        }
        if !self.workers.is_empty() {
            self.agenda.add(now + idle_stop, Task::Unused);
        }
    }

    fn queue(&self) -> Option<Queue> {
        self.serving.listener.as_deref().map(Listener::queue)
    }
}
