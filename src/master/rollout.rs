//! A reload under way: one value, from its first fork to its end.
//!
//! Every step that can fail without a worker has already succeeded ([`Plan`]). Here new
//! generations start next to those that serve, and do not accept. Then all is committed in
//! one turn of the loop, or all is undone.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

use crate::config::{self, Config};
use crate::error::reason;
use crate::listener::Listener;
use crate::log;
use crate::log::event::Event;
use crate::log::sink::{Kind, Sink};
use crate::pool::{Blueprint, Gate, Inheritance, Listeners, Pool, Standing};
use crate::sys::clock::Moment;

use super::changes::{Change, changes};
use super::plan::{Plan, open_log};

/// A reload whose new workers have still to show that they start.
#[derive(Debug)]
pub struct Rollout {
    /// The last request that it answers.
    pub number: u64,
    /// How many workers more each pool is to have than the configuration says, by the
    /// signals that came since it was asked for.
    pub scaled: i64,
    /// What is tried.
    config: Config,
    /// What becomes of each pool, by name.
    changes: BTreeMap<String, Change>,
    /// The data to undo it; the pools know the rest.
    undo: Undo,
}

/// What a reload has replaced before it is committed: workers are forked with the log.
#[derive(Debug)]
struct Undo {
    log: config::Log,
}

/// How far a reload has come. Between trying and committed there is room for more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// New workers are on their way.
    Trying,
    /// They are all there.
    Committed,
    /// Those of some pools cannot start.
    Undone {
        /// The pools.
        failed: Vec<String>,
    },
}

/// The parts of the master that a reload changes.
pub struct Target<'a> {
    pub pools: &'a mut Vec<Pool>,
    pub daemon: &'a mut config::Daemon,
    pub log: &'a mut config::Log,
    pub inheritance: &'a mut Inheritance,
    /// The newest configuration epoch; a reload that is undone has had one, too.
    pub epoch: &'a mut u64,
    /// What [`Rollout::scaled`] begins with.
    pub scaled: i64,
    pub news: &'a mut Vec<Event>,
}

impl Rollout {
    /// Starts the new generations of a plan.
    pub fn begin(
        number: u64,
        config: Config,
        plan: Plan,
        target: &mut Target<'_>,
        now: Moment,
    ) -> Rollout {
        let Target { pools, log, inheritance, epoch, scaled, news, .. } = target;
        news.extend(plan.news);
        let changes: BTreeMap<String, Change> = {
            let running =
                pools.iter().map(|pool| (pool.config(), i64::from(pool.target()) - *scaled));
            let wanted = plan.pools.iter().map(|(blueprint, _)| &blueprint.config);
            // Workers hold the log and the listeners that they were forked with.
            let is_other_log = **log != plan.log;
            let rebound = rebound(&plan.pools, pools);
            let changes = changes(running, wanted, |pool| {
                is_other_log || rebound.contains(&pool.name.as_str())
            });
            changes.into_iter().map(|(name, change)| (name.to_owned(), change)).collect()
        };
        **epoch += 1;
        let undo = Undo { log: log.clone() };
        change_log(log, plan.log, plan.sink, inheritance, news);
        for (blueprint, listeners) in plan.pools {
            let running = pools.iter_mut().find(|pool| pool.name() == blueprint.config.name);
            match (changes.get(&blueprint.config.name), running) {
                (Some(Change::Renew), Some(pool)) => {
                    pool.try_out(blueprint, listeners, now);
                    pool.scale_trial(*scaled, now);
                    pool.set_epoch(**epoch);
                }
                (Some(Change::Add), None) => {
                    let mut pool = Pool::new(blueprint, listeners, Gate::Shut);
                    pool.scale_trial(*scaled, now);
                    pool.set_epoch(**epoch);
                    pools.push(pool);
                }
                _ => {}
            }
        }
        Rollout { number, scaled: *scaled, config, changes, undo }
    }

