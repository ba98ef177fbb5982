//! The end of a pool at a stop: serve the clients that wait, then close the listeners.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::time::Duration;

use nix::unistd::Pid;

use crate::listener::Queue;
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
    /// The listeners do not drain.
    #[default]
    No,
    /// They are closed.
    Closed,
    /// They drain since then.
    Since(Moment, Seen),
}

/// The known state of queues that are closed to new clients, where only accept can find the
/// end. An empty queue stays empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// Somebody may wait.
    Waiting,
    /// A worker has found their ends, or nobody was in them.
    Empty,
}

impl Closing {
    /// Whether the listeners drain, or are closed.
    pub fn has_begun(&self) -> bool {
        self.drain != Drain::No
    }

    /// Whether nobody waits in a queue.
    pub fn is_over(&self) -> bool {
        !matches!(self.drain, Drain::Since(..))
    }

    /// The listeners are closed.
    pub fn end(&mut self) {
        self.drain = Drain::Closed;
    }

    /// A worker has ended, in this place.
    pub fn note_death(&mut self, look: Look, place: Place, death: &Death) {
        if look.has_cut || death.killer == Killer::Master && look.in_hand.is_some() {
            self.cut.insert(death.pid);
        }
        if let Drain::Since(_, seen) = &mut self.drain {
            // A retiring worker does not look at the queues. Neither does a worker that was
            // asked before it could accept.
            let has_looked = place != Place::Leaving && look.is_accepting;
            let is_done = death.exit == Exit::Code(0) && look.leaving == Some(Leaving::Asked);
            if has_looked && is_done {
                *seen = Seen::Empty;
            }
        }
    }
}

impl Pool {
    /// Stops: serves the clients in the queues, lets no others in, and then closes the
    /// listeners. A listener that stays open for the next daemon is left at once. If all of
    /// them stay open, connections over which nothing was transferred get `idle_stop`.
    pub fn drain(&mut self, now: Moment) {
        // Those that stay have their end with this pool at once. There is none, too, if a
        // worker had shut it down and its name was not free since.
        let has_lost_all = self.serving.listeners.is_empty();
        self.serving.listeners.retain(|listener| !listener.stays_open());
        if !self.serving.listeners.is_empty() {
            // This comes first, so that a worker that finds the end of a queue knows why. A
            // worker that was asked to retire does that, even if its signal is still on its
            // way.
            let serving = self.workers.values().filter(|worker| worker.place != Place::Leaving);
            serving.for_each(|worker| worker.seat.drain());
        }
        let queues: Vec<_> = self.queues().collect();
        // Of a Unix socket that drains, the kernel does not tell.
        let is_empty = queues.iter().all(|queue| *queue == Queue::Empty);
        let seen = if is_empty { Seen::Empty } else { Seen::Waiting };
        let begun = self.serving.listeners.iter().try_for_each(|it| it.begin_drain());
        if queues.is_empty() || begun.is_err() {
            self.close(Asked::Stop, now);
            if !has_lost_all {
                self.agenda.add(now + self.config().idle_stop, Task::Unused);
            }
            return;
        }
        self.serving.gate = Gate::Draining;
        self.closing.drain = Drain::Since(now, seen);
        for worker in self.workers.values_mut() {
            worker.ask(Asked::Stop, now);
        }
        self.agenda.add(now + PACE, Task::Queue);
    }

    /// Closes the listeners if nobody waits there any more.
    pub(super) fn look_at_queue(&mut self, now: Moment) {
        let Drain::Since(since, seen) = self.closing.drain else { return };
        let is_empty = self.queues().all(|queue| match queue {
            Queue::Waiting => false,
            Queue::Empty => now >= since + HANDSHAKE,
            Queue::Unknown => self.workers.is_empty() && seen == Seen::Empty,
        });
        if is_empty {
            self.close(Asked::Stop, now);
        } else {
            self.agenda.add(now + PACE, Task::Queue);
        }
    }

    /// Whether a new worker would have something to do on a listener: at the end, only if
    /// somebody waits.
    pub(super) fn has_use_for_workers(&self) -> bool {
        let Drain::Since(_, seen) = self.closing.drain else { return true };
        self.queues().any(|queue| match queue {
            Queue::Waiting => true,
            Queue::Unknown => seen == Seen::Waiting,
            Queue::Empty => false,
        })
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

    fn queues(&self) -> impl Iterator<Item = Queue> {
        self.serving.listeners.iter().map(|listener| listener.queue())
    }
}
