//! The messages to the log and the observer at the end of a turn.
#![forbid(unsafe_code)]

use std::time::Duration;

use crate::log::event::Event;
use crate::log::sink::Kind;
use crate::log::{losses, patience};
use crate::pool::Pool;
use crate::sys::clock::Moment;

use super::phase::Phase;
use super::{Master, Status, condition};

/// How long a full disk is left alone before the next line is tried.
const LOSSES_PAUSE: Duration = Duration::from_secs(1);

/// The state of the master's reports on lost lines.
#[derive(Default)]
pub struct Losses {
    /// When the next try is due.
    next: Moment,
    /// How many of those that the log does not know of the journal does.
    mirrored: u64,
}

impl Master<'_> {
    /// Tells the log what has happened, after it was dealt with: a worker is
    /// replaced before its death is written down.
    pub(super) fn report(&mut self, now: Moment) {
        patience::renew(patience::MASTER_MS);
        self.report_losses(now);
        self.mirror.follow(self.inheritance.sink.kind());
        for event in self.news.drain(..) {
            event.tell(&self.inheritance.log);
            self.mirror.tell(&event);
        }
        let Master { pools, removed, phase, scouts, rollout, answers, herald, leftovers, .. } =
            self;
        herald.observer.turn(now, &mut || {
            let phase = match rollout {
                None if scouts.is_out() && *phase == Phase::Running => "reloading".to_owned(),
                Some(_) if *phase == Phase::Running => "reloading".to_owned(),
                _ => phase.to_string(),
            };
            let awaited = rollout.iter().flat_map(|_| condition::awaited(pools));
            let lost = condition::lines_lost(losses::pending());
            let remarks = condition::down(pools).chain(awaited).chain(lost);
            let remarks = remarks.chain(answers.remark());
            let remarks = remarks.collect();
            let mut status = Status { phase, pools: pools.len(), remarks, ..Status::default() };
            pools.iter().chain(removed.iter()).for_each(|pool| status.add(pool.census()));
            if pools.iter().chain(removed.iter()).any(Pool::runs_programs) {
                status.leftovers = leftovers.count();
            }
            status
        });
    }

    /// Tells the log how many lines it has lost, once it has room again. The journal next
    /// to it knows at once.
    fn report_losses(&mut self, now: Moment) {
        let lost = losses::pending();
        if lost == 0 || self.losses_deadline().is_some_and(|deadline| now < deadline) {
            return;
        }
        self.losses.next = now + LOSSES_PAUSE;
        let count = lost.saturating_sub(self.losses.mirrored);
        if count > 0 {
            self.mirror.tell(&Event::LogLinesLost { count });
        }
        losses::tell(|count| Event::LogLinesLost { count }.tell(&self.inheritance.log));
        self.losses.mirrored = losses::pending();
    }

    /// When to look again whether a full disk has room. A reader of a pipe that is asleep
    /// or gone is not waited for.
    pub(super) fn losses_deadline(&self) -> Option<Moment> {
        let is_file = matches!(self.inheritance.sink.kind(), Kind::File(_));
        (is_file && losses::pending() > 0).then_some(self.losses.next)
    }
}
