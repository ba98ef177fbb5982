//! Reload, as a transaction: prepare all, then change all; and if the new
//! workers cannot even start, change back.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::config::{self, Address, Config, Listen, Problems};
use crate::error::{Error, reason};
use crate::listener::{Inherited, Listener, stored_name};
use crate::log;
use crate::log::sink::{Kind, Sink};
use crate::pool::{Blueprint, Pool, Shared};
use crate::service::Services;

use super::changes::{Change, changes};
use super::report::News;

/// A checked configuration with its sockets bound: what cannot fail any more.
pub struct Plan {
    pub daemon: config::Daemon,
    pub log: config::Log,
    pub pools: Vec<(Blueprint, Rc<Listener>)>,
    /// The log, if it is another one than before.
    pub sink: Option<Sink>,
    /// The listeners that are new.
    pub news: Vec<News>,
}

/// Checks a configuration without binding or changing anything.
///
/// # Errors
///
/// All that is wrong with it, told at once.
pub fn check(config: Config, services: &Services) -> Result<Vec<Blueprint>, Problems> {
    let mut problems = Vec::new();
    let mut blueprints = Vec::new();
    for pool in config.pools {
        match Blueprint::draw(pool, services) {
            Ok(blueprint) => blueprints.push(blueprint),
            Err(these) => problems.extend(these),
        }
    }
    Problems::unless_empty(problems, blueprints)
}

impl Plan {
    /// Makes a plan of this configuration. A listener whose address one of the
    /// `running` pools has is kept, the others are bound.
    ///
    /// # Errors
    ///
    /// Nothing has been changed: what was bound is closed again.
    pub fn make(
        config: Config,
        services: &Services,
        running: &[Pool],
        inherited: &[Inherited],
        log: Option<&Kind>,
    ) -> Result<Self, Error> {
        let (daemon, new_log) = (config.daemon.clone(), config.log.clone());
        let blueprints = check(config, services)?;
        let kind = Kind::of(&new_log);
        let mut pools = Vec::with_capacity(blueprints.len());
        let mut news = Vec::new();
        for mut blueprint in blueprints {
            if kind == Kind::Journal {
                blueprint.log_stderr();
            }
            let listen = blueprint.config.listen.get_ref();
            let listener = match find(running, &listen.address) {
                Some(listener) => listener,
                None => {
                    let listener = open_listener(listen, inherited)?;
                    let pool = blueprint.config.name.clone();
                    let address = listen.address.to_string();
                    news.push(News::Listening { pool, address });
                    Rc::new(listener)
                }
            };
            pools.push((blueprint, listener));
        }
        let sink = match log {
            Some(log) if *log == kind => None,
            _ => Some(open_log(kind)?),
        };
        Ok(Plan { daemon, log: new_log, pools, sink, news })
    }
}

/// Adopts the listener that was passed or stored for this address, or binds it.
fn open_listener(listen: &Listen, inherited: &[Inherited]) -> Result<Listener, Error> {
    let (name, is_ours) = match &listen.address {
        Address::Systemd(name) => (name.clone(), false),
        address => (stored_name(address), true),
    };
    match inherited.iter().find(|socket| socket.name == name) {
        Some(socket) => Listener::adopt(socket, &listen.address, is_ours),
        None => Listener::bind(listen),
    }
}

fn find(running: &[Pool], address: &Address) -> Option<Rc<Listener>> {
    running.iter().flat_map(Pool::listeners).find(|listener| listener.address() == address).cloned()
}

/// Opens the log.
pub fn open_log(kind: Kind) -> Result<Sink, Error> {
    let name = kind.to_string();
    Sink::open(kind).map_err(|error| Error::system(format!("open log \"{name}\""), &error))
}

/// A reload whose new workers have still to show that they start.
#[derive(Debug, Default)]
pub struct Pending {
    /// What becomes of each pool.
    changes: BTreeMap<String, Change>,
    /// The pools that could not start, and why.
    failures: Vec<String>,
}

