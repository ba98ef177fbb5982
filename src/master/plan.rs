//! What a start or a reload is to be: a checked configuration with its sockets
//! bound, and nothing touched that runs.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::rc::Rc;

use nix::errno::Errno;
use nix::unistd::{AccessFlags, eaccess};

use crate::config::{self, Address, Config, Listen, Problem, Problems};
use crate::error::{Code, Error};
use crate::listener::{Inherited, Listener, could_not_bind, stored_name};
use crate::log::event::Event;
use crate::log::sink::{Kind, Sink};
use crate::pool::{Blueprint, Pool};
use crate::service::Services;
use crate::sys::fork;
use crate::sys::place::Place;

use super::control;

/// A checked configuration with its sockets bound: what cannot fail any more.
pub struct Plan {
    pub daemon: config::Daemon,
    pub log: config::Log,
    pub pools: Vec<(Blueprint, Rc<Listener>)>,
    /// The log, if it is another one than before.
    pub sink: Option<Sink>,
    /// The listeners that are new.
    pub news: Vec<Event>,
}

/// Checks a configuration without leaving anything behind, for a daemon that is to
/// be started with it.
///
/// # Errors
///
/// All that is wrong with it, told at once.
pub fn check(config: Config, services: &Services) -> Result<(), Problems> {
    let mut problems = Vec::new();
    if let Err(error) = control::check(&config.daemon.control) {
        problems.push(Problem::new(&error).with_code(error.code()));
    }
    if let Err(these) = draw(config, services) {
        problems.extend(these);
    }
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
        let blueprints = draw(config, services)?;
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
                    let listener = open_listener(listen, inherited, &mut news)?;
                    let pool = blueprint.config.name.clone();
                    let (address, user) = (listen.address.to_string(), blueprint.user());
                    news.push(Event::Listening { pool, address, user });
                    Rc::new(listener)
                }
            };
            if blueprint.is_root() {
                news.push(Event::PoolRunsAsRoot { pool: blueprint.config.name.clone() });
            }
            pools.push((blueprint, listener));
        }
        let sink = match log {
            Some(log) if *log == kind => None,
            _ => Some(open_log(kind)?),
        };
        Ok(Plan { daemon, log: new_log, pools, sink, news })
    }
}

/// The sockets that a socket unit has made and no pool serves: their clients wait.
pub fn unserved<'a>(
    pools: &'a [(Blueprint, Rc<Listener>)],
    inherited: &'a [Inherited],
) -> impl Iterator<Item = Event> + 'a {
    let names: BTreeSet<_> = inherited.iter().map(|socket| socket.name.as_str()).collect();
    let is_served = |name: &str| {
        let address = Address::Systemd(name.to_owned());
        pools.iter().any(|(_, listener)| *listener.address() == address)
    };
    names.into_iter().filter(move |name| !is_served(name)).map(|name| Event::CouldNotServeSocket {
        socket: name.to_owned(),
        reason: format!("no pool listens on \"systemd:{name}\""),
    })
}

/// Adopts the listener that was passed or stored for this address, or binds it.
fn open_listener(
    listen: &Listen,
    inherited: &[Inherited],
    news: &mut Vec<Event>,
) -> Result<Listener, Error> {
    let (name, is_ours) = match &listen.address {
        Address::Systemd(name) => (name.clone(), false),
        address => (stored_name(address), true),
    };
    let mut passed = inherited.iter().filter(|socket| socket.name == name);
    let first = passed.next();
    // A pool has one listener; the clients of the others would wait for ever.
    let others = passed.count();
    if !is_ours && others > 0 {
        let message = format!(
            "could not adopt listener \"{}\": systemd passed {} sockets of this name",
            listen.address,
            others + 1
        );
        let hint = "each ListenStream= needs a socket unit and a FileDescriptorName= of its own";
        return Err(Error::new(Code::CannotCreate, message).with_hint(hint));
    }
    let Some(socket) = first.filter(|_| !lacks_file(&listen.address)) else {
        return bind(listen);
    };
    let listener = match Listener::adopt(socket, &listen.address, is_ours) {
        // It would be passed again at each start.
        Err(error) if is_ours => {
            let (address, reason) = (listen.address.to_string(), error.to_string());
            news.push(Event::CouldNotKeepListener { address, reason });
            return bind(listen);
        }
        adopted => adopted?,
    };
    listener.adjust(listen).map_err(|error| {
        Error::system(format!("adjust listener \"{}\"", listen.address), &error)
    })?;
    Ok(listener)
}

fn bind(listen: &Listen) -> Result<Listener, Error> {
    if let Address::Systemd(name) = &listen.address {
        let message =
            format!("could not adopt listener \"systemd:{name}\": no such socket was passed");
        let hint = "the unit needs a .socket with this FileDescriptorName=";
        return Err(Error::new(Code::CannotCreate, message).with_hint(hint));
    }
    Listener::bind(listen).map_err(|error| could_not_bind("listener", &listen.address, &error))
}

/// Whether somebody has removed the file of a socket: nobody can connect to it
/// any more, though it was kept.
fn lacks_file(address: &Address) -> bool {
    matches!(address, Address::Path(path) if !path.exists())
}

/// Finds the listener of this address. One whose file is gone has left its address,
/// whatever the configuration says: nobody can connect to it.
fn find(running: &[Pool], address: &Address) -> Option<Rc<Listener>> {
    let is_it = |listener: &&Rc<Listener>| listener.address() == address && listener.is_in_place();
    running.iter().flat_map(Pool::listeners).find(is_it).cloned()
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
    match kind {
        Kind::File(_) => told.with_hint("see [log].file"),
        _ => told,
    }
}

/// Opens the log.
pub fn open_log(kind: Kind) -> Result<Sink, Error> {
    Sink::open(kind.clone()).map_err(|error| could_not_open(&kind, &error))
}
