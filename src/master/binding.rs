//! The listeners of each pool: kept from a running pool, adopted, or bound.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::io;
use std::rc::Rc;

use nix::errno::Errno;
use toml::Spanned;

use crate::config::{Address, Listen, Pool, Problem};
use crate::error::{Code, Error};
use crate::listener::{self, BoundBy, Inherited, Listener, could_not_bind, stored_name};
use crate::log::event::Event;
use crate::pool::{self, Blueprint, Listeners};

/// The listeners of a pool. Events about them go to `news`.
///
/// # Errors
///
/// Why some are missing, each at the place where its address is written.
pub fn listeners(
    blueprint: &Blueprint,
    running: &[pool::Pool],
    inherited: &[Inherited],
    news: &mut Vec<Event>,
) -> Result<Listeners, Vec<Problem>> {
    let pool = &blueprint.config;
    let mut bound = Vec::new();
    let mut problems = Vec::new();
    for listen in pool.listen.iter() {
        let address = &listen.get_ref().address;
        if let Some(listener) = find(running, address) {
            problems.extend(cannot_change(pool, listen, &listener));
            bound.push(listener);
            continue;
        }
        match open(pool, listen, inherited, news) {
            Ok(listener) => {
                news.push(listening(&listener, &pool.name, blueprint.user()));
                bound.push(Rc::new(listener));
            }
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() { Ok(Listeners::new(bound)) } else { Err(problems) }
}

/// The reason why a running listener cannot change as configured.
fn cannot_change(pool: &Pool, listen: &Spanned<Listen>, running: &Listener) -> Option<Problem> {
    let key = running.bound_otherwise(listen.get_ref())?;
    let address = &listen.get_ref().address;
    let message = format!("could not change {key} of listener \"{address}\": it stays bound");
    let problem = problem(pool, listen, &Error::new(Code::CannotCreate, message));
    Some(problem.with_hint("restart the daemon, or leave the listener as it is"))
}

fn listening(listener: &Listener, pool: &str, user: String) -> Event {
    let socket = match listener.address() {
        Address::Systemd(name) => Some(name.clone()),
        _ => None,
    };
    Event::Listening { pool: pool.to_owned(), address: listener.bound(), user, socket }
}

/// Checks that this address of a pool can be bound, as far as possible without binding it.
pub fn probe(pool: &Pool, listen: &Spanned<Listen>) -> Option<Problem> {
    let error = listener::check(listen.get_ref()).err()?;
    Some(not_bound(pool, listen, &error))
}

/// Checks that a pool could adopt the sockets that its addresses name, if these were
/// passed.
pub fn probe_passed(pool: &Pool, passed: &[Inherited]) -> Vec<Problem> {
    let is_passed =
        |listen: &&Spanned<Listen>| matches!(listen.get_ref().address, Address::Systemd(_));
    let listens = pool.listen.iter().filter(is_passed);
    listens.filter_map(|listen| open(pool, listen, passed, &mut Vec::new()).err()).collect()
}

/// Finds the listener of this address. One whose file is gone has left its address,
/// whatever the configuration says: nobody can connect to it.
pub fn find(running: &[pool::Pool], address: &Address) -> Option<Rc<Listener>> {
    let is_it = |listener: &&Rc<Listener>| listener.address() == address && listener.is_in_place();
    running.iter().flat_map(pool::Pool::listeners).find(is_it).cloned()
}

/// The sockets that a socket unit has made and no pool serves: their clients wait.
pub fn unserved<'a>(
    pools: &'a [(Blueprint, Listeners)],
    inherited: &'a [Inherited],
) -> impl Iterator<Item = Event> + 'a {
    let names: BTreeSet<_> = inherited.iter().map(|socket| socket.name.as_str()).collect();
    let is_served = |name: &str| {
        let address = Address::Systemd(name.to_owned());
        let all = pools.iter().flat_map(|(_, listeners)| listeners.iter());
        all.into_iter().any(|listener| *listener.address() == address)
    };
    names.into_iter().filter(move |name| !is_served(name)).map(|name| Event::CouldNotServeSocket {
        socket: name.to_owned(),
        reason: format!("no pool listens on \"systemd:{name}\""),
    })
}

