//! The end of a worker, explained.
#![forbid(unsafe_code)]

use std::time::Duration;

use nix::unistd::Pid;
use slog::Level;

use crate::log::event::Event;
use crate::log::rate::HeldBack;
use crate::scoreboard::{Leaving, Look};
use crate::sys::wait::{Exit, Usage, signal_name};

use super::cause::{Cause, Killer};
use super::throttle::End;
use super::worker::Terms;

/// All that is known of the end of a worker.
#[derive(Debug)]
pub struct Death {
    /// The name of its pool.
    pub pool: String,
    /// Its place in the pool.
    pub slot: u32,
    /// Its pid.
    pub pid: Pid,
    /// The configuration epoch in which it was forked.
    pub generation: u64,
    /// How it ended.
    pub exit: Exit,
    /// Why.
    pub cause: Cause,
    /// The killer, if the worker was killed.
    pub killer: Killer,
    /// For how long it had lived.
    pub uptime: Duration,
    /// How many connections it says it has finished.
    pub served: u64,
    /// How many clients it says it has turned away.
    pub refused: u64,
    /// The connection that it says it had in hand.
    pub in_hand: Option<Unfinished>,
    /// What it had used.
    pub usage: Usage,
    /// Its last words.
    pub reason: Option<String>,
}

/// A connection that ended with its worker.
#[derive(Debug)]
pub struct Unfinished {
    /// The client.
    pub peer: String,
    /// For how long the worker has had it.
    pub elapsed: Duration,
}

impl Death {
    /// What the death means for the successor, by the terms of the dead worker and the
    /// last look at its page.
    pub fn end(&self, look: Look, terms: Terms) -> End {
        // A worker that leaves by itself and says why has not failed, even if somebody wanted it
        // to leave.
        let left = self.exit == Exit::Code(0) && look.leaving.is_some();
        if left && look.leaving == Some(Leaving::Recycled) && terms.max_requests > 0 {
            return End::Recycled;
        }
        if self.cause == Cause::TimedOut && !look.is_accepting {
            return End::Late;
        }
        // A worker that somebody has ended did not fail.
        let failed = matches!(self.cause, Cause::Crashed | Cause::OutOfMemory | Cause::Unknown);
        // A worker that failed before its first accept died young, however long that took.
        let never_accepted = failed && !look.is_accepting;
        let is_early = self.uptime < terms.min_uptime || never_accepted;
        let is_idle = look.in_hand.is_none() && self.served == 0;
        if is_early && is_idle && !left {
            End::Young
        } else if look.in_hand.is_some() {
            End::AtWork
        } else {
            End::Lived
        }
    }

    /// The event for the log.
    pub fn told(self, held_back: HeldBack) -> Event {
        let level = self.level();
        let Death { pool, slot, pid, generation, served, reason, .. } = self;
        let (cause, uptime_ms, cpu_ms) = (self.cause.as_str(), self.uptime, self.usage.cpu);
        let max_rss_kib = self.usage.max_rss_kib;
        let refused = Some(self.refused).filter(|&refused| refused > 0);
        // After a normal end, no field about a lost connection is needed.
        let in_hand = (self.in_hand.is_none() && level != Level::Info).then_some(false);
        let (peer, in_hand_ms) = self.in_hand.map(|it| (it.peer, it.elapsed)).unzip();
        match self.exit {
            Exit::Code(code) => Event::WorkerExited {
                level,
                pool,
                slot,
                pid,
                generation,
                code,
                cause,
                uptime_ms,
                served,
                refused,
                cpu_ms,
                max_rss_kib,
                in_hand,
                peer,
                in_hand_ms,
                reason,
                held_back,
            },
            Exit::Signal { number, core_dumped } => Event::WorkerKilled {
                level,
                pool,
                slot,
                pid,
                generation,
                signal: signal_name(number),
                core_dumped,
                cause,
                uptime_ms,
                served,
                refused,
                cpu_ms,
                max_rss_kib,
                in_hand,
                peer,
                in_hand_ms,
                reason,
                held_back,
            },
        }
    }

    fn level(&self) -> Level {
        match (self.exit, self.killer) {
            // A reload or a stop has a line of its own.
            (Exit::Code(0), _) if matches!(self.cause, Cause::Retired | Cause::Stopped) => {
                Level::Debug
            }
            (Exit::Code(0), _) if self.cause.is_wanted() => Level::Info,
            (Exit::Code(_), _) | (Exit::Signal { .. }, Killer::Master) => Level::Warning,
            (Exit::Signal { .. }, Killer::Kernel | Killer::Unknown) => Level::Error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::scoreboard::InHand;
    use crate::sys::clock::Moment;

    const CRASH: Exit = Exit::Signal { number: 11, core_dumped: false };
    const KILLED: Exit = Exit::Signal { number: 9, core_dumped: false };
    const LATE: Duration = Duration::from_secs(1);
    const EARLY: Duration = Duration::from_millis(999);

    fn death(exit: Exit, cause: Cause, uptime: Duration, served: u64) -> Death {
        Death {
            pool: String::new(),
            slot: 0,
            pid: Pid::from_raw(7),
            generation: 1,
            exit,
            cause,
            killer: Killer::Unknown,
            uptime,
            served,
            refused: 0,
            in_hand: None,
            usage: Usage::default(),
            reason: None,
        }
    }

    #[test]
    fn what_a_death_means_for_the_successor() {
        let idle = Look {
            is_accepting: true,
            served: 0,
            refused: 0,
            in_hand: None,
            leaving: None,
            has_cut: false,
        };
        let starting = Look { is_accepting: false, ..idle };
        let connection = InHand { serial: 1, began: Moment::default() };
        let busy = Look { in_hand: Some(connection), ..idle };
        let left = |leaving| Look { leaving: Some(leaving), ..idle };
        let recycled = left(Leaving::Recycled);
        let config = "[pool.a]\nlisten = \"@a\"\nservice = \"echo\"\nmin_uptime = \"1s\"";
        let terms = Terms::of(&config::pool(config));
        let with_quota = Terms { max_requests: 5, ..terms };
        for (what, death, look, terms, end) in [
            ("idle and early", death(CRASH, Cause::Crashed, EARLY, 0), idle, terms, End::Young),
            ("idle and late", death(CRASH, Cause::Crashed, LATE, 0), idle, terms, End::Lived),
            ("never accepted", death(CRASH, Cause::Crashed, LATE, 0), starting, terms, End::Young),
            ("killed late", death(CRASH, Cause::Killed, LATE, 0), starting, terms, End::Lived),
            ("after some", death(CRASH, Cause::Crashed, EARLY, 3), idle, terms, End::Lived),
            ("too late", death(KILLED, Cause::TimedOut, LATE, 0), starting, terms, End::Late),
            ("cut", death(KILLED, Cause::TimedOut, LATE, 0), busy, terms, End::AtWork),
            ("at work", death(CRASH, Cause::Crashed, EARLY, 0), busy, terms, End::AtWork),
            (
                "its quota",
                death(Exit::Code(0), Cause::Recycled, EARLY, 5),
                recycled,
                with_quota,
                End::Recycled,
            ),
            (
                "a quota that nobody set",
                death(Exit::Code(0), Cause::Recycled, EARLY, 5),
                recycled,
                terms,
                End::Lived,
            ),
            (
                "asked to go",
                death(Exit::Code(0), Cause::Stopped, EARLY, 0),
                left(Leaving::Asked),
                terms,
                End::Lived,
            ),
        ] {
            assert_eq!(death.end(look, terms), end, "{what}");
        }
    }
}
