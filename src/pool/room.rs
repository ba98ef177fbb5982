//! How many processes a pool may have, and when the log reports that they are too few.
#![forbid(unsafe_code)]

use crate::log::event::Event;
use crate::sys::clock::Moment;

use super::Pool;
use super::agenda::Task;

/// That `max_workers` holds back the newest generation.
#[derive(Clone, Copy, Debug)]
pub struct Shortage {
    /// The number of the generation.
    generation: u64,
    /// When the log reports it; None after that.
    tell: Option<Moment>,
}

impl Pool {
    /// How many more workers it may have; those on their way out count.
    pub(super) fn room(&self) -> usize {
        self.max_workers().map_or(usize::MAX, |most| most.saturating_sub(self.workers.len()))
    }

    /// `max_workers`. Of two configurations during a reload the larger one, for the older
    /// is still in force, and its workers stay until the new ones are ready.
    fn max_workers(&self) -> Option<usize> {
        let most = self.generations().map(|it| {
            let most = it.blueprint.config.max_workers.as_ref();
            most.map_or(usize::MAX, |most| *most.get_ref() as usize)
        });
        most.max().filter(|&most| most < usize::MAX)
    }

    /// Tells, once for each generation, that it waits for older workers to leave. Idle
    /// ones leave at once, so the log hears of those that outstay `kill_timeout`.
    pub(super) fn tell_of_shortage(&mut self, now: Moment, events: &mut Vec<Event>) {
        let newest = self.next.as_ref().unwrap_or(&self.serving);
        let (generation, patience) = (newest.id, newest.blueprint.config.kill_timeout);
        if self.room() > 0 || newest.vacancies() == 0 || !self.has_use_for_workers() {
            return;
        }
        let known = self.shortage.filter(|shortage| shortage.generation == generation);
        let mut shortage = known.unwrap_or_else(|| {
            self.agenda.add(now + patience, Task::Room);
            Shortage { generation, tell: Some(now + patience) }
        });
        if shortage.tell.is_some_and(|at| at <= now) {
            shortage.tell = None;
            let pool = self.name().to_owned();
            let max_workers = self.max_workers().unwrap_or_default() as u32;
            let workers = self.workers.len() as u32;
            events.push(Event::ReloadHeldBack { pool, max_workers, workers });
        }
        self.shortage = Some(shortage);
    }
}
