//! A pool: workers that share listeners and one service, kept at size.
//!
//! Pure decisions are apart: [`slot`] decides the next step of a slot, [`throttle`] how
//! long the slot waits, and [`overdue`] when a connection has taken too long.
//! [`retirement`] decides what happens when a worker does not leave, [`cause`] why a worker
//! ended, and [`death`] what that means for its successor. The acting code is here, and in
//! the files named after its steps.
#![forbid(unsafe_code)]

mod agenda;
mod arrivals;
mod attend;
mod blueprint;
mod cause;
mod cut;
mod death;
mod drain;
mod filing;
mod generation;
mod inheritance;
mod listeners;
mod mend;
mod oom_kills;
mod overdue;
mod rates;
mod retirement;
mod room;
mod slot;
mod spawn;
mod throttle;
mod trial;
mod worker;

use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use slog::Level;

use crate::config;
use crate::listener::Listener;
use crate::log::event::Event;
use crate::log::rate::HeldBack;
use crate::sys::clock::Moment;
use crate::sys::fork::LONGEST_ROW;

pub use blueprint::Blueprint;
pub use cause::Asked;
pub use generation::{Gate, Standing};
pub use inheritance::Inheritance;
pub use listeners::Listeners;
pub use mend::Mending;
pub use oom_kills::OomKills;

use agenda::{Agenda, Task};
use drain::Closing;
use generation::Generation;
use mend::{Health, Tries};
use rates::Rates;
use room::Shortage;
use slot::StartKind;
use spawn::spawn;
use worker::{Place, Untold, Worker};

/// The workers of one `[pool.NAME]`: those of the serving generation, of one that a reload
/// tries, and of older ones that are leaving.
pub struct Pool {
    /// All workers, also leaving ones. The table only points to the workers and so is
    /// small, because each fork copies the mappings of its pages.
    workers: HashMap<Pid, Box<Worker>>,
    serving: Generation,
    /// The generation that takes over if the reload is committed.
    next: Option<Generation>,
    /// How many generations there have been.
    generations: u64,
    agenda: Agenda,
    /// How often to look for connections that may become overdue.
    pace: Option<Duration>,
    /// When to do so next.
    next_look: Option<Moment>,
    rates: Rates,
    /// The last generation that `max_workers` held back.
    shortage: Option<Shortage>,
    health: Health,
    /// The tries to have a lost listener again.
    tries: Tries,
    /// Its end, once it has begun.
    closing: Closing,
    /// How the last worker that died young ended.
    last_failure: Option<String>,
}

/// What the workers of a pool are doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// How many have a connection in hand.
    pub busy: usize,
    /// How many wait for one.
    pub idle: usize,
    /// How many were asked to retire and are still there.
    pub retiring: usize,
    /// How many slots back off.
    pub throttled: usize,
}

impl Pool {
    /// A pool without a worker yet. Its workers may accept once the gate is open.
    pub fn new(blueprint: Blueprint, listeners: Listeners, gate: Gate) -> Self {
        if gate == Gate::Open {
            listeners.suit();
        }
        let mut pool = Pool {
            workers: HashMap::with_capacity(blueprint.config.workers as usize),
            serving: Generation::new(0, blueprint, listeners, gate),
            next: None,
            generations: 1,
            agenda: Agenda::default(),
            pace: None,
            next_look: None,
            rates: Rates::new(),
            shortage: None,
            health: Health::Trusted,
            tries: Tries::default(),
            closing: Closing::default(),
            last_failure: None,
        };
        pool.keep_pace(Moment::now());
        pool
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.serving.blueprint.config.name
    }

    /// What the configuration says of it.
    pub fn config(&self) -> &config::Pool {
        &self.serving.blueprint.config
    }

    /// How many workers it is to keep.
    pub fn target(&self) -> u32 {
        self.serving.target()
    }

    /// How far the generation has come that serves.
    pub fn standing(&self) -> Standing {
        self.serving.standing(self.room())
    }

