//! The master's own record of a worker.
#![forbid(unsafe_code)]

use std::rc::Rc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::config;
use crate::ledger::Entry;
use crate::scoreboard::{InHand, Seat};
use crate::sys::clock::Moment;

use super::cause::Asked;
use super::overdue::Watch;
use super::retirement::{Bounds, Retirement};

/// A child that is not reaped yet, so its pid is nobody else's.
#[derive(Debug)]
pub struct Worker {
    /// Its pid.
    pub pid: Pid,
    /// Its number in the pool.
    pub slot: u32,
    /// The configuration epoch in which it was forked.
    pub generation: u64,
    pub(super) place: Place,
    pub(super) seat: Seat,
    /// Its entry in the ledger, which is cleared when the worker has ended.
    pub(super) _entry: Option<Entry>,
    pub(super) started: Moment,
    /// What it was asked to do, if anything.
    pub(super) asked: Option<Asked>,
    pub(super) retirement: Option<Retirement>,
    /// The master has sent SIGKILL.
    pub(super) killed: bool,
    /// Somebody has suspended it; it is killed then.
    pub(super) suspended: Option<Moment>,
    pub(super) watch: Watch,
    pub(super) terms: Terms,
    /// The program that its service runs, if it runs one.
    pub(super) program: Option<Rc<str>>,
    /// When it is killed if it does not accept by then.
    pub(super) late: Option<Moment>,
    /// Whether the log still waits to hear of it: the worker may die as those before it did.
    pub(super) untold: Untold,
}

/// Where a worker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In its slot of the generation with this number.
    Slot(u64),
    /// On its way out.
    Leaving,
}

/// Whether the log waits before it tells of a new worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Untold {
    /// The event was logged.
    No,
    /// It waits for the worker to accept.
    Starting,
    /// It waits for the worker to be too old to die young.
    Until(Moment),
}

/// The part of a worker's configuration that concerns its life. A later reload does not
/// change it.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// The longest that the worker may take until it accepts.
    pub start_timeout: Option<Duration>,
    /// The longest that one connection may take.
    pub request_timeout: Option<Duration>,
    /// From the polite signal to SIGKILL.
    pub kill_timeout: Duration,
    /// The longest that a connection in hand may take, once the worker was asked to retire.
    pub retire_timeout: Option<Duration>,
    /// A worker that dies sooner, with nothing served, has died young.
    pub min_uptime: Duration,
    /// After how many connections the worker leaves; 0 is never.
    pub max_requests: u64,
}

impl Terms {
    /// Those of this configuration.
    pub fn of(config: &config::Pool) -> Self {
        Terms {
            start_timeout: config.start_timeout,
            request_timeout: config.request_timeout,
            kill_timeout: config.kill_timeout,
            retire_timeout: config.retire_timeout,
            min_uptime: config.min_uptime,
            max_requests: config.max_requests,
        }
    }
}

impl Worker {
    /// Asks it to retire, and takes its slot; the first reason stays.
    pub fn retire(&mut self, why: Asked, now: Moment) {
        self.place = Place::Leaving;
        self.ask(why, now);
    }

    /// Asks it to leave. It keeps its slot, which another one may have to fill: at a stop
    /// it goes on until the queues of the listeners are empty.
    pub fn ask(&mut self, why: Asked, now: Moment) {
        if self.asked.is_none() {
            self.asked = Some(why);
            // At a stop, `stop_timeout` bounds what workers may take.
            self.retirement = (why == Asked::Retire)
                .then(|| Retirement::begin(self.seat.look().in_hand, now, self.bounds()));
            self.signal(Signal::SIGTERM);
        }
    }

    /// Ends its connection in hand, if nothing was transferred over it.
    pub fn end_if_unused(&self, connection: InHand) {
        self.seat.mark_unused(connection);
        self.signal(Signal::SIGALRM);
    }

    /// Kills it.
    pub fn kill(&mut self, why: Asked) {
        self.asked = Some(why);
        self.killed = true;
        self.retirement = None;
        self.suspended = None;
        self.late = None;
        self.signal(Signal::SIGKILL);
    }

    /// Ends its connection in hand, as when the time of that is over, so that it can
    /// leave and its program is asked to.
    pub fn cut(&self, connection: InHand) {
        self.seat.mark_overdue(connection);
        self.signal(Signal::SIGALRM);
    }

    /// Lets it accept.
    pub fn let_in(&self) {
        self.seat.let_in();
        self.signal(Signal::SIGUSR2);
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        // ESRCH cannot be: it is our child and not reaped. EPERM could, if the
        // daemon is not root and the worker runs a setuid program in its place.
        let sent = kill(self.pid, signal);
        debug_assert!(matches!(sent, Ok(()) | Err(Errno::EPERM)), "{sent:?}");
    }

    /// When there is something to do about it.
    pub fn deadline(&self) -> Option<Moment> {
        let untold = match self.untold {
            Untold::Until(until) => Some(until),
            Untold::No | Untold::Starting => None,
        };
        let retirement = self.retirement.map(Retirement::deadline);
        let of_life = [self.watch.deadline(), retirement, self.suspended];
        of_life.into_iter().chain([untold, self.late]).flatten().min()
    }

    pub(super) fn bounds(&self) -> Bounds {
        Bounds { kill: self.terms.kill_timeout, retire: self.terms.retire_timeout }
    }
}
