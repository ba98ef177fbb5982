//! A pool: workers that share one listener and one service, kept at size.
//!
//! What decides is pure and apart: [`throttle`] how long a slot waits,
//! [`overdue`] when a connection has taken too long, [`cause`] why a worker
//! ended. What acts is here: fork, signal, take note.
#![forbid(unsafe_code)]

mod blueprint;
mod cause;
mod death;
mod generation;
mod memory;
mod overdue;
mod rates;
mod shared;
mod spawn;
mod throttle;
mod trial;
mod worker;

use std::io;
use std::rc::Rc;
use std::time::Duration;

use nix::libc;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::config;
use crate::listener::Listener;
use crate::log::event::Event;
use crate::log::rate::HeldBack;
use crate::scoreboard::{InHand, Look};
use crate::sys::clock::Moment;
use crate::sys::wait::{Exit, Reaped};

pub use blueprint::Blueprint;
pub use cause::Asked;
pub use generation::Standing;
pub use shared::Shared;

use cause::{Cause, Killer};
use death::{Death, Unfinished};
use generation::{Generation, Slot, Start};
use overdue::Step;
use rates::Rates;
use trial::Trial;
use worker::Worker;

/// The workers of one `[pool.NAME]`, of the newest generation and of older
/// ones that still serve.
pub struct Pool {
    current: Generation,
    /// The generation that serves on until the current one is ready.
    elder: Option<Generation>,
    trial: Trial,
    /// Workers that were asked to retire.
    leaving: Vec<Worker>,
    /// When to look for connections that may become overdue.
    next_look: Option<Moment>,
    rates: Rates,
    /// How the last worker that died young ended.
    last_failure: Option<String>,
}

