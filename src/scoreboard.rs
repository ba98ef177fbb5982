//! The scoreboard: a page of shared memory for each worker.
//!
//! A worker tells its master here what it is doing. The master takes all of it
//! as a hint: it reads numbers, never an index, a length, a pointer or a pid,
//! and a worker reaches its own page only. What the master decides rests on
//! its own table of children.
#![forbid(unsafe_code)]

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys::clock::Moment;
use crate::sys::memory::{Page, Pages};

/// The most workers that may exist at one time, those that are leaving
/// included. It costs address space only.
pub const SEATS: usize = 32 * 1024;

/// What each word of a page means.
mod word {
    /// Not 0 once the worker has got as far as accepting.
    pub const ACCEPTING: usize = 0;
    /// How many connections it has finished.
    pub const SERVED: usize = 1;
    /// The number of the connection in hand, 0 if none.
    pub const SERIAL: usize = 2;
    /// When that connection began.
    pub const BEGAN: usize = 3;
    /// Written by the master: the number of a connection that is overdue.
    pub const OVERDUE: usize = 4;
    /// Why the worker leaves by itself.
    pub const LEAVING: usize = 5;
    /// The peer of the connection in hand: 0 for none, else 1 and its port.
    pub const PEER_PORT: usize = 6;
    /// Its address, as IPv6, high word first.
    pub const PEER_ADDRESS: usize = 7;
    /// Why the worker could not go on, in words.
    pub const REASON: usize = 16;
}

const REASON_WORDS: usize = 64;
/// Marks a peer that has a port, so that port 0 is not "none".
const HAS_PEER: u64 = 1 << 16;

/// Why a worker leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// It has served `max_requests` connections.
    Recycled,
    /// It may not open the new log file; its successor inherits it.
    LogLost,
    /// SIGTERM came.
    Asked,
}

/// A worker's place on the scoreboard.
#[derive(Debug, PartialEq, Eq)]
pub struct Seat(usize);

/// The connection that a worker says it has in hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InHand {
    /// Its number among the worker's connections, from 1.
    pub serial: u64,
    /// When the worker accepted it.
    pub began: Moment,
}

/// The master's side: all pages.
pub struct Scoreboard {
    pages: Pages,
    free: Vec<usize>,
}

impl Scoreboard {
    /// A scoreboard of [`SEATS`] pages.
    pub fn new() -> io::Result<Self> {
        Ok(Scoreboard { pages: Pages::with_room_for(SEATS)?, free: Vec::new() })
    }

    /// Takes a seat with an empty page, if one is left.
    ///
    /// # Errors
    ///
    /// There is no memory for its page.
    pub fn take(&mut self) -> io::Result<Option<Seat>> {
        let Some(index) = self.free.pop() else {
            // A fresh page is empty; to write to it would make it ours in memory.
            return Ok(self.pages.add()?.map(Seat));
        };
        for word in self.pages.page(index) {
            word.store(0, Ordering::Relaxed);
        }
        Ok(Some(Seat(index)))
    }

    /// Says whether the next fork is that of the worker of `seat`, which
    /// shares its page and no other.
    pub fn share(&self, seat: &Seat, shared: bool) -> io::Result<()> {
        self.pages.share(seat.0, shared)
    }

    /// Gives back the memory that a look at many pages has taken.
    pub fn let_go(&self) {
        self.pages.let_go();
    }

    /// Gives a seat back, once its worker is reaped.
    pub fn release(&mut self, seat: Seat) {
        self.free.push(seat.0);
    }

    /// Whether the worker has got as far as accepting.
    pub fn is_accepting(&self, seat: &Seat) -> bool {
        self.load(seat, word::ACCEPTING) != 0
    }

    /// How many connections the worker says it has finished.
    pub fn served(&self, seat: &Seat) -> u64 {
        self.load(seat, word::SERVED)
    }

    /// The connection that the worker says it has in hand.
    pub fn in_hand(&self, seat: &Seat) -> Option<InHand> {
        let page = self.pages.page(seat.0);
        let serial = page[word::SERIAL].load(Ordering::Acquire);
        let began = Moment::from_nanos(page[word::BEGAN].load(Ordering::Acquire));
        // Read again: the worker may have gone on to its next connection.
        let same = page[word::SERIAL].load(Ordering::Acquire) == serial;
        (same && serial != 0).then_some(InHand { serial, began })
    }

    /// The peer of the connection in hand, as an address or `unix`.
    pub fn peer(&self, seat: &Seat) -> String {
        let port = self.load(seat, word::PEER_PORT);
        if port & HAS_PEER == 0 {
            return "unix".to_owned();
        }
        let high = u128::from(self.load(seat, word::PEER_ADDRESS));
        let low = u128::from(self.load(seat, word::PEER_ADDRESS + 1));
        let ip = Ipv6Addr::from(high << 64 | low).to_canonical();
        SocketAddr::new(ip, (port & 0xffff) as u16).to_string()
    }

    /// Tells the worker that this connection is overdue; SIGALRM follows.
    pub fn mark_overdue(&self, seat: &Seat, connection: InHand) {
        self.pages.page(seat.0)[word::OVERDUE].store(connection.serial, Ordering::Release);
    }

    /// Why the worker says it is leaving by itself.
    pub fn leaving(&self, seat: &Seat) -> Option<Leaving> {
        match self.load(seat, word::LEAVING) {
            1 => Some(Leaving::Recycled),
            2 => Some(Leaving::LogLost),
            3 => Some(Leaving::Asked),
            _ => None,
        }
    }

