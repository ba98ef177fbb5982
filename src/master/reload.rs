//! Reload, as a transaction: all that can fail first is planned; then all is changed;
//! and if the new workers cannot even start, it is changed back.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

use crate::config;
use crate::control::Reply;
use crate::error::{Code, Error, reason};
use crate::listener::Listener;
use crate::log;
use crate::log::event::Event;
use crate::log::sink::{Kind, Sink};
use crate::pool::{Asked, Blueprint, Pool, Shared, Standing};

use super::Master;
use super::changes::{Change, Together, changes};
use super::phase::Phase;
use super::plan::{Plan, open_log};

/// A reload whose new workers have still to show that they start. Until then
/// all that it replaces stays, and it can be undone.
#[derive(Debug)]
pub struct Pending {
    /// What becomes of each pool, by this reload after those whose place it took.
    changes: Together,
    /// What it has replaced.
    daemon: config::Daemon,
    log: config::Log,
}

/// The parts of the master that a reload changes.
struct Target<'a> {
    pools: &'a mut Vec<Pool>,
    daemon: &'a mut config::Daemon,
    log: &'a mut config::Log,
    shared: &'a mut Shared,
    news: &'a mut Vec<Event>,
}

impl Pending {
    /// Carries the plan out, as far as it can be undone. `earlier` is a reload
    /// that has not concluded: this one takes its place.
    fn begin(plan: Plan, target: Target<'_>, earlier: Option<Pending>) -> Pending {
        let Target { pools, daemon, log, shared, news } = target;
        news.extend(plan.news);
        let changes: BTreeMap<String, Change> = {
            let running = pools.iter().map(|pool| (pool.config(), pool.size()));
            let wanted = plan.pools.iter().map(|(blueprint, _)| &blueprint.config);
            // Workers hold the log and the listener that they were forked with.
            let is_other_log = *log != plan.log;
            let rebound = rebound(&plan.pools, pools);
            let changes = changes(running, wanted, |pool| {
                is_other_log || rebound.contains(&pool.name.as_str())
            });
            changes.into_iter().map(|(name, change)| (name.to_owned(), change)).collect()
        };
        shared.generation += 1;
        let before = (std::mem::replace(daemon, plan.daemon), log.clone());
        change_log(log, plan.log, plan.sink, shared, news);
        apply(&changes, plan.pools, pools, news);
        let first = Pending { changes: Together::default(), daemon: before.0, log: before.1 };
        let mut pending = earlier.unwrap_or(first);
        pending.changes.add(changes);
        pending
    }

    /// Ends the reload: with all of it in force, or, if the workers of a pool
    /// cannot start, with none of it. Gives the pools that go, and what to say.
    fn conclude(self, target: Target<'_>) -> (Vec<Pool>, Ended) {
        let Target { pools, daemon, log, shared, news } = target;
        let failures: Vec<_> = on_trial(pools, Standing::Failed).map(could_not_start).collect();
        if failures.is_empty() {
            let gone = pools.extract_if(.., |pool| !pool.commit()).collect();
            return (gone, Ok(Reloaded::new(shared.generation, &self.changes)));
        }
        *daemon = self.daemon;
        if *log != self.log {
            let sink = open_log(Kind::of(&self.log)).ok();
            change_log(log, self.log, sink, shared, news);
        }
        let gone = pools.extract_if(.., |pool| !pool.revert()).collect();
        (gone, Err(Error::new(Code::Unavailable, failures.join("; "))))
    }
}

/// Whether the pools of a reload have shown how they stand.
fn is_settled(pools: &[Pool]) -> bool {
    on_trial(pools, Standing::Failed).next().is_some()
        || on_trial(pools, Standing::Starting).next().is_none()
}

fn on_trial(pools: &[Pool], wanted: Standing) -> impl Iterator<Item = &Pool> {
    pools.iter().filter(move |pool| pool.is_on_trial() && pool.standing() == wanted)
}

/// How a reload has ended.
type Ended = Result<Reloaded, Error>;

/// A changed configuration that is in force; the pools by name, with spaces.
#[derive(Debug)]
pub struct Reloaded {
    /// Its epoch.
    pub generation: u64,
    /// The pools that are new.
    pub added: String,
    /// The pools that are no more.
    pub removed: String,
    /// The pools with new workers.
    pub renewed: String,
    /// The pools with more workers or fewer.
    pub resized: String,
}

impl Reloaded {
    fn new(generation: u64, changes: &Together) -> Self {
        let named = |wanted| {
            let names = changes.all().filter(|(_, change)| *change == wanted);
            names.map(|(name, _)| name).collect::<Vec<_>>().join(" ")
        };
        Reloaded {
            generation,
            added: named(Change::Add),
            removed: named(Change::Remove),
            renewed: named(Change::Renew),
            resized: named(Change::Resize),
        }
    }

    /// What the log is to tell of it.
    fn told(self) -> Event {
        let some = |names: String| Some(names).filter(|names| !names.is_empty());
        Event::Reloaded {
            generation: self.generation,
            added: some(self.added),
            removed: some(self.removed),
            renewed: some(self.renewed),
            resized: some(self.resized),
        }
    }
}

impl fmt::Display for Reloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Reloaded { generation, added, removed, renewed, resized } = self;
        write!(f, "reloaded, generation: {generation}")?;
        [("added", added), ("removed", removed), ("renewed", renewed), ("resized", resized)]
            .into_iter()
            .filter(|(_, names)| !names.is_empty())
            .try_for_each(|(what, names)| write!(f, ", {what}: {names}"))
    }
}

