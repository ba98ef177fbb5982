//! The tasks of a pool that are due.
#![forbid(unsafe_code)]

use nix::unistd::Pid;
use slog::Level;

use crate::log::event::Event;
use crate::log::rate::HeldBack;
use crate::scoreboard::InHand;
use crate::sys::clock::Moment;
use crate::sys::family::Marks;
use crate::sys::wait::Halt;

use super::agenda::Task;
use super::cut::{cut, kill_rest, who_serves};
use super::worker::{Untold, Worker};
use super::{Asked, Pool};
use super::{overdue, retirement};

impl Pool {
    /// Does all whose time has come, except filling slots.
    pub fn attend(&mut self, now: Moment, events: &mut Vec<Event>) {
        let marks = &mut Marks::default();
        while let Some(task) = self.agenda.take_due(now) {
            match task {
                // Filling slots looks at it.
                Task::Room => {}
                Task::Listeners => self.try_again(),
                Task::Queue => self.look_at_queue(now),
                Task::Unused => self.end_unused(now),
                Task::Connections => self.look_at_connections(now, marks, events),
                Task::Slot(id, slot) => {
                    let generations = [Some(&mut self.serving), self.next.as_mut()];
                    if let Some(it) = generations.into_iter().flatten().find(|it| it.id == id) {
                        it.look_whether_due(slot, now);
                    }
                }
                Task::Worker(pid) => self.attend_to(pid, now, marks, events),
            }
        }
    }

    /// Looks at the connections as often as the shortest `request_timeout` wants it.
    pub(super) fn keep_pace(&mut self, now: Moment) {
        let of_generations =
            self.generations().filter_map(|it| it.blueprint.config.request_timeout);
        let of_workers = self.workers.values().filter_map(|worker| worker.terms.request_timeout);
        let pace = of_generations.chain(of_workers).min();
        let is_quicker = pace.is_some_and(|pace| self.pace.is_none_or(|before| pace < before));
        self.pace = pace;
        if is_quicker {
            self.plan_look(now);
        }
    }

    /// Plans the next look at the connections, in the place of one that was planned.
    fn plan_look(&mut self, now: Moment) {
        self.next_look = self.pace.map(|pace| now + pace);
        if let Some(at) = self.next_look {
            self.agenda.add(at, Task::Connections);
        }
    }

    fn look_at_connections(&mut self, now: Moment, marks: &mut Marks, events: &mut Vec<Event>) {
        // A replaced look stays in the agenda, and would plan another one.
        if self.next_look.is_none_or(|at| at > now) {
            return;
        }
        let mut due = Vec::new();
        for (&pid, worker) in &mut self.workers {
            let Some(request_timeout) = worker.terms.request_timeout else { continue };
            if let Some(serial) = worker.watch.look(worker.seat.look().in_hand, request_timeout) {
                kill_rest(pid, serial, marks);
            }
            match worker.watch.deadline() {
                Some(at) if at <= now => due.push(pid),
                Some(at) => self.agenda.add(at, Task::Worker(pid)),
                None => {}
            }
        }
        due.into_iter().for_each(|pid| self.attend_to(pid, now, marks, events));
        self.keep_pace(now);
        self.plan_look(now);
    }

    fn attend_to(&mut self, pid: Pid, now: Moment, marks: &mut Marks, events: &mut Vec<Event>) {
        let Some(worker) = self.workers.get_mut(&pid) else { return };
        match worker.deadline() {
            Some(deadline) if deadline <= now => {}
            Some(deadline) => return self.agenda.add(deadline, Task::Worker(pid)),
            None => return,
        }
        let look = worker.seat.look();
        let in_hand = look.in_hand;
        if worker.late.take_if(|late| *late <= now).is_some() && !look.is_accepting {
            worker.kill(Asked::Late);
        }
        let pool = &self.serving.blueprint.config.name;
        let rates = &mut self.rates;
        if let Some(connection) = watch(worker, in_hand, now, marks)
            && let Some(held_back) = rates.time_out(now)
        {
            let (pool, slot, peer) = (pool.clone(), worker.slot, worker.seat.peer().to_string());
            let elapsed_ms = now - connection.began;
            events.push(Event::WorkerTimedOut { pool, slot, pid, elapsed_ms, peer, held_back });
        }
        events.extend(press(worker, in_hand, pool, now, marks));
        if worker.suspended.is_some_and(|until| until <= now) {
            worker.kill(Asked::Suspended);
        }
        if matches!(worker.untold, Untold::Until(until) if until <= now) {
            worker.untold = Untold::No;
            if let Some(held_back) = rates.recovery(now) {
                let Worker { slot, generation, .. } = **worker;
                let (level, pool) = (Level::Info, pool.clone());
                events.push(Event::WorkerStarted { level, pool, slot, pid, generation, held_back });
            }
        }
        if let Some(at) = worker.deadline() {
            self.agenda.add(at, Task::Worker(pid));
        }
    }

