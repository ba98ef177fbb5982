//! What workers have done to the listener that they share, put right.
#![forbid(unsafe_code)]

use std::rc::Rc;

use crate::config::{Address, Listen};
use crate::error::reason;
use crate::listener::{Listener, Mended};
use crate::log::event::Event;

use super::Pool;

/// Whether somebody may have done something to the listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// Nothing has happened since it was looked at.
    Trusted,
    /// A worker has died, or a reload wants to know.
    Suspect,
}

/// What mending has led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mending {
    /// The pool has the listener that it had.
    Kept,
    /// The pool has another listener with the same address.
    Rebound,
}

impl Pool {
    /// The listener is to be looked at.
    pub fn suspect(&mut self) {
        self.health = Health::Suspect;
    }

    /// Mends the listener, if a worker has shut it down (shutdown(2)).
    ///
    /// Workers that sleep in accept on a Unix socket die of it, and each death leads here
    /// again, so an address that others still hold is tried again.
    pub fn mend(&mut self, events: &mut Vec<Event>) -> Mending {
        let health = std::mem::replace(&mut self.health, Health::Trusted);
        if health == Health::Trusted || self.closing.has_begun() {
            return Mending::Kept;
        }
        let listen = self.config().listen.get_ref().clone();
        let found =
            self.serving.listener.as_ref().map_or(Mended::MustBindAnew, |it| it.mend(&listen));
        let (pool, address) = (self.name().to_owned(), listen.address.to_string());
        let reason_of_mending = "a worker had shut it down".to_owned();
        match found {
            Mended::Sound => Mending::Kept,
            Mended::ListenedAgain => {
                events.push(Event::ListenerMended { pool, address, reason: reason_of_mending });
                Mending::Kept
            }
            Mended::MustBindAnew => match self.bind_anew(&listen) {
                Ok(()) => {
                    events.push(Event::ListenerMended { pool, address, reason: reason_of_mending });
                    Mending::Rebound
                }
                Err(error) => {
                    let reason = format!("{reason_of_mending}: {}", reason(&error));
                    events.push(Event::CouldNotAdjustListener { pool, address, reason });
                    Mending::Kept
                }
            },
        }
    }

    fn bind_anew(&mut self, listen: &Listen) -> std::io::Result<()> {
        let old = self.serving.listener.take();
        let tried = self.next.as_mut().and_then(|next| next.listener.as_mut());
        let is_same =
            |tried: &&mut Rc<Listener>| old.as_ref().is_some_and(|it| Rc::ptr_eq(it, tried));
        let shared = tried.filter(is_same);
        let new = match &old {
            // The name is free only when nobody has the old socket any more.
            Some(_) if matches!(listen.address, Address::Abstract(_)) => {
                drop(old);
                Listener::bind(listen)
            }
            Some(old) => old.bind_anew(listen),
            None => Listener::bind(listen),
        };
        let new = Rc::new(new?);
        if let Some(shared) = shared {
            *shared = Rc::clone(&new);
        }
        self.serving.listener = Some(new);
        Ok(())
    }
}