    /// Whether it is down: every slot backs off, and no worker accepts.
    pub fn is_down(&self) -> bool {
        let accepts =
            |pid| self.workers.get(&pid).is_some_and(|worker| worker.seat.look().is_accepting);
        self.serving.failing().is_some_and(|mut workers| !workers.any(accepts))
    }

    /// How the last worker that died young ended.
    pub fn last_failure(&self) -> Option<&str> {
        self.last_failure.as_deref()
    }

    /// Whether it has no worker any more.
    pub fn is_empty(&self) -> bool {
        self.workers.is_empty() && self.closing.is_over()
    }

    /// Whether this child is a worker of it.
    pub fn has(&self, pid: Pid) -> bool {
        self.workers.contains_key(&pid)
    }

    /// Its listeners: of the generation that takes over first.
    pub fn listeners(&self) -> impl Iterator<Item = &Rc<Listener>> {
        let generations = self.next.iter().chain([&self.serving]);
        generations.flat_map(|generation| generation.listeners.iter())
    }

    /// How long a worker may take from the polite signal to SIGKILL.
    pub fn kill_timeout(&self) -> Duration {
        self.config().kill_timeout
    }

    /// Changes how many workers it is to keep.
    pub fn resize(&mut self, target: u32, now: Moment) {
        let surplus = self.serving.resize(target);
        self.retire(surplus, Asked::Retire, now);
    }

    /// Keeps so many workers more or less, also after a reload that is under way.
    pub fn scale(&mut self, step: i64, now: Moment) {
        self.resize(scaled(self.config(), self.serving.target(), step), now);
        if self.next.is_some() {
            self.scale_trial(step, now);
        }
    }

    /// The same for what a reload tries.
    pub fn scale_trial(&mut self, step: i64, now: Moment) {
        let tried = self.next.as_mut().unwrap_or(&mut self.serving);
        let surplus = tried.resize(scaled(&tried.blueprint.config, tried.target(), step));
        self.retire(surplus, Asked::Retire, now);
    }

    /// Releases the listeners, asks every worker to retire, and fills no slot again. Later
    /// clients are refused, and do not wait in vain for a worker.
    pub fn close(&mut self, why: Asked, now: Moment) {
        // The listeners go last: until then a worker that has not been asked
        // yet must not find its own broken.
        let next = self.next.take();
        let listeners = (std::mem::take(&mut self.serving.listeners), next.map(|it| it.listeners));
        self.serving.resize(0);
        self.closing.end();
        let all = self.workers.keys().copied().collect();
        self.retire(all, why, now);
        drop(listeners);
    }

    /// How many connections were ended so that their workers can leave.
    pub fn connections_cut(&self) -> u64 {
        self.closing.cut.len() as u64
    }

    /// Kills every worker.
    pub fn kill_all(&mut self, why: Asked) {
        self.workers.values_mut().for_each(|worker| worker.kill(why));
    }

    /// Sends a signal to every worker.
    pub fn signal_all(&self, signal: Signal) {
        self.workers.values().for_each(|worker| worker.signal(signal));
    }

    /// What its workers are doing.
    pub fn census(&self) -> Census {
        let mut census = Census { throttled: self.serving.backing_off(), ..Census::default() };
        for worker in self.workers.values() {
            let is_busy = worker.seat.look().in_hand.is_some();
            *(if is_busy { &mut census.busy } else { &mut census.idle }) += 1;
            census.retiring += usize::from(worker.place == Place::Leaving);
        }
        census
    }

    /// When the pool must act without any event. The moment has passed if a slot may be
    /// filled at once.
    pub fn deadline(&self) -> Option<Moment> {
        let agenda = self.agenda.next();
        if self.may_fill() { Some(Moment::default()) } else { agenda }
    }

    /// The worker `pid` has reported that it accepts. Its page has the same fact, but
    /// cannot be read if the machine is short of memory.
    pub fn note_arrival(&mut self, pid: Pid) {
        let Some(worker) = self.workers.get_mut(&pid) else { return };
        let (place, slot) = (worker.place, worker.slot);
        worker.late = None;
        if worker.untold == Untold::Starting {
            let until = worker.started + worker.terms.min_uptime;
            worker.untold = Untold::Until(until);
            self.agenda.add(until, Task::Worker(pid));
        }
        if let Some(generation) = self.generation_at(place) {
            generation.accepts(slot);
        }
    }

