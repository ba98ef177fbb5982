//! The tasks of a pool, by their time.
//!
//! An entry is only a reason to look. The code that handles it checks whether something is
//! due. So nothing must be removed when plans change.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use nix::unistd::Pid;

use crate::sys::clock::Moment;

/// The subject of a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Task {
    /// All connections in hand, because some may become overdue.
    Connections,
    /// Whether older workers still use the room of newer ones.
    Room,
    /// The address of a listener that is lost.
    Listeners,
    /// The queue of a listener that drains.
    Queue,
    /// All connections in hand, to find those over which nothing was transferred.
    Unused,
    /// A slot whose delay is over, of the generation with this number.
    Slot(u64, u32),
    /// A worker.
    Worker(Pid),
}

/// The tasks of a pool, by their time.
#[derive(Debug, Default)]
pub struct Agenda(BTreeSet<(Moment, Task)>);

impl Agenda {
    /// Adds a task.
    pub fn add(&mut self, at: Moment, task: Task) {
        self.0.insert((at, task));
    }

    /// When the next task is due.
    pub fn next(&self) -> Option<Moment> {
        self.0.first().map(|(at, _)| *at)
    }

    /// Removes and gives a task that is due.
    pub fn take_due(&mut self, now: Moment) -> Option<Task> {
        let (at, _) = self.0.first()?;
        if *at > now {
            return None;
        }
        self.0.pop_first().map(|(_, task)| task)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_are_taken_in_the_order_of_their_time() {
        let at = Moment::from_nanos;
        let mut agenda = Agenda::default();
        agenda.add(at(3), Task::Worker(Pid::from_raw(1)));
        agenda.add(at(2), Task::Slot(0, 1));
        agenda.add(at(3), Task::Connections);
        agenda.add(at(3), Task::Connections);
        assert_eq!((agenda.next(), agenda.take_due(at(1))), (Some(at(2)), None));
        assert_eq!(agenda.take_due(at(3)), Some(Task::Slot(0, 1)));
        assert_eq!(agenda.take_due(at(3)), Some(Task::Connections), "once");
        assert_eq!(agenda.take_due(at(3)), Some(Task::Worker(Pid::from_raw(1))));
        assert_eq!(agenda.next(), None);
    }
}
