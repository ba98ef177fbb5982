//! The observer, who hears of the master's life as the log does.
#![forbid(unsafe_code)]

use std::fmt;
use std::time::Duration;

use crate::listener::Listener;
use crate::pool::Census;
use crate::sys::clock::Moment;

/// Somebody who waits for the daemon: the command that detached it, or a
/// service manager.
pub trait Observer {
    /// Every pool accepts: at the start, and whenever no reload is under way any
    /// more, whatever became of it.
    fn ready(&mut self) {}

    /// At the start some pools accept, and the others are tried again.
    fn partly_ready(&mut self, _warning: &str) {}

    /// A reload was asked for, after `ready`. It may be refused.
    fn reloading(&mut self) {}

    /// Whether it waits until every pool accepts, and nothing less.
    fn waits_for_all(&self) -> bool {
        false
    }

    /// The daemon stops, and takes no longer than this.
    fn stopping(&mut self, _within: Duration) {}

    /// The loop has gone round.
    fn turn(&mut self, _now: Moment, _status: &mut dyn FnMut() -> Status) {}

    /// When it wants the loop to go round again.
    fn deadline(&self) -> Option<Moment> {
        None
    }

    /// These are the listeners now. Whether it keeps them open over the end of
    /// the daemon.
    fn keep(&mut self, _listeners: &mut dyn Iterator<Item = &Listener>) -> bool {
        false
    }
}

/// How the daemon is, in one line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Where the master is in its life.
    pub phase: String,
    /// How many pools there are.
    pub pools: usize,
    /// How many workers have a connection in hand.
    pub busy: usize,
    /// How many wait for one.
    pub idle: usize,
    /// How many were asked to retire and are still there.
    pub retiring: usize,
    /// How many slots back off.
    pub throttled: usize,
    /// How many processes programs have left running.
    pub leftovers: usize,
    /// The pools that have never started, and what became of the last reload.
    pub remarks: Vec<String>,
}

impl Status {
    /// Adds the workers of a pool.
    pub fn add(&mut self, census: Census) {
        let Census { busy, idle, retiring, throttled } = census;
        self.busy += busy;
        self.idle += idle;
        self.retiring += retiring;
        self.throttled += throttled;
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Status { phase, pools, busy, idle, retiring, throttled, leftovers, remarks } = self;
        write!(
            f,
            "{phase}; {pools} {}, {busy} {} busy, {idle} idle, {throttled} {} throttled",
            plural(*pools, "pool", "pools"),
            plural(*busy, "worker", "workers"),
            plural(*throttled, "slot", "slots"),
        )?;
        if *retiring > 0 {
            write!(f, ", {retiring} {} retiring", plural(*retiring, "worker", "workers"))?;
        }
        if *leftovers > 0 {
            write!(f, ", {leftovers} {} left running", plural(*leftovers, "process", "processes"))?;
        }
        // A status is one line.
        remarks.iter().try_for_each(|remark| write!(f, "; {}", remark.replace('\n', " ")))
    }
}

fn plural(count: usize, one: &'static str, more: &'static str) -> &'static str {
    if count == 1 { one } else { more }
}