impl Master<'_> {
    /// Begins a reload, or refuses it.
    pub(super) fn reload(&mut self) {
        if self.announced {
            self.observer.reloading();
        }
        self.outcomes.ask();
        let plan = match self.plan_reload() {
            Ok(plan) => plan,
            Err(error) => {
                self.outcomes.refuse(Reply::from(&error));
                return self.tell_reload(Err(error));
            }
        };
        self.outcomes.begin();
        let earlier = self.pending.take();
        self.pending = Some(Pending::begin(plan, self.reload_target(), earlier));
        self.keep_listeners();
        if self.phase == Phase::Running {
            self.enter(Phase::Reloading);
        }
    }

    fn plan_reload(&self) -> Result<Plan, Error> {
        let config = config::reload(&self.file)?;
        if config.daemon.control != self.daemon.control {
            // Who asks for the reload looks for its answer at the new place.
            let place = self.daemon.control.display();
            let message = format!(
                "could not move control socket \"{place}\": it stays while the daemon runs"
            );
            let hint = "restart the daemon, or take the change of [daemon].control back";
            return Err(Error::new(Code::Config, message).with_hint(hint));
        }
        let log = Some(self.shared.sink.kind());
        Plan::make(config, &self.services, &self.pools, &self.inherited, log)
    }

    /// Ends a reload, once its pools have shown how they stand.
    pub(super) fn settle_reload(&mut self) {
        let Some(pending) = self.pending.take_if(|_| is_settled(&self.pools)) else { return };
        let (mut gone, ended) = pending.conclude(self.reload_target());
        gone.iter_mut().for_each(|pool| pool.close(Asked::Retire));
        self.removed.append(&mut gone);
        self.keep_listeners();
        self.outcomes.end(match &ended {
            Ok(reloaded) => Reply::done(reloaded),
            Err(error) => Reply::from(error),
        });
        self.tell_reload(ended);
        if self.phase == Phase::Reloading {
            self.enter(Phase::Running);
        }
    }

    /// Tells everybody how a reload has ended.
    fn tell_reload(&mut self, ended: Ended) {
        // Of the last one: an older one that ends now must not hide that a newer one
        // was refused.
        self.remark = self.outcomes.of(self.outcomes.last()).map(|last| match last.code {
            0 => "reloaded".to_owned(),
            _ => format!("reload failed: {}", last.text),
        });
        self.news.push(match ended {
            Ok(reloaded) => reloaded.told(),
            Err(error) => Event::ReloadFailed { reason: error.to_string() },
        });
        // One that was begun before this one was refused is still on its way.
        if self.announced && self.pending.is_none() {
            self.owes_ready = true;
        }
    }

    fn reload_target(&mut self) -> Target<'_> {
        Target {
            pools: &mut self.pools,
            daemon: &mut self.daemon,
            log: &mut self.log,
            shared: &mut self.shared,
            news: &mut self.news,
        }
    }
}

/// The pools with a listener that was bound for this reload.
fn rebound<'a>(planned: &'a [(Blueprint, Rc<Listener>)], running: &[Pool]) -> Vec<&'a str> {
    let is_kept = |listener: &Rc<Listener>| {
        running.iter().flat_map(Pool::listeners).any(|kept| Rc::ptr_eq(kept, listener))
    };
    let new = planned.iter().filter(|(_, listener)| !is_kept(listener));
    new.map(|(blueprint, _)| blueprint.config.name.as_str()).collect()
}

/// Why a pool does not work, in words.
pub fn could_not_start(pool: &Pool) -> String {
    let reason = pool.last_failure().unwrap_or("no worker got as far as accepting");
    format!("could not start pool \"{}\": {reason}", pool.name())
}

fn change_log(
    log: &mut config::Log,
    wanted: config::Log,
    sink: Option<Sink>,
    shared: &mut Shared,
    news: &mut Vec<Event>,
) {
    if *log == wanted {
        return;
    }
    if let Some(sink) = sink
        && let Err(error) = shared.sink.become_like(sink)
    {
        news.push(Event::CouldNotChangeLog { reason: reason(&error) });
    }
    shared.log = log::logger(&wanted, &shared.sink);
    *log = wanted;
}

fn apply(
    changes: &BTreeMap<String, Change>,
    planned: Vec<(Blueprint, Rc<Listener>)>,
    pools: &mut Vec<Pool>,
    news: &mut Vec<Event>,
) {
    let mut before: BTreeMap<String, Pool> =
        pools.drain(..).map(|pool| (pool.name().to_owned(), pool)).collect();
    for (blueprint, listener) in planned {
        let listen = blueprint.config.listen.get_ref();
        if let Err(error) = listener.adjust(listen) {
            let (pool, address) = (blueprint.config.name.clone(), listen.address.to_string());
            news.push(Event::CouldNotAdjustListener { pool, address, reason: reason(&error) });
        }
        let name = blueprint.config.name.clone();
        let Some(mut pool) = before.remove(&name) else {
            pools.push(Pool::new(blueprint, listener).on_trial());
            continue;
        };
        pool.doom(false);
        match changes.get(&name) {
            Some(Change::Keep) => {}
            Some(Change::Resize) => pool.resize_to(blueprint.config),
            _ => pool.renew(blueprint, listener),
        }
        pools.push(pool);
    }
    pools.extend(before.into_values().map(|mut pool| {
        pool.doom(true);
        pool
    }));
}
