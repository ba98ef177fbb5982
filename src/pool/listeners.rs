//! The listeners of a pool, one for each of its addresses.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::AsFd;
use std::rc::{Rc, Weak};

use crate::config::{Address, Listen};
use crate::listener::{Accept, Listener, Mended};
use crate::worker::{Ending, Inlet};

/// The listeners of a generation, in the order of its configuration.
#[derive(Debug, Default)]
pub struct Listeners(Vec<Berth>);

/// What a generation has at one of its addresses.
#[derive(Debug)]
enum Berth {
    /// This listener.
    Bound(Rc<Listener>),
    /// None: a worker had shut it down, and the address was not free since.
    Lost(Address),
}

/// What mending a listener has led to.
#[derive(Debug)]
pub enum Repair {
    /// It listens, and did all the time.
    Sound,
    /// It listens again.
    Listening,
    /// Another one is in the place of this one.
    Replaced { old: Weak<Listener>, new: Rc<Listener> },
    /// There is one again where there was none.
    Regained,
    /// There is none, for this reason.
    Lost(io::Error),
}

impl Berth {
    fn address(&self) -> &Address {
        match self {
            Berth::Bound(listener) => listener.address(),
            Berth::Lost(address) => address,
        }
    }

    fn listener(&self) -> Option<&Rc<Listener>> {
        match self {
            Berth::Bound(listener) => Some(listener),
            Berth::Lost(_) => None,
        }
    }
}

impl Listeners {
    /// These, which are in the order of the configuration.
    pub fn new(all: Vec<Rc<Listener>>) -> Self {
        Listeners(all.into_iter().map(Berth::Bound).collect())
    }

    /// All that there are.
    pub fn iter(&self) -> impl Iterator<Item = &Rc<Listener>> {
        self.0.iter().filter_map(Berth::listener)
    }

    /// What a worker accepts on.
    pub fn inlets(&self) -> Vec<Inlet<'_>> {
        let ending = |listener: &Listener| match listener.address() {
            // It outlives the daemon, see `Listener::own`.
            Address::Systemd(_) => Ending::Stays,
            Address::Inet(_) => Ending::WouldBlock,
            Address::Path(_) | Address::Abstract(_) => Ending::ShutDown,
        };
        self.iter().map(|it| Inlet { listener: it.as_fd(), ending: ending(it) }).collect()
    }

    /// Makes accept on them what their workers need: on several of them it must not block,
    /// see `worker/reception.rs`; on one it does, which costs the least.
    ///
    /// A worker of an older generation copes with either until it has gone: one that is
    /// caught in an accept leaves at the signal that asks it to.
    pub fn suit(&self) {
        let accept = if self.0.len() > 1 { Accept::Returns } else { Accept::Sleeps };
        // fcntl(2) has no reason to fail. Were it to, a worker could be held up on one
        // listener until its next client.
        self.iter().for_each(|listener| drop(listener.set_accept(accept)));
    }

    /// Lets go of all others.
    pub fn retain(&mut self, stays: impl Fn(&Listener) -> bool) {
        self.0.retain(|berth| berth.listener().is_some_and(|listener| stays(listener)));
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// Whether there is none at an address.
    pub fn has_lost(&self) -> bool {
        self.0.iter().any(|berth| berth.listener().is_none())
    }

    /// Mends the listener of this address, if a worker has shut it down (shutdown(2)).
    ///
    /// An abstract name is free only when nobody has the old socket any more, so this one is
    /// let go of before the new one is bound.
    pub fn mend(&mut self, listen: &Listen) -> Repair {
        let Some(berth) = self.0.iter_mut().find(|berth| *berth.address() == listen.address) else {
            return Repair::Sound;
        };
        let old = match berth {
            Berth::Bound(listener) => match listener.mend(listen) {
                Mended::Sound => return Repair::Sound,
                Mended::ListenedAgain => return Repair::Listening,
                Mended::MustBindAnew => Some(Rc::clone(listener)),
            },
            Berth::Lost(_) => None,
        };
        *berth = Berth::Lost(listen.address.clone());
        let before = old.as_ref().map(Rc::downgrade);
        let new = match old {
            Some(old) if matches!(listen.address, Address::Abstract(_)) => {
                drop(old);
                Listener::bind(listen)
            }
            Some(old) => old.bind_anew(listen),
            None => Listener::bind(listen),
        };
        match new.map(Rc::new) {
            Ok(new) => {
                *berth = Berth::Bound(Rc::clone(&new));
                before.map_or(Repair::Regained, |old| Repair::Replaced { old, new })
            }
            Err(error) => Repair::Lost(error),
        }
    }

    /// Has `new` in the place of `old`, if it has that.
    pub fn replace(&mut self, old: &Weak<Listener>, new: &Rc<Listener>) {
        let is_old = |listener: &Rc<Listener>| std::ptr::eq(Rc::as_ptr(listener), old.as_ptr());
        for berth in &mut self.0 {
            if berth.listener().is_some_and(is_old) {
                *berth = Berth::Bound(Rc::clone(new));
            }
        }
    }
}