impl Pending {
    /// Carries the plan out. From here on nothing fails.
    pub fn begin(
        plan: Plan,
        pools: &mut Vec<Pool>,
        removed: &mut Vec<Pool>,
        shared: &mut Shared,
        log: &mut config::Log,
        news: &mut Vec<News>,
    ) -> Pending {
        news.extend(plan.news);
        let log_changed = *log != plan.log;
        let changes = {
            let running = pools.iter().map(|pool| (pool.config(), pool.size()));
            let wanted = plan.pools.iter().map(|(blueprint, _)| &blueprint.config);
            // Workers hold the log that they were forked with.
            let changes = changes(running, wanted, log_changed);
            changes.into_iter().map(|(name, change)| (name.to_owned(), change)).collect()
        };
        shared.generation += 1;
        if log_changed {
            if let Some(sink) = plan.sink
                && let Err(error) = shared.sink.become_like(sink)
            {
                news.push(News::Trouble {
                    what: "could not change log".to_owned(),
                    reason: reason(&error),
                });
            }
            shared.log = log::logger(&plan.log, &shared.sink);
            *log = plan.log;
        }
        let pending = Pending { changes, failures: Vec::new() };
        pending.apply(plan.pools, pools, removed, news);
        pending
    }

    fn apply(
        &self,
        planned: Vec<(Blueprint, Rc<Listener>)>,
        pools: &mut Vec<Pool>,
        removed: &mut Vec<Pool>,
        news: &mut Vec<News>,
    ) {
        let mut before: BTreeMap<String, Pool> =
            pools.drain(..).map(|pool| (pool.name().to_owned(), pool)).collect();
        for (blueprint, listener) in planned {
            let listen = blueprint.config.listen.get_ref();
            if let Err(error) = listener.adjust(listen) {
                let what = format!("could not adjust listener \"{}\"", listen.address);
                news.push(News::Trouble { what, reason: reason(&error) });
            }
            let name = blueprint.config.name.clone();
            pools.push(match (before.remove(&name), self.changes.get(&name)) {
                (Some(pool), Some(Change::Keep)) => pool,
                (Some(mut pool), Some(Change::Resize)) => {
                    pool.resize(blueprint.config.workers, Some(blueprint.config));
                    pool
                }
                (Some(mut pool), _) => {
                    pool.renew(blueprint, listener);
                    pool
                }
                (None, _) => Pool::new(blueprint, listener),
            });
        }
        removed.extend(before.into_values());
    }

    /// Whether the pool `name` is one of those that have to show something.
    pub fn concerns(&self, name: &str) -> bool {
        matches!(self.changes.get(name), Some(Change::Add | Change::Renew))
    }

    /// Gives up the new generation of a pool that could not start, and goes
    /// back to what was before: its elder, or no pool at all.
    pub fn give_up(&mut self, pool: &mut Pool) -> Fate {
        let reason = pool.last_failure().unwrap_or("no worker got as far as accepting");
        self.failures.push(format!("could not start pool \"{}\": {reason}", pool.name()));
        if pool.has_elder() {
            pool.roll_back();
            Fate::Stays
        } else {
            Fate::Goes
        }
    }

    /// What to say of it, once every pool has shown how it stands.
    pub fn conclude(self, generation: u64) -> News {
        if !self.failures.is_empty() {
            return News::ReloadFailed { reason: self.failures.join("; ") };
        }
        let named = |wanted| {
            let names = self
                .changes
                .iter()
                .filter(|(_, change)| **change == wanted)
                .map(|(name, _)| name.as_str());
            names.collect::<Vec<_>>().join(" ")
        };
        News::Reloaded {
            generation,
            added: named(Change::Add),
            removed: named(Change::Remove),
            renewed: named(Change::Renew),
            resized: named(Change::Resize),
        }
    }
}

/// What becomes of a pool whose new generation could not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Its elder serves on.
    Stays,
    /// It was new; it is removed.
    Goes,
}