    /// Whether another reload that wants this may join.
    pub fn is_for(&self, config: &Config) -> bool {
        self.config == *config
    }

    /// What the log was before it.
    pub fn log_before(&self) -> &config::Log {
        &self.undo.log
    }

    /// All of it is put in force. Gives the pools that go, and what has changed.
    pub fn commit(self, target: &mut Target<'_>, now: Moment) -> (Vec<Pool>, Reloaded) {
        let Target { pools, daemon, epoch, news, .. } = target;
        let reloaded = Reloaded::new(**epoch, &self.changes, [&**daemon, &self.config.daemon]);
        let change = |pool: &Pool| self.changes.get(pool.name()).copied();
        let gone = pools.extract_if(.., |pool| change(pool) == Some(Change::Remove)).collect();
        **daemon = self.config.daemon;
        let mut resized: BTreeMap<String, config::Pool> = self
            .config
            .pools
            .into_iter()
            .filter(|pool| self.changes.get(&pool.name) == Some(&Change::Resize))
            .map(|pool| (pool.name.clone(), pool))
            .collect();
        for pool in pools.iter_mut() {
            match resized.remove(pool.name()) {
                Some(config) => pool.resize_to(config, self.scaled, now),
                None => pool.commit(now),
            }
            pool.set_epoch(**epoch);
            adjust(pool, news);
        }
        pools.sort_by(|one, other| one.name().cmp(other.name()));
        news.extend(told_of_pools(&self.changes, pools));
        (gone, reloaded)
    }

    /// None of it is put in force. Gives the pools that go.
    pub fn undo(self, target: &mut Target<'_>, now: Moment) -> Vec<Pool> {
        let Target { pools, log, inheritance, news, .. } = target;
        if **log != self.undo.log {
            let sink = open_log(Kind::of(&self.undo.log)).ok();
            change_log(log, self.undo.log, sink, inheritance, news);
        }
        pools.iter_mut().for_each(|pool| pool.revert(now));
        let is_new = |pool: &Pool| self.changes.get(pool.name()) == Some(&Change::Add);
        pools.extract_if(.., |pool| is_new(pool)).collect()
    }
}

/// A line for each pool that has changed.
fn told_of_pools(changes: &BTreeMap<String, Change>, pools: &[Pool]) -> Vec<Event> {
    let size = |name: &str| pools.iter().find(|pool| pool.name() == name).map_or(0, Pool::target);
    let told = changes.iter().filter_map(|(name, change)| {
        let change = change.word()?;
        Some(Event::PoolReloaded { pool: name.clone(), change, workers: size(name) })
    });
    told.collect()
}

/// The next step, from the standing of the pools that a reload tries.
pub fn stage<'a>(tried: impl Iterator<Item = (&'a str, Standing)>) -> Stage {
    let mut is_starting = false;
    let mut failed = Vec::new();
    for (pool, standing) in tried {
        match standing {
            Standing::Starting => is_starting = true,
            Standing::Ready => {}
            Standing::Failed => failed.push(pool.to_owned()),
        }
    }
    match (failed.is_empty(), is_starting) {
        (false, _) => Stage::Undone { failed },
        (true, true) => Stage::Trying,
        (true, false) => Stage::Committed,
    }
}

/// What a reload says of a configuration that says what it said before.
const EVERYTHING: &str = "everything";

/// A configuration that is in force; the pools by name, with spaces.
#[derive(Debug)]
pub struct Reloaded {
    /// Its epoch.
    pub generation: u64,
    /// The pools that are new.
    pub added: String,
    /// The pools that are gone.
    pub removed: String,
    /// The pools with new workers.
    pub renewed: String,
    /// The pools with more workers or fewer.
    pub resized: String,
    /// What is as it was, if nothing at all has changed.
    pub unchanged: Option<&'static str>,
}