    /// The worker's last words, if it left any: one line, safe to print.
    pub fn reason(&self, seat: &Seat) -> Option<String> {
        let words = &self.pages.page(seat.0)[word::REASON..word::REASON + REASON_WORDS];
        let bytes: Vec<u8> = words
            .iter()
            .flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes())
            .take_while(|&byte| byte != 0)
            .collect();
        let text: String =
            String::from_utf8_lossy(&bytes).chars().filter(|c| !c.is_control()).collect();
        (!text.is_empty()).then_some(text)
    }

    /// In a worker: its own page.
    pub fn keep_only(&mut self, seat: &Seat) -> OwnPage {
        OwnPage(self.pages.keep_only(seat.0))
    }

    fn load(&self, seat: &Seat, word: usize) -> u64 {
        self.pages.page(seat.0)[word].load(Ordering::Acquire)
    }
}

/// The worker's side: its own page.
#[derive(Clone, Copy)]
pub struct OwnPage(&'static Page);

impl OwnPage {
    /// Says that from now on the worker accepts.
    pub fn accepting(self) {
        self.0[word::ACCEPTING].store(1, Ordering::Release);
    }

    /// Says that the worker has the connection number `serial` in hand.
    pub fn begin(self, serial: u64, began: Moment, peer: Option<SocketAddr>) {
        let (port, address) = match peer {
            None => (0, 0),
            Some(peer) => {
                let ip = match peer.ip() {
                    IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                    IpAddr::V6(ip) => ip,
                };
                (HAS_PEER | u64::from(peer.port()), u128::from(ip))
            }
        };
        self.0[word::PEER_PORT].store(port, Ordering::Relaxed);
        self.0[word::PEER_ADDRESS].store((address >> 64) as u64, Ordering::Relaxed);
        self.0[word::PEER_ADDRESS + 1].store(address as u64, Ordering::Relaxed);
        self.0[word::BEGAN].store(began.as_nanos(), Ordering::Relaxed);
        self.0[word::SERIAL].store(serial, Ordering::Release);
    }

    /// Says that the connection in hand is finished, the `served`th so far.
    pub fn finish(self, served: u64) {
        self.0[word::SERVED].store(served, Ordering::Relaxed);
        self.0[word::SERIAL].store(0, Ordering::Release);
    }

    /// Says why the worker leaves by itself.
    pub fn leave(self, leaving: Leaving) {
        let word = match leaving {
            Leaving::Recycled => 1,
            Leaving::LogLost => 2,
            Leaving::Asked => 3,
        };
        self.0[word::LEAVING].store(word, Ordering::Release);
    }

    /// Leaves last words; what does not fit is cut.
    pub fn explain(self, reason: &str) {
        // The last byte stays 0, which ends the text.
        let bytes = &reason.as_bytes()[..reason.len().min(REASON_WORDS * 8 - 1)];
        for (word, chunk) in self.0[word::REASON..].iter().zip(bytes.chunks(8)) {
            let mut padded = [0; 8];
            padded[..chunk.len()].copy_from_slice(chunk);
            word.store(u64::from_le_bytes(padded), Ordering::Relaxed);
        }
    }

    /// The word in which the master names an overdue connection.
    pub fn overdue(self) -> &'static AtomicU64 {
        &self.0[word::OVERDUE]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A seat seen from both sides, in one process.
    fn seated() -> (&'static Scoreboard, Seat, OwnPage) {
        let board = Box::leak(Box::new(Scoreboard::new().unwrap()));
        let seat = board.take().unwrap().unwrap();
        let own = OwnPage(board.pages.page(seat.0));
        (board, seat, own)
    }

    #[test]
    fn a_connection_is_seen_while_it_is_in_hand() {
        let (board, seat, own) = seated();
        assert_eq!(board.in_hand(&seat), None);
        let began = Moment::from_nanos(7);
        own.begin(3, began, Some("192.0.2.1:80".parse().unwrap()));
        assert_eq!(board.in_hand(&seat), Some(InHand { serial: 3, began }));
        assert_eq!(board.peer(&seat), "192.0.2.1:80");
        own.begin(4, began, Some("[2001:db8::1]:80".parse().unwrap()));
        assert_eq!(board.peer(&seat), "[2001:db8::1]:80");
        own.begin(5, began, None);
        assert_eq!(board.peer(&seat), "unix");
        own.finish(5);
        assert_eq!((board.in_hand(&seat), board.served(&seat)), (None, 5));
    }

    #[test]
    fn last_words_are_cut_and_cleaned() {
        let (board, seat, own) = seated();
        assert_eq!(board.reason(&seat), None);
        own.explain("could not\x1b[2J enter");
        assert_eq!(board.reason(&seat).as_deref(), Some("could not[2J enter"));
        own.explain(&"x".repeat(10_000));
        assert_eq!(board.reason(&seat).map(|reason| reason.len()), Some(REASON_WORDS * 8 - 1));
    }

    #[test]
    fn any_bits_of_a_page_can_be_read() {
        let (board, seat, own) = seated();
        for word in own.0 {
            word.store(u64::MAX, Ordering::Relaxed);
        }
        assert!(board.is_accepting(&seat));
        assert_eq!(board.leaving(&seat), None);
        assert!(board.in_hand(&seat).is_some());
        let _ = (board.peer(&seat), board.reason(&seat), board.served(&seat));
    }

    #[test]
    fn a_seat_that_is_taken_again_is_empty() {
        let mut board = Scoreboard::new().unwrap();
        let seat = board.take().unwrap().unwrap();
        board.pages.page(seat.0)[word::SERVED].store(9, Ordering::Relaxed);
        board.release(seat);
        let seat = board.take().unwrap().unwrap();
        assert_eq!(board.served(&seat), 0);
    }
}
