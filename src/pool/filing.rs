//! Filing the death of a worker: why it ended, and what becomes of its slot.
#![forbid(unsafe_code)]

use nix::libc;

use crate::log::event::Event;
use crate::scoreboard::{InHand, Look};
use crate::sys::clock::Moment;
use crate::sys::wait::{Exit, Reaped};

use super::Pool;
use super::agenda::Task;
use super::cause::{Asked, Cause, Killer};
use super::death::{Death, Unfinished};
use super::oom_kills::OomKills;
use super::throttle::End;
use super::worker::{Place, Worker};

impl Pool {
    /// Files the end of a child, if the child was a worker of this pool. `random` spreads
    /// the delay of a slot that backs off.
    pub fn file(
        &mut self,
        reaped: &Reaped,
        now: Moment,
        random: u64,
        oom_kills: &mut OomKills,
        events: &mut Vec<Event>,
    ) {
        let Some(worker) = self.workers.remove(&reaped.pid) else { return };
        let (place, slot, terms) = (worker.place, worker.slot, worker.terms);
        let look = worker.seat.look();
        let death = self.explain(*worker, look, reaped, now, oom_kills);
        let end = death.end(look, terms);
        let is_failure = matches!(end, End::Young | End::Late);
        if is_failure && place != Place::Leaving {
            let reason = death.reason.as_ref().map_or_else(String::new, |it| format!(": {it}"));
            self.last_failure = Some(format!("its worker {}{reason}", death.exit));
        }
        let mut is_retry = false;
        let mut delay = None;
        self.closing.note_death(look, place, &death);
        self.suspect();
        if let Some(generation) = self.generation_at(place) {
            if look.is_accepting {
                generation.accepts(slot);
            }
            is_retry = is_failure && generation.backs_off(slot);
            delay = generation.vacate(slot, end, now, random);
            let id = generation.id;
            if let Some(delay) = delay {
                self.agenda.add(now + delay.time, Task::Slot(id, slot));
            }
        }
        let pool = death.pool.clone();
        let held_back = match is_retry {
            true => self.rates.failed_retry(now),
            false => self.rates.end(death.cause, now),
        };
        events.extend(held_back.map(|held_back| death.told(held_back)));
        if let Some(delay) = delay
            && let Some(held_back) = self.rates.delay(now)
        {
            let (deaths, delay_ms) = (delay.deaths, delay.time);
            events.push(Event::RespawnThrottled { pool, slot, deaths, delay_ms, held_back });
        }
    }

    /// Why a worker ended.
    fn explain(
        &self,
        worker: Worker,
        look: Look,
        reaped: &Reaped,
        now: Moment,
        oom_kills: &mut OomKills,
    ) -> Death {
        let is_sigkill = matches!(reaped.exit, Exit::Signal { number: libc::SIGKILL, .. });
        let killer = match (is_sigkill, worker.killed) {
            (true, true) => Killer::Master,
            (true, false) if oom_kills.take_one(now) => Killer::Kernel,
            _ => Killer::Unknown,
        };
        // A successor that was forked during the stop is asked to leave from its start.
        let is_asked = worker.asked.is_none() && self.closing.has_begun();
        let asked = if is_asked { Some(Asked::Stop) } else { worker.asked };
        let unfinished = |it: InHand| Unfinished {
            peer: worker.seat.peer().to_string(),
            elapsed: now - it.began,
        };
        Death {
            pool: self.name().to_owned(),
            slot: worker.slot,
            pid: worker.pid,
            generation: worker.generation,
            exit: reaped.exit,
            cause: Cause::of(reaped.exit, asked, killer, look.leaving),
            killer,
            uptime: now - worker.started,
            served: look.served,
            refused: look.refused,
            in_hand: look.in_hand.map(unfinished),
            usage: reaped.usage,
            reason: match worker.asked {
                Some(Asked::Late) => Some("it did not accept within start_timeout".to_owned()),
                _ => worker.seat.reason(),
            },
        }
    }
}