    /// A worker was suspended or resumed by a signal.
    pub fn note_halt(&mut self, pid: Pid, halt: Halt, now: Moment, events: &mut Vec<Event>) {
        let Some(worker) = self.workers.get_mut(&pid) else { return };
        match halt {
            Halt::Resumed => worker.suspended = None,
            Halt::Suspended if worker.killed => {}
            // Also if it was suspended already: the kernel reports each stop once, so it was
            // resumed in between, and the master was too late to see that.
            Halt::Suspended => {
                let until = now + worker.terms.kill_timeout;
                worker.suspended = Some(until);
                self.agenda.add(until, Task::Worker(pid));
                let Worker { slot, generation, .. } = **worker;
                if let Some(held_back) = self.rates.halt(now) {
                    let pool = self.name().to_owned();
                    events.push(Event::WorkerStopped { pool, slot, pid, generation, held_back });
                }
            }
        }
    }
}

/// Does what is due to an overdue connection. Gives the one whose time has just run out.
fn watch(
    worker: &mut Worker,
    in_hand: Option<InHand>,
    now: Moment,
    marks: &mut Marks,
) -> Option<InHand> {
    match worker.watch.step(in_hand, now, worker.terms.kill_timeout)? {
        overdue::Step::Alarm(connection) => {
            cut(worker, connection, marks);
            Some(connection)
        }
        overdue::Step::AlarmAgain(connection) => {
            worker.cut(connection);
            if worker.program.is_some() {
                kill_rest(worker.pid, connection.serial, marks);
            }
            None
        }
        overdue::Step::Rest(serial) => {
            if worker.program.is_some() {
                kill_rest(worker.pid, serial, marks);
            }
            None
        }
        overdue::Step::Kill => {
            worker.kill(Asked::TimeOut);
            None
        }
    }
}

/// Does what is due to a worker that was asked to retire.
fn press(
    worker: &mut Worker,
    in_hand: Option<InHand>,
    pool: &str,
    now: Moment,
    marks: &mut Marks,
) -> Option<Event> {
    let bounds = worker.bounds();
    let retirement = worker.retirement.as_mut()?;
    let step = retirement.step(in_hand, now, bounds)?;
    let (elapsed_ms, held_back) = (retirement.elapsed(now), HeldBack::NONE);
    let (pool, pid) = (pool.to_owned(), worker.pid);
    let Worker { slot, generation, .. } = *worker;
    match step {
        retirement::Step::Kill => {
            worker.kill(worker.asked.unwrap_or(Asked::Retire));
            Some(Event::WorkerNotRetiring { pool, slot, pid, generation, elapsed_ms, held_back })
        }
        retirement::Step::Cut(connection) => {
            let peer = worker.seat.peer().to_string();
            worker.retirement = None;
            let (pid, program) = who_serves(worker);
            cut(worker, connection, marks);
            worker.watch.alarm(connection, now, worker.terms.kill_timeout);
            let (elapsed_ms, reason) = (now - connection.began, "retire_timeout".to_owned());
            Some(Event::ConnectionCut {
                pool,
                slot,
                pid,
                program,
                peer,
                elapsed_ms,
                reason,
                held_back,
            })
        }
        retirement::Step::Wait => None,
    }
}