/// Adopts the listener that was passed or stored for this address, or binds it.
fn open(
    pool: &Pool,
    place: &Spanned<Listen>,
    inherited: &[Inherited],
    news: &mut Vec<Event>,
) -> Result<Listener, Problem> {
    let listen = place.get_ref();
    let (name, by) = match &listen.address {
        Address::Systemd(name) => (name.clone(), BoundBy::SocketUnit),
        address => (stored_name(address), BoundBy::Us),
    };
    let mut passed = inherited.iter().filter(|socket| socket.name == name);
    let first = passed.next();
    // An address has one listener; the clients of the others would wait for ever.
    let others = passed.count();
    if by == BoundBy::SocketUnit && others > 0 {
        let reason = format!("systemd passed {} sockets of this name", others + 1);
        let hint = "each ListenStream= needs a socket unit and a FileDescriptorName= of its own";
        return Err(could_not_adopt(pool, place, &reason, hint));
    }
    let Some(socket) = first.filter(|_| !lacks_file(&listen.address)) else {
        return bind(pool, place);
    };
    let listener = match Listener::adopt(socket, &listen.address, by) {
        // It would be passed again at each start.
        Err(error) if by == BoundBy::Us => {
            let (address, reason) = (listen.address.to_string(), error.to_string());
            news.push(Event::CouldNotKeepListener { address, reason });
            return bind(pool, place);
        }
        adopted => adopted.map_err(|error| problem(pool, place, &error))?,
    };
    if let Some(key) = listener.bound_otherwise(listen) {
        let (address, reason) = (listen.address.to_string(), format!("its {key} was changed"));
        news.push(Event::CouldNotKeepListener { address, reason });
        listener.shut_down();
        return bind(pool, place);
    }
    listener.adjust(listen).map_err(|error| {
        let what = format!("adjust listener \"{}\"", listen.address);
        problem(pool, place, &Error::system(what, &error))
    })?;
    Ok(listener)
}

fn bind(pool: &Pool, place: &Spanned<Listen>) -> Result<Listener, Problem> {
    let listen = place.get_ref();
    if matches!(listen.address, Address::Systemd(_)) {
        let hint = "the unit needs a .socket with this FileDescriptorName=";
        return Err(could_not_adopt(pool, place, "no such socket was passed", hint));
    }
    Listener::bind(listen).map_err(|error| not_bound(pool, place, &error))
}

fn could_not_adopt(pool: &Pool, place: &Spanned<Listen>, reason: &str, hint: &str) -> Problem {
    let message = format!("could not adopt listener \"{}\": {reason}", place.get_ref().address);
    problem(pool, place, &Error::new(Code::CannotCreate, message)).with_hint(hint)
}

/// Why an address could not be bound, and what may help.
fn not_bound(pool: &Pool, place: &Spanned<Listen>, error: &io::Error) -> Problem {
    let listen = place.get_ref();
    let problem = problem(pool, place, &could_not_bind("listener", &listen.address, error));
    match hint(listen, error) {
        Some(hint) => problem.with_hint(hint),
        None => problem,
    }
}

fn hint(listen: &Listen, error: &io::Error) -> Option<String> {
    if error.kind() == io::ErrorKind::AddrInUse {
        let holder = listener::holder::of(&listen.address)?;
        return Some(format!("{holder} listens there"));
    }
    // What the system says of a file whose owner or group is not the daemon's own.
    if error.raw_os_error() != Some(Errno::EPERM as i32) {
        return listener::hint(&listen.address, error).map(str::to_owned);
    }
    let name = |name: &Spanned<String>| name.get_ref().clone();
    match (listen.owner.as_ref().map(name), listen.group.as_ref().map(name)) {
        (Some(owner), _) => Some(format!("only root can give the socket to user \"{owner}\"")),
        (None, Some(group)) => Some(format!(
            "the daemon has to be in group \"{group}\", by SupplementaryGroups={group} in its unit"
        )),
        (None, None) => None,
    }
}

fn problem(pool: &Pool, place: &Spanned<Listen>, error: &Error) -> Problem {
    pool.problem("listen", place.span(), error).with_code(error.code())
}

/// Whether somebody has removed the file of a socket: nobody can connect to it
/// any more, though it was kept.
fn lacks_file(address: &Address) -> bool {
    matches!(address, Address::Path(path) if !path.exists())
}