    /// Fills the vacant slots whose time has come, and tells how many.
    ///
    /// # Errors
    ///
    /// fork failed; the slots that are still vacant stay so.
    pub fn fill(
        &mut self,
        now: Moment,
        inheritance: &mut Inheritance,
        events: &mut Vec<Event>,
    ) -> io::Result<usize> {
        self.tell_of_shortage(now, events);
        if !self.may_fill() {
            return Ok(0);
        }
        let mut started = Vec::new();
        let filled = self.fork_all(now, inheritance, &mut started);
        for &(pid, kind) in &started {
            match self.rates.start(kind, now) {
                Some(held_back) => events.extend(self.started(pid, kind, held_back)),
                None => self.leave_untold(pid),
            }
        }
        filled.map(|()| started.len())
    }

    fn fork_all(
        &mut self,
        now: Moment,
        inheritance: &mut Inheritance,
        started: &mut Vec<(Pid, StartKind)>,
    ) -> io::Result<()> {
        let mut room = self.room();
        for generation in [Some(&mut self.serving), self.next.as_mut()].into_iter().flatten() {
            loop {
                let (slots, kinds): (Vec<_>, Vec<_>) =
                    generation.take_due(room.min(LONGEST_ROW), now).into_iter().unzip();
                if slots.is_empty() {
                    break;
                }
                let (workers, done) = spawn(generation, &slots, inheritance);
                generation.put_back(&slots[workers.len()..]);
                room -= workers.len();
                for (worker, kind) in workers.into_iter().zip(kinds) {
                    generation.fill(worker.slot, worker.pid);
                    started.push((worker.pid, kind));
                    if let Some(late) = worker.late {
                        self.agenda.add(late, Task::Worker(worker.pid));
                    }
                    self.workers.insert(worker.pid, Box::new(worker));
                }
                done?;
            }
        }
        Ok(())
    }

    fn started(&self, pid: Pid, kind: StartKind, held_back: HeldBack) -> Option<Event> {
        // At a start or a reload, one line for the pool is enough.
        let level = if kind == StartKind::First { Level::Debug } else { Level::Info };
        let Worker { slot, generation, .. } = **self.workers.get(&pid)?;
        let pool = self.name().to_owned();
        Some(Event::WorkerStarted { level, pool, slot, pid, generation, held_back })
    }

    fn leave_untold(&mut self, pid: Pid) {
        if let Some(worker) = self.workers.get_mut(&pid) {
            worker.untold = Untold::Starting;
        }
    }

    /// Asks these to retire.
    fn retire(&mut self, pids: Vec<Pid>, why: Asked, now: Moment) {
        for pid in pids {
            if let Some(worker) = self.workers.get_mut(&pid) {
                worker.retire(why, now);
                if let Some(at) = worker.deadline() {
                    self.agenda.add(at, Task::Worker(pid));
                }
            }
        }
    }

    pub fn may_fill(&self) -> bool {
        self.room() > 0
            && self.generations().any(|generation| generation.vacancies() > 0)
            && self.has_use_for_workers()
    }

    fn generations(&self) -> impl Iterator<Item = &Generation> {
        self.next.iter().chain([&self.serving])
    }

    fn generation_at(&mut self, place: Place) -> Option<&mut Generation> {
        let Place::Slot(id) = place else { return None };
        [Some(&mut self.serving), self.next.as_mut()].into_iter().flatten().find(|it| it.id == id)
    }
}

/// This many workers more or less than `workers`, within the limits. Within `max_workers`
/// one place stays free, for the first worker of the next reload.
fn scaled(config: &config::Pool, workers: u32, step: i64) -> u32 {
    let max_workers = config.max_workers.as_ref();
    let most = max_workers.map_or(config::MOST_WORKERS, |most| most.get_ref() - 1);
    (i64::from(workers) + step).clamp(1, i64::from(most.min(config::MOST_WORKERS))) as u32
}
