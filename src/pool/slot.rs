//! The place of one worker: its state and its next step.
#![forbid(unsafe_code)]

use nix::unistd::Pid;

use crate::sys::clock::Moment;

use super::throttle::{Delay, End, Throttle};

/// The place of one worker, with a record of its workers so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// The slot has no worker.
    Vacant(Record),
    /// Its worker has not accepted yet.
    Starting(Pid, Record),
    /// Its worker accepts.
    Serving(Pid, Record),
}

/// The record of a slot's workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// One of the workers has accepted.
    pub has_accepted: bool,
    /// How long the slot waits when its workers die.
    pub throttle: Throttle,
}

/// The next step of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing: the slot has a worker.
    Stay,
    /// The slot gets a worker.
    Fill(StartKind),
    /// The slot stays vacant until this moment.
    Wait(Moment),
}

/// The history of a slot that gets a new worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartKind {
    /// Nothing of note.
    First,
    /// The slot has had a worker that accepted.
    Replacement,
    /// The slot backs off.
    Retry,
}

/// What a slot shows about its generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// Nothing yet: no worker has accepted, and the slot does not back off.
    Open,
    /// Its workers can accept.
    Accepts,
    /// The slot backs off, and none of its workers has accepted.
    Fails,
}

impl Default for Slot {
    fn default() -> Self {
        Slot::Vacant(Record::default())
    }
}

impl Slot {
    /// The next step.
    pub fn next(&self, now: Moment) -> Next {
        let Slot::Vacant(Record { has_accepted, throttle }) = self else { return Next::Stay };
        match throttle.until() {
            Some(until) if until > now => Next::Wait(until),
            _ if throttle.backs_off() => Next::Fill(StartKind::Retry),
            _ if *has_accepted => Next::Fill(StartKind::Replacement),
            _ => Next::Fill(StartKind::First),
        }
    }

    /// What the slot shows about its generation.
    pub fn sign(&self) -> Sign {
        let Record { has_accepted, throttle } = self.record();
        match (has_accepted, throttle.backs_off()) {
            (true, _) => Sign::Accepts,
            (false, true) => Sign::Fails,
            (false, false) => Sign::Open,
        }
    }

    /// Whether the slot waits before it is filled again.
    pub fn backs_off(&self) -> bool {
        self.record().throttle.backs_off()
    }

    /// Its worker.
    pub fn pid(&self) -> Option<Pid> {
        match *self {
            Slot::Vacant(_) => None,
            Slot::Starting(pid, _) | Slot::Serving(pid, _) => Some(pid),
        }
    }

    /// The slot has got this worker.
    pub fn filled(self, pid: Pid) -> Slot {
        Slot::Starting(pid, self.record())
    }

    /// Its worker accepts.
    pub fn accepting(self) -> Slot {
        match self {
            Slot::Starting(pid, record) => {
                Slot::Serving(pid, Record { has_accepted: true, ..record })
            }
            slot => slot,
        }
    }

    /// Its worker has ended at `now`. `random` spreads the delay that may follow.
    pub fn vacated(self, end: End, now: Moment, random: u64) -> (Slot, Option<Delay>) {
        let mut record = self.record();
        let delay = record.throttle.died(end, now, random);
        (Slot::Vacant(record), delay)
    }

    fn record(&self) -> Record {
        match *self {
            Slot::Vacant(record) | Slot::Starting(_, record) | Slot::Serving(_, record) => record,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use End::{AtWork, Lived, Young};
    use Next::{Fill, Stay, Wait};
    use Sign::{Accepts, Fails, Open};
    use StartKind::{First, Replacement, Retry};

    const NOW: Moment = Moment::from_nanos(5_000_000_000);
    const PID: Pid = Pid::from_raw(7);

    /// A slot with this record, whose workers ended like this, one after the other.
    fn after(shown: Sign, ends: &[End]) -> Slot {
        ends.iter().fold(Slot::default(), |slot, &end| {
            let slot = slot.filled(PID);
            let slot = if shown == Accepts { slot.accepting() } else { slot };
            slot.vacated(end, NOW, 100).0
        })
    }

    #[test]
    fn what_a_slot_does_next_follows_from_its_state() {
        let later = NOW + std::time::Duration::from_millis(100);
        let cases = [
            ("new", Slot::default(), NOW, Fill(First), Open),
            ("starting", Slot::default().filled(PID), NOW, Stay, Open),
            ("serving", Slot::default().filled(PID).accepting(), NOW, Stay, Accepts),
            ("one died young", after(Open, &[Young]), NOW, Fill(First), Open),
            ("two died young", after(Open, &[Young; 2]), NOW, Wait(later), Fails),
            ("its delay is over", after(Open, &[Young; 2]), later, Fill(Retry), Fails),
            ("the retry starts", after(Open, &[Young; 2]).filled(PID), later, Stay, Fails),
            ("one crashed at work", after(Accepts, &[AtWork]), NOW, Fill(Replacement), Accepts),
            ("two died idle and young", after(Accepts, &[Young; 2]), NOW, Wait(later), Accepts),
            (
                "one lived after two that did not",
                after(Accepts, &[Young, Young, Lived]),
                NOW,
                Fill(Replacement),
                Accepts,
            ),
        ];
        for (what, slot, now, next, sign) in cases {
            assert_eq!((slot.next(now), slot.sign()), (next, sign), "{what}: {slot:?}");
        }
    }

    #[test]
    fn only_a_starting_worker_begins_to_accept() {
        assert_eq!(Slot::default().accepting(), Slot::default());
        let serving = Slot::default().filled(PID).accepting();
        assert_eq!((serving.accepting(), serving.pid()), (serving, Some(PID)));
    }
}