impl Pool {
    /// A pool without a worker yet.
    pub fn new(blueprint: Blueprint, listener: Rc<Listener>) -> Self {
        Pool {
            current: Generation::new(blueprint, listener),
            elder: None,
            trial: Trial::default(),
            leaving: Vec::new(),
            next_look: None,
            rates: Rates::new(),
            last_failure: None,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.current.blueprint.config.name
    }

    /// What the configuration says of it.
    pub fn config(&self) -> &config::Pool {
        &self.current.blueprint.config
    }

    /// How many workers it is to keep.
    pub fn size(&self) -> u32 {
        self.current.slots.len() as u32
    }

    /// How far its current generation has come.
    pub fn standing(&self) -> Standing {
        self.current.standing()
    }

    /// How the last worker that died young ended.
    pub fn last_failure(&self) -> Option<&str> {
        self.last_failure.as_deref()
    }

    /// Whether it has no worker any more.
    pub fn is_empty(&self) -> bool {
        self.workers().next().is_none()
    }

    /// The listeners that its serving workers use.
    pub fn listeners(&self) -> impl Iterator<Item = &Rc<Listener>> {
        self.generations().filter_map(|generation| generation.listener.as_ref())
    }

    /// Changes how many workers it is to keep.
    pub fn resize(&mut self, size: u32) {
        let mut surplus = self.current.resize(size);
        surplus.iter_mut().for_each(|worker| worker.retire(Asked::Retire));
        self.leaving.append(&mut surplus);
    }

    /// Lets go of the listener, asks every worker to retire, and fills no slot
    /// again. Clients that come from now on are refused, and not left waiting
    /// for a worker that will never be.
    pub fn close(&mut self, why: Asked) {
        // The listener goes last: until then a worker that has not been asked
        // yet must not find it broken.
        let listener = self.current.listener.take();
        let elder = self.elder.take();
        let mut workers = self.current.resize(0);
        workers.iter_mut().for_each(|worker| worker.retire(why));
        self.leaving.append(&mut workers);
        if let Some(elder) = elder {
            self.dismiss(elder, why);
        }
        drop(listener);
    }

    /// Ends the connections in hand, as when their time is over, so that their
    /// workers can leave and their programs are asked to.
    pub fn cut(&self) {
        for worker in self.workers() {
            if let Some(connection) = worker.seat.look().in_hand {
                worker.seat.mark_overdue(connection);
                worker.signal(Signal::SIGALRM);
            }
        }
    }

    /// Kills every worker.
    pub fn kill_all(&mut self, why: Asked) {
        self.workers_mut().for_each(|worker| worker.kill(why));
    }

    /// Sends a signal to every worker.
    pub fn signal_all(&self, signal: Signal) {
        self.workers().for_each(|worker| worker.signal(signal));
    }

    /// Takes note of which workers have got as far as accepting.
    pub fn look_who_accepts(&mut self) {
        // An elder one may be the current one again, if the reload is undone.
        self.generations_mut().for_each(Generation::look_who_accepts);
    }

    /// Fills the empty slots whose time has come, and tells how many.
    ///
    /// # Errors
    ///
    /// fork failed; the slots that are still empty stay so.
    pub fn fill(
        &mut self,
        now: Moment,
        shared: &mut Shared,
        events: &mut Vec<Event>,
    ) -> io::Result<usize> {
        self.current.epoch = shared.generation;
        let mut started = Vec::new();
        let filled = self.generations_mut().try_for_each(|it| it.fill(now, shared, &mut started));
        for start in &started {
            match self.rates.start(start.kind, now) {
                Some(held_back) => events.push(self.started(start, held_back)),
                None => self.generations_mut().for_each(|it| it.leave_untold(start.pid)),
            }
        }
        filled.map(|()| started.len())
    }

    /// Tells of the workers whose start was held back, and which then lived.
    pub fn tell_recovered(&mut self, now: Moment, events: &mut Vec<Event>) {
        let recovered: Vec<_> =
            self.generations_mut().flat_map(|generation| generation.recovered(now)).collect();
        for start in &recovered {
            if let Some(held_back) = self.rates.recovery(now) {
                events.push(self.started(start, held_back));
            }
        }
    }

    /// When there may be such a worker next.
    pub fn next_recovery(&self) -> Option<Moment> {
        self.generations().filter_map(Generation::next_recovery).min()
    }

    fn started(&self, start: &Start, held_back: HeldBack) -> Event {
        let Start { slot, pid, generation, .. } = *start;
        let pool = self.name().to_owned();
        Event::WorkerStarted { pool, slot, pid, generation, held_back }
    }

    /// Whether this child is a worker of it.
    pub fn has(&self, pid: Pid) -> bool {
        self.workers().any(|worker| worker.pid == pid)
    }

    /// Takes note of the end of a child, if it was one of ours. `random`
    /// spreads the delay of a slot that backs off.
    pub fn file(
        &mut self,
        reaped: &Reaped,
        now: Moment,
        random: u64,
        shared: &mut Shared,
        events: &mut Vec<Event>,
    ) -> bool {
        let Some(Found { slot, worker }) = self.find(reaped.pid) else { return false };
        // Who says goodbye has not failed, whoever asked for it.
        let look = worker.seat.look();
        let left = reaped.exit == Exit::Code(0) && look.leaving.is_some();
        let death = self.explain(worker, look, reaped, now, shared);
        let mut throttled = None;
        let mut is_retry = false;
        if let Some((of_elder, index)) = slot {
            let elder = self.elder.as_mut().filter(|_| of_elder);
            let generation = elder.unwrap_or(&mut self.current);
            let min_uptime = generation.blueprint.config.min_uptime;
            let slot = &mut generation.slots[index];
            slot.has_accepted |= look.is_accepting;
            // One that failed before it got as far as accepting died young, however long
            // that took. One that somebody has ended did not fail.
            let crashed = matches!(death.cause, Cause::Crashed | Cause::OutOfMemory);
            let failed = crashed && !look.is_accepting;
            let early = death.uptime < min_uptime || failed;
            let young = early && death.served == 0 && !left;
            is_retry = young && slot.throttle.is_throttled();
            if young {
                let reason =
                    death.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
                self.last_failure = Some(format!("its worker {}{reason}", death.exit));
            }
            let delay = slot.throttle.died(young, now, random);
            throttled = delay.map(|delay| (delay, slot.throttle.deaths()));
        }
        let (pool, slot) = (death.pool.clone(), death.slot);
        self.log_death(death, is_retry, now, events);
        if let Some((delay_ms, deaths)) = throttled
            && let Some(held_back) = self.rates.delay(now)
        {
            events.push(Event::RespawnThrottled { pool, slot, deaths, delay_ms, held_back });
        }
        true
    }

    /// Finds connections that take too long, and does what is due.
    pub fn watch(&mut self, now: Moment, events: &mut Vec<Event>) {
        // Each generation has its own; the shortest sets the pace.
        let Some(pace) = self.workers().filter_map(|worker| worker.timeouts.request).min() else {
            return;
        };
        // The pace may have become shorter since the last look.
        let is_look = self.next_look.is_none_or(|next| now >= next || next > now + pace);
        if is_look {
            self.next_look = Some(now + pace);
        }
        let mut late = Vec::new();
        for worker in self.workers_mut() {
            let Some(request_timeout) = worker.timeouts.request else { continue };
            if !is_look && worker.watch.deadline().is_none_or(|deadline| now < deadline) {
                continue;
            }
            let in_hand = worker.seat.look().in_hand;
            if is_look {
                worker.watch.look(in_hand, request_timeout);
            }
            match worker.watch.step(in_hand, now, worker.timeouts.kill) {
                None => {}
                Some(Step::Alarm(connection)) => {
                    let peer = worker.seat.peer().to_string();
                    worker.seat.mark_overdue(connection);
                    worker.signal(Signal::SIGALRM);
                    late.push((worker.slot, worker.pid, now - connection.began, peer));
                }
                Some(Step::AlarmAgain(_)) => worker.signal(Signal::SIGALRM),
                Some(Step::Kill) => worker.kill(Asked::TimeOut),
            }
        }
        for (slot, pid, elapsed_ms, peer) in late {
            if let Some(held_back) = self.rates.time_out(now) {
                let pool = self.name().to_owned();
                events.push(Event::WorkerTimedOut { pool, slot, pid, elapsed_ms, peer, held_back });
            }
        }
    }

    /// When to look after connections next.
    pub fn next_watch(&self) -> Option<Moment> {
        let looks = self.workers().any(|worker| worker.timeouts.request.is_some());
        let look = self.next_look.filter(|_| looks);
        let steps = self.workers().filter_map(|worker| worker.watch.deadline()).min();
        [look, steps].into_iter().flatten().min()
    }

    /// When to fill an empty slot next: a moment that has passed if one may be
    /// filled at once.
    pub fn next_spawn(&self) -> Option<Moment> {
        self.generations().filter_map(Generation::next_spawn).min()
    }

    /// Adds up the workers that have a connection in hand, those that wait for
    /// one, and the slots that back off.
    pub fn count(&self, busy: &mut usize, idle: &mut usize, throttled: &mut usize) {
        let is_busy = |worker: &&Worker| worker.seat.look().in_hand.is_some();
        let at_work = self.workers().filter(is_busy).count();
        *busy += at_work;
        *idle += self.workers().count() - at_work;
        let waits = |slot: &&Slot| slot.worker.is_none() && slot.throttle.is_throttled();
        *throttled += self.current.slots.iter().filter(waits).count();
    }

    /// How long a worker may take from the polite signal to SIGKILL.
    pub fn kill_timeout(&self) -> Duration {
        self.config().kill_timeout
    }

    fn dismiss(&mut self, mut generation: Generation, why: Asked) {
        let mut workers = generation.resize(0);
        workers.iter_mut().for_each(|worker| worker.retire(why));
        self.leaving.append(&mut workers);
        // Only now does the generation drop its listener.
    }

    /// Takes the worker `pid` from wherever it is.
    fn find(&mut self, pid: Pid) -> Option<Found> {
        let mut of_elder = false;
        for generation in [Some(&mut self.current), self.elder.as_mut()].into_iter().flatten() {
            if let Some((index, worker)) = generation.take(pid) {
                return Some(Found { slot: Some((of_elder, index)), worker });
            }
            of_elder = true;
        }
        let index = self.leaving.iter().position(|worker| worker.pid == pid)?;
        Some(Found { slot: None, worker: self.leaving.swap_remove(index) })
    }

    fn generations(&self) -> impl Iterator<Item = &Generation> {
        self.elder.iter().chain([&self.current])
    }

    fn generations_mut(&mut self) -> impl Iterator<Item = &mut Generation> {
        self.elder.iter_mut().chain([&mut self.current])
    }

    /// Why a worker ended.
    fn explain(
        &self,
        worker: Worker,
        look: Look,
        reaped: &Reaped,
        now: Moment,
        shared: &mut Shared,
    ) -> Death {
        let is_sigkill = matches!(reaped.exit, Exit::Signal { number: libc::SIGKILL, .. });
        let killer = match (is_sigkill, worker.killed) {
            (true, true) => Killer::Master,
            (true, false) if shared.oom_kills.take_one(now) => Killer::Kernel,
            _ => Killer::Unknown,
        };
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
            cause: Cause::of(reaped.exit, worker.asked, killer, look.leaving),
            killer,
            uptime: now - worker.started,
            served: look.served,
            in_hand: look.in_hand.map(unfinished),
            usage: reaped.usage,
            reason: worker.seat.reason(),
        }
    }

    fn log_death(&mut self, death: Death, is_retry: bool, now: Moment, events: &mut Vec<Event>) {
        if let Some(held_back) = self.rates.end(death.cause, is_retry, now) {
            events.push(death.told(held_back));
        }
    }

    fn workers(&self) -> impl Iterator<Item = &Worker> {
        self.generations().flat_map(Generation::workers).chain(&self.leaving)
    }

    fn workers_mut(&mut self) -> impl Iterator<Item = &mut Worker> {
        let elder = self.elder.iter_mut().flat_map(Generation::workers_mut);
        self.current.workers_mut().chain(elder).chain(&mut self.leaving)
    }
}

/// A worker and the slot that it leaves empty, if it had one: whether that is
/// of the elder, and its index.
struct Found {
    slot: Option<(bool, usize)>,
    worker: Worker,
}
