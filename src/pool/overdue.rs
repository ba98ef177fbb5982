//! When a connection has taken too long, and what happens then.
//!
//! The master does not poll its workers. It looks at the scoreboard once per
//! `request_timeout`: a connection that began after the last look cannot be due before the
//! next one. For a connection that a look has found, the due moment is known.
#![forbid(unsafe_code)]

use std::time::Duration;

use crate::scoreboard::InHand;
use crate::sys::clock::Moment;

/// The next step for a worker whose connection is overdue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// SIGALRM, the first time: the worker shuts its connection down, and asks a program to
    /// end.
    Alarm(InHand),
    /// SIGALRM again, after half of `kill_timeout`: the worker kills its program, so that
    /// the worker itself survives.
    AlarmAgain(InHand),
    /// SIGKILL.
    Kill,
    /// The connection with this number has ended; what its program has left running is
    /// killed.
    Rest(u64),
}

/// The watch over one worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Watch {
    /// No connection is known.
    #[default]
    Unwatched,
    /// The connection `serial` is due at this moment.
    Due { serial: u64, at: Moment },
    /// SIGALRM was sent for the connection, and is sent again at `again`.
    Alarmed { serial: u64, again: Moment, kill: Moment },
    /// SIGALRM was sent twice; SIGKILL follows.
    AlarmedAgain { serial: u64, kill: Moment },
    /// SIGKILL was sent.
    Killed,
}

impl Watch {
    /// Notes the connection in hand, at a look. Gives the number of one that was alarmed
    /// and has ended, if it gives way to the next: [`Step::Rest`] is due to it.
    pub fn look(&mut self, in_hand: Option<InHand>, request_timeout: Duration) -> Option<u64> {
        let known = match *self {
            Watch::Killed => return None,
            Watch::Unwatched => None,
            Watch::Due { serial, .. }
            | Watch::Alarmed { serial, .. }
            | Watch::AlarmedAgain { serial, .. } => Some(serial),
        };
        // If there is another connection, the watched one has ended.
        if let Some(InHand { serial, began }) = in_hand.filter(|it| known != Some(it.serial)) {
            let alarmed = self.alarmed();
            *self = Watch::Due { serial, at: began + request_timeout };
            return alarmed;
        }
        None
    }

    /// The connection for which SIGALRM was sent, as long as it is watched.
    pub fn alarmed(&self) -> Option<u64> {
        match *self {
            Watch::Alarmed { serial, .. } | Watch::AlarmedAgain { serial, .. } => Some(serial),
            Watch::Unwatched | Watch::Due { .. } | Watch::Killed => None,
        }
    }

    /// The step that is due at `now`, given the connection in hand.
    pub fn step(
        &mut self,
        in_hand: Option<InHand>,
        now: Moment,
        kill_timeout: Duration,
    ) -> Option<Step> {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return None;
        }
        let same = |serial| in_hand.filter(|in_hand| in_hand.serial == serial);
        let (next, step) = match *self {
            Watch::Due { serial, .. } => match same(serial) {
                Some(connection) => {
                    self.alarm(connection, now, kill_timeout);
                    (*self, Some(Step::Alarm(connection)))
                }
                None => (Watch::Unwatched, None),
            },
            Watch::Alarmed { serial, kill, .. } => match same(serial) {
                Some(connection) => {
                    (Watch::AlarmedAgain { serial, kill }, Some(Step::AlarmAgain(connection)))
                }
                None => (Watch::Unwatched, Some(Step::Rest(serial))),
            },
            Watch::AlarmedAgain { serial, .. } => match same(serial) {
                Some(_) => (Watch::Killed, Some(Step::Kill)),
                None => (Watch::Unwatched, Some(Step::Rest(serial))),
            },
            Watch::Unwatched | Watch::Killed => (*self, None),
        };
        *self = next;
        step
    }

    /// SIGALRM was sent for this connection, for another reason than its own time.
    pub fn alarm(&mut self, connection: InHand, now: Moment, kill_timeout: Duration) {
        let (again, kill) = (now + kill_timeout / 2, now + kill_timeout);
        *self = Watch::Alarmed { serial: connection.serial, again, kill };
    }

    /// When the next step is due.
    pub fn deadline(&self) -> Option<Moment> {
        match *self {
            Watch::Due { at, .. } => Some(at),
            Watch::Alarmed { again, .. } => Some(again),
            Watch::AlarmedAgain { kill, .. } => Some(kill),
            Watch::Unwatched | Watch::Killed => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(millis: u64) -> Moment {
        Moment::from_nanos(millis * 1_000_000)
    }

    fn connection(serial: u64, began: u64) -> Option<InHand> {
        Some(InHand { serial, began: at(began) })
    }

    #[test]
    fn a_stuck_worker_is_alarmed_twice_and_killed() {
        let mut watch = Watch::default();
        let stuck = connection(7, 500);
        watch.look(stuck, SECOND);
        assert_eq!(watch.deadline(), Some(at(1500)));
        assert_eq!(watch.step(stuck, at(1499), SECOND), None, "not before its time");
        assert_eq!(watch.step(stuck, at(1500), SECOND), stuck.map(Step::Alarm));
        assert_eq!(watch.step(stuck, at(1999), SECOND), None);
        assert_eq!(watch.step(stuck, at(2000), SECOND), stuck.map(Step::AlarmAgain));
        assert_eq!(watch.step(stuck, at(2500), SECOND), Some(Step::Kill));
        assert_eq!(watch.deadline(), None);
        assert_eq!(watch.step(stuck, at(9999), SECOND), None, "once");
    }

    #[test]
    fn the_next_connection_does_not_pay_for_the_last() {
        for next in [None, connection(8, 1400)] {
            let mut watch = Watch::default();
            watch.look(connection(7, 500), SECOND);
            assert_eq!(watch.step(next, at(1500), SECOND), None);
            assert_eq!(watch, Watch::Unwatched);

            watch.look(connection(7, 500), SECOND);
            watch.step(connection(7, 500), at(1500), SECOND);
            assert_eq!(watch.step(next, at(2000), SECOND), Some(Step::Rest(7)), "of the last");
            assert_eq!(watch, Watch::Unwatched);
        }
    }

    #[test]
    fn a_look_finds_the_next_connection_while_the_last_is_remembered() {
        let mut watch = Watch::default();
        watch.look(connection(7, 500), SECOND);
        watch.step(connection(7, 500), at(1500), SECOND * 20);
        assert_eq!(watch.look(connection(8, 1600), SECOND), Some(7));
        assert_eq!(watch, Watch::Due { serial: 8, at: at(2600) });
        assert_eq!(watch.look(connection(9, 1700), SECOND), None, "8 was not alarmed");
    }

    #[test]
    fn a_look_does_not_forget_what_is_under_way() {
        let mut watch = Watch::default();
        watch.look(connection(7, 500), SECOND);
        watch.step(connection(7, 500), at(1500), SECOND);
        let before = watch;
        watch.look(connection(7, 500), SECOND);
        assert_eq!(watch, before);
    }
}
