//! A worker's hand: one connection at a time is in it.
#![forbid(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::scoreboard::OwnPage;
use crate::service::Peer;
use crate::sys::clock::Moment;
use crate::sys::handler;

/// The connection in hand, as reported to the worker's signal handlers and its master.
pub struct Hand {
    page: OwnPage,
    /// How many connections were taken so far; the last one has this number.
    taken: u64,
}

/// The hold on the connection in hand. While it lasts, SIGALRM may be for that connection.
pub struct Hold<'a> {
    hand: &'a Hand,
}

impl Hand {
    /// An empty hand.
    pub fn new(page: OwnPage) -> Self {
        Hand { page, taken: 0 }
    }

    /// How many connections were in it so far.
    pub fn served(&self) -> u64 {
        self.taken
    }

    /// Takes the next connection. The handlers come first: the master may find
    /// a connection overdue once the page has it.
    pub fn take(&mut self, socket: BorrowedFd<'_>, peer: Peer) -> Hold<'_> {
        self.taken += 1;
        handler::begin_connection(self.taken, socket.as_raw_fd());
        self.page.begin(self.taken, Moment::now(), peer);
        Hold { hand: self }
    }
}

impl Hold<'_> {
    /// Lets go of a connection that was served.
    pub fn finish(self) {
        let Hand { page, taken } = *self.hand;
        drop(self);
        page.finish(taken);
    }
}

/// On the page the connection stays in hand until it is finished, so that a worker that
/// dies of it is known to have died of it.
impl Drop for Hold<'_> {
    fn drop(&mut self) {
        handler::end_connection();
    }
}
