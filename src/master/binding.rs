//! The listener of each pool: kept from a running pool, adopted, or bound.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::rc::Rc;

use crate::config::{Address, Listen, Pool, Problem};
use crate::error::{Code, Error};
use crate::listener::{self, BoundBy, Inherited, Listener, could_not_bind, stored_name};
use crate::log::event::Event;
use crate::pool::{self, Blueprint};

/// The listener of a pool. What is to be told about it goes to `news`.
///
/// # Errors
///
/// Why there is none, at the place where its address is written.
pub fn listener(
    blueprint: &Blueprint,
    running: &[pool::Pool],
    inherited: &[Inherited],
    news: &mut Vec<Event>,
) -> Result<Rc<Listener>, Problem> {
    let pool = &blueprint.config;
    let listen = pool.listen.get_ref();
    if let Some(listener) = find(running, &listen.address) {
        return Ok(listener);
    }
    let listener = open(pool, listen, inherited, news)?;
    let (address, user) = (listen.address.to_string(), blueprint.user());
    news.push(Event::Listening { pool: pool.name.clone(), address, user });
    Ok(Rc::new(listener))
}

/// What would keep the address of a pool from being bound, as far as that is known
/// without binding it.
pub fn probe(pool: &Pool) -> Option<Problem> {
    let listen = pool.listen.get_ref();
    let error = listener::check(listen).err()?;
    Some(problem(pool, &could_not_bind("listener", &listen.address, &error)))
}

/// Finds the listener of this address. One whose file is gone has left its address,
/// whatever the configuration says: nobody can connect to it.
pub fn find(running: &[pool::Pool], address: &Address) -> Option<Rc<Listener>> {
    let is_it = |listener: &&Rc<Listener>| listener.address() == address && listener.is_in_place();
    running.iter().flat_map(pool::Pool::listeners).find(is_it).cloned()
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
fn open(
    pool: &Pool,
    listen: &Listen,
    inherited: &[Inherited],
    news: &mut Vec<Event>,
) -> Result<Listener, Problem> {
    let (name, by) = match &listen.address {
        Address::Systemd(name) => (name.clone(), BoundBy::SocketUnit),
        address => (stored_name(address), BoundBy::Us),
    };
    let mut passed = inherited.iter().filter(|socket| socket.name == name);
    let first = passed.next();
    // A pool has one listener; the clients of the others would wait for ever.
    let others = passed.count();
    if by == BoundBy::SocketUnit && others > 0 {
        let reason = format!("systemd passed {} sockets of this name", others + 1);
        let hint = "each ListenStream= needs a socket unit and a FileDescriptorName= of its own";
        return Err(could_not_adopt(pool, listen, &reason, hint));
    }
    let Some(socket) = first.filter(|_| !lacks_file(&listen.address)) else {
        return bind(pool, listen);
    };
    let listener = match Listener::adopt(socket, &listen.address, by) {
        // It would be passed again at each start.
        Err(error) if by == BoundBy::Us => {
            let (address, reason) = (listen.address.to_string(), error.to_string());
            news.push(Event::CouldNotKeepListener { address, reason });
            return bind(pool, listen);
        }
        adopted => adopted.map_err(|error| problem(pool, &error))?,
    };
    listener.adjust(listen).map_err(|error| {
        let what = format!("adjust listener \"{}\"", listen.address);
        problem(pool, &Error::system(what, &error))
    })?;
    Ok(listener)
}

fn bind(pool: &Pool, listen: &Listen) -> Result<Listener, Problem> {
    if matches!(listen.address, Address::Systemd(_)) {
        let hint = "the unit needs a .socket with this FileDescriptorName=";
        return Err(could_not_adopt(pool, listen, "no such socket was passed", hint));
    }
    Listener::bind(listen)
        .map_err(|error| problem(pool, &could_not_bind("listener", &listen.address, &error)))
}

fn could_not_adopt(pool: &Pool, listen: &Listen, reason: &str, hint: &str) -> Problem {
    let message = format!("could not adopt listener \"{}\": {reason}", listen.address);
    problem(pool, &Error::new(Code::CannotCreate, message)).with_hint(hint)
}

fn problem(pool: &Pool, error: &Error) -> Problem {
    pool.problem("listen", pool.listen.span(), error).with_code(error.code())
}

/// Whether somebody has removed the file of a socket: nobody can connect to it
/// any more, though it was kept.
fn lacks_file(address: &Address) -> bool {
    matches!(address, Address::Path(path) if !path.exists())
}