impl Reloaded {
    fn new(
        generation: u64,
        changes: &BTreeMap<String, Change>,
        daemon: [&config::Daemon; 2],
    ) -> Self {
        let named = |wanted| {
            let names = changes.iter().filter(|(_, change)| **change == wanted);
            names.map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(" ")
        };
        // A change of the log has renewed all pools.
        let is_same =
            daemon[0] == daemon[1] && changes.values().all(|change| *change == Change::Keep);
        Reloaded {
            generation,
            added: named(Change::Add),
            removed: named(Change::Remove),
            renewed: named(Change::Renew),
            resized: named(Change::Resize),
            unchanged: is_same.then_some(EVERYTHING),
        }
    }

    /// The event for the log.
    pub fn told(self) -> Event {
        let some = |names: String| Some(names).filter(|names| !names.is_empty());
        Event::Reloaded {
            generation: self.generation,
            added: some(self.added),
            removed: some(self.removed),
            renewed: some(self.renewed),
            resized: some(self.resized),
            unchanged: self.unchanged,
        }
    }
}

impl fmt::Display for Reloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Reloaded { generation, added, removed, renewed, resized, unchanged } = self;
        let unchanged = unchanged.unwrap_or_default().to_owned();
        write!(f, "reloaded, generation: {generation}")?;
        let names = [
            ("added", added),
            ("removed", removed),
            ("renewed", renewed),
            ("resized", resized),
            ("unchanged", &unchanged),
        ];
        names
            .into_iter()
            .filter(|(_, names)| !names.is_empty())
            .try_for_each(|(what, names)| write!(f, ", {what}: {names}"))
    }
}

/// The pools with a listener that was bound for this reload.
fn rebound<'a>(planned: &'a [(Blueprint, Listeners)], running: &[Pool]) -> Vec<&'a str> {
    let is_kept = |listener: &Rc<Listener>| {
        running.iter().flat_map(Pool::listeners).any(|kept| Rc::ptr_eq(kept, listener))
    };
    let new = planned.iter().filter(|(_, listeners)| !listeners.iter().all(is_kept));
    new.map(|(blueprint, _)| blueprint.config.name.as_str()).collect()
}

/// Lets the listeners of a pool become what its configuration says.
fn adjust(pool: &Pool, news: &mut Vec<Event>) {
    for listener in pool.listeners() {
        let Some(listen) = pool.config().listen.of(listener.address()) else { continue };
        if let Err(error) = listener.adjust(listen) {
            let (pool, address) = (pool.name().to_owned(), listen.address.to_string());
            news.push(Event::CouldNotAdjustListener { pool, address, reason: reason(&error) });
        }
    }
}

fn change_log(
    log: &mut config::Log,
    wanted: config::Log,
    sink: Option<Sink>,
    inheritance: &mut Inheritance,
    news: &mut Vec<Event>,
) {
    if *log == wanted {
        return;
    }
    if let Some(sink) = sink
        && let Err(error) = inheritance.sink.become_like(sink)
    {
        news.push(Event::CouldNotChangeLog { reason: reason(&error) });
    }
    inheritance.log = log::logger(&wanted, &inheritance.sink);
    *log = wanted;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reload_is_committed_when_all_that_it_tries_is_ready() {
        use Standing::{Failed, Ready, Starting};
        let undone = |failed: &[&str]| Stage::Undone {
            failed: failed.iter().map(|&pool| pool.to_owned()).collect(),
        };
        for (standings, expected) in [
            (&[][..], Stage::Committed),
            (&[("a", Ready), ("b", Ready)], Stage::Committed),
            (&[("a", Ready), ("b", Starting)], Stage::Trying),
            (&[("a", Failed), ("b", Starting)], undone(&["a"])),
            (&[("a", Failed), ("b", Ready), ("c", Failed)], undone(&["a", "c"])),
        ] {
            assert_eq!(stage(standings.iter().copied()), expected, "{standings:?}");
        }
    }
}
