//! The ledger of a pool: who has a connection in hand, and how often clients come.
//!
//! Workers must know of each other how many connections a client has. So the workers of a
//! pool with such a limit share memory, and each has an entry in it, which names the
//! source of its connection in hand. Nothing is counted up and down: a worker counts the
//! entries of a source. So a count cannot drift, and when a worker dies, the master clears its
//! entry.
//!
//! Whatever a worker writes here decides only whether a client of its own pool is served.
//! The master reads nothing of it. Sources are hashed with a key of the pool, so that no client
//! can choose what its source collides with.
#![forbid(unsafe_code)]

mod bucket;
mod claim;
mod source;
mod table;

use std::cell::{Cell, RefCell};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::rc::Rc;
use std::sync::atomic::AtomicU64;

use nix::errno::Errno;

use crate::sys::words::Words;

pub use bucket::Quota;
pub use source::{Prefixes, Source};

use table::{Layout, Places};

/// The master's side.
#[derive(Debug)]
pub struct Ledger {
    words: Words,
    key: RandomState,
    places: RefCell<Places>,
    /// A worker has died since the entries that nobody has were cleared.
    is_suspect: Cell<bool>,
}

/// The master's side of a worker's entry. It is cleared and given back when it is dropped.
#[derive(Debug)]
pub struct Entry {
    ledger: Rc<Ledger>,
    place: usize,
}

/// The worker's side: its entry, and what it sees of the others.
#[derive(Debug)]
pub struct OwnEntry {
    words: &'static [AtomicU64],
    place: usize,
    key: RandomState,
}

/// A source as the ledger names it. It is not 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(u64);

impl Ledger {
    /// An empty ledger.
    ///
    /// # Errors
    ///
    /// There is no memory.
    pub fn new() -> io::Result<Rc<Self>> {
        Ok(Rc::new(Ledger {
            words: Words::new(Layout::WORDS)?,
            key: RandomState::new(),
            places: RefCell::default(),
            is_suspect: Cell::new(false),
        }))
    }

    /// An entry for each of so many workers. A failure leaves out the last of them: there
    /// are as many as there can be.
    pub fn entries(self: &Rc<Self>, count: usize) -> (Vec<Entry>, io::Result<()>) {
        let mut places = self.places.borrow_mut();
        let taken: Vec<_> = (0..count).map_while(|_| places.take()).collect();
        self.words.write(Layout::HIGHEST, &[places.end() as u64]);
        let is_full = taken.len() < count;
        let entry = |place| Entry { ledger: Rc::clone(self), place };
        let done = if is_full { Err(Errno::ENOSPC.into()) } else { Ok(()) };
        (taken.into_iter().map(entry).collect(), done)
    }

    /// Clears the entries without a worker, if a worker has died, because it may have
    /// written to them. A live worker that writes false entries harms only its own pool.
    pub fn mend(&self) {
        if !self.is_suspect.replace(false) {
            return;
        }
        let places = self.places.borrow();
        for vacant in places.vacant() {
            self.words.write(Layout::SOURCES + vacant.start, &vec![0; vacant.len()]);
        }
        self.words.write(Layout::HIGHEST, &[places.end() as u64]);
    }
}

impl Entry {
    /// In the worker: its entry.
    pub fn map(&self) -> io::Result<OwnEntry> {
        let words = self.ledger.words.map()?;
        Ok(OwnEntry { words, place: self.place, key: self.ledger.key.clone() })
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let Ledger { words, places, is_suspect, .. } = &*self.ledger;
        words.write(Layout::SOURCES + self.place, &[0]);
        places.borrow_mut().give_back(self.place);
        is_suspect.set(true);
    }
}

impl OwnEntry {
    /// The name of a source in this ledger.
    pub fn mark(&self, source: Source) -> Mark {
        Mark(self.key.hash_one(source).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_dead_worker_has_written_is_cleared() {
        let ledger = Ledger::new().unwrap();
        let (mut entries, done) = ledger.entries(4);
        assert!(done.is_ok());
        let at = |place: usize| ledger.words.read(Layout::SOURCES + place);
        let own = entries[2].map().unwrap();
        for word in own.words {
            word.store(7, std::sync::atomic::Ordering::Relaxed);
        }
        assert_eq!([0, 1, 2, 3].map(at), [7; 4]);
        drop(entries.remove(2));
        drop(entries.remove(0));
        assert_eq!([0, 1, 2, 3].map(at), [0, 7, 0, 7], "those of the dead");
        own.words[Layout::SOURCES].store(7, std::sync::atomic::Ordering::Relaxed);
        own.words[Layout::HIGHEST].store(0, std::sync::atomic::Ordering::Relaxed);
        ledger.mend();
        assert_eq!([0, 1, 2, 3].map(at), [0, 7, 0, 7], "those that nobody has");
        assert_eq!(ledger.words.read(Layout::HIGHEST), 4);
        let again = ledger.entries(3).0;
        assert_eq!(again.iter().map(|it| it.place).collect::<Vec<_>>(), [0, 2, 4]);
        assert_eq!(ledger.words.read(Layout::HIGHEST), 5);
    }

    #[test]
    fn each_ledger_has_names_of_its_own() {
        let source = |text: &str| {
            let peer = crate::sys::socket::Peer::Internet(text.parse().unwrap());
            Source::of(peer, Prefixes { ipv4: 32, ipv6: 64 }).unwrap()
        };
        let mark = |ledger: &Rc<Ledger>, text| {
            let entries = ledger.entries(2).0;
            let marks = [0, 1].map(|at| entries[at].map().unwrap().mark(source(text)));
            assert_eq!(marks[0], marks[1], "all workers of a pool agree");
            marks[0]
        };
        let (one, other) = (Ledger::new().unwrap(), Ledger::new().unwrap());
        assert_eq!(mark(&one, "192.0.2.1:1"), mark(&one, "192.0.2.1:2"));
        assert_ne!(mark(&one, "192.0.2.1:1"), mark(&one, "192.0.2.2:1"));
        assert_ne!(mark(&one, "192.0.2.1:1"), mark(&other, "192.0.2.1:1"));
    }
}
