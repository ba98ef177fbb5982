//! The plan of a start or a reload: a checked configuration with its sockets bound. It
//! touches nothing that runs.
#![forbid(unsafe_code)]

use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::{AccessFlags, eaccess};

use crate::accounts;
use crate::config::{self, Address, Config, Problem, Problems};
use crate::error::{Code, Error};
use crate::listener::Inherited;
use crate::log::event::Event;
use crate::log::sink::{Kind, Sink};
use crate::pool::{Blueprint, Listeners, Pool};
use crate::service::Services;
use crate::sys::fork;
use crate::sys::place::Place;
use crate::unit::{self, Refused};

use super::{binding, control};

/// A checked configuration with its sockets bound: what cannot fail any more.
pub struct Plan {
    pub daemon: config::Daemon,
    pub log: config::Log,
    pub pools: Vec<(Blueprint, Listeners)>,
    /// The log, if it is another one than before.
    pub sink: Option<Sink>,
    /// The listeners that are new.
    pub news: Vec<Event>,
}

/// Puts the number in the place of each port that has a name.
///
/// # Errors
///
/// The names that mean nothing here.
pub fn number_ports(config: &mut Config) -> Result<(), Problems> {
    config.number_ports(accounts::port)
}

/// Checks a configuration without leaving anything behind, for a daemon that is to
/// be started with it. `passed` are the sockets that it would inherit, where that is known.
///
/// # Errors
///
/// All problems at once.
pub fn check(
    mut config: Config,
    services: &Services,
    passed: Option<&[Inherited]>,
) -> Result<(), Problems> {
    number_ports(&mut config)?;
    let mut problems = Vec::new();
    if let Err(error) = control::check(&config.daemon.control) {
        problems.push(Problem::new(&error).with_code(error.code()));
    }
    problems.extend(probe(&config, |_| true));
    if let Some(passed) = passed {
        let missing = |pool: &config::Pool| binding::probe_passed(pool, passed);
        problems.extend(config.pools.iter().flat_map(missing));
    }
    problems.extend(draw(config, services).err().into_iter().flatten());
    Problems::unless_empty(problems, ())
}

/// Draws the pools of a configuration, and checks what of it a reload may change.
fn draw(config: Config, services: &Services) -> Result<Vec<Blueprint>, Problems> {
    let mut problems = Vec::new();
    if let Err(error) = check_log(&Kind::of(&config.log)) {
        problems.push(Problem::new(&error).with_code(error.code()));
    }
    let mut blueprints = Vec::new();
    for pool in config.pools {
        match Blueprint::draw(pool, services) {
            Ok(blueprint) => blueprints.push(blueprint),
            Err(these) => problems.extend(these),
        }
    }
    if let Err(error) = fork::check() {
        let error = Error::system("make services", &error).with_code(Code::Software);
        let hint = "a service starts its threads in `Service::start`, in the worker";
        problems.push(Problem::new(&error).with_code(error.code()).with_hint(hint));
    }
    Problems::unless_empty(problems, blueprints)
}

/// Draws the pools of a configuration for a daemon that runs with the pools `running`.
///
/// # Errors
///
/// All that is wrong with it. Then its new addresses are looked at, too, and not bound:
/// clients would connect to what is refused.
pub fn draw_reload(
    config: &Config,
    services: &Services,
    running: &[Pool],
) -> Result<Vec<Blueprint>, Problems> {
    draw(config.clone(), services).map_err(|mut problems| {
        problems.extend(probe(config, |address| binding::find(running, address).is_none()));
        problems
    })
}

/// Checks that the addresses that are `asked` for can be bound.
fn probe(config: &Config, asked: impl Fn(&Address) -> bool) -> Vec<Problem> {
    let all =
        config.pools.iter().flat_map(|pool| pool.listen.iter().map(move |listen| (pool, listen)));
    all.filter(|(_, listen)| asked(&listen.get_ref().address))
        .filter_map(|(pool, listen)| binding::probe(pool, listen))
        .collect()
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
        let blueprints = draw_reload(&config, services, running)?;
        let Config { daemon, log: new_log, .. } = config;
        let kind = Kind::of(&new_log);
        let mut pools = Vec::with_capacity(blueprints.len());
        let mut news = Vec::new();
        let mut problems = Vec::new();
        for mut blueprint in blueprints {
            if kind == Kind::Journal {
                blueprint.log_stderr();
            }
            match binding::listeners(&blueprint, running, inherited, &mut news) {
                Ok(listeners) => {
                    if blueprint.is_root() {
                        news.push(Event::PoolRunsAsRoot { pool: blueprint.config.name.clone() });
                    }
                    if let Err(error) = blueprint.seal().and_then(|()| blueprint.open_ledger()) {
                        problems.push(Problem::new(&error).with_code(error.code()));
                    }
                    pools.push((blueprint, listeners));
                }
                Err(these) => problems.extend(these),
            }
        }
        let sink = match log {
            Some(log) if *log == kind => None,
            _ => open_log(kind)
                .map_err(|error| problems.push(Problem::new(&error).with_code(error.code())))
                .ok(),
        };
        Ok(Problems::unless_empty(problems, Plan { daemon, log: new_log, pools, sink, news })?)
    }
}

/// Finds what would keep the log from being opened, without opening it: a FIFO
/// would wake its reader.
fn check_log(kind: &Kind) -> Result<(), Error> {
    let Kind::File(path) = kind else { return Ok(()) };
    Place::of(path).and_then(|place| place.look()).map_err(|error| could_not_open(kind, &error))?;
    let checked = match path.metadata() {
        Ok(file) if file.is_dir() => Err(Errno::EISDIR),
        Ok(_) => eaccess(path, AccessFlags::W_OK),
        Err(_) => {
            let directory = path.parent().unwrap_or(Path::new("/"));
            eaccess(directory, AccessFlags::W_OK | AccessFlags::X_OK)
        }
    };
    checked.map_err(|errno| could_not_open(kind, &errno.into()))
}

fn could_not_open(kind: &Kind, error: &io::Error) -> Error {
    let told = Error::system(format!("open log \"{kind}\""), error);
    let Kind::File(path) = kind else { return told };
    match unit::hint(Refused::Write(path), error) {
        Some(hint) => told.with_hint(hint),
        None => told.with_hint("see [log].file"),
    }
}

/// Opens the log.
pub fn open_log(kind: Kind) -> Result<Sink, Error> {
    Sink::open(kind.clone()).map_err(|error| could_not_open(&kind, &error))
}
