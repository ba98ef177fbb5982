//! The scoreboard: a page of shared memory for each worker.
//!
//! Here a worker reports to its master what it is doing. For the master these are hints: it
//! reads numbers, never an index, a length or a pointer. A worker reaches only its own
//! page. The master decides by its own table of children, and checks the one pid of a page
//! against the kernel.
#![forbid(unsafe_code)]

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::unistd::Pid;

use crate::sys::clock::Moment;
use crate::sys::handler::YES;
use crate::sys::pages::{Page, Pages, SharedPage};
use crate::sys::socket::Peer;

/// The meaning of each word of a page.
mod word {
    /// Not 0 once the worker accepts.
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
    /// The peer of the connection in hand: 0 on a Unix socket, else its port, a bit that
    /// says that there is one, and the link of a link-local address.
    pub const PEER_PORT: usize = 6;
    /// Its address, as IPv6, high word first.
    pub const PEER_ADDRESS: usize = 7;
    /// Written by the master: not 0 once the worker may accept.
    pub const LET_IN: usize = 9;
    /// Not 0 once SIGTERM has come.
    pub const ASKED: usize = 10;
    /// The pid of the program that serves the connection in hand, 0 if there is none.
    pub const PROGRAM: usize = 11;
    /// Written by the master: 1 once the worker is to accept until the queue of the
    /// listener is empty, and to leave then.
    pub const DRAINING: usize = 12;
    /// Written by the master: the number of a connection that is to end if nothing was
    /// transferred over it.
    pub const UNUSED: usize = 13;
    /// The number of a connection that was ended for that reason.
    pub const CUT: usize = 14;
    /// How many clients it has turned away.
    pub const REFUSED: usize = 15;
    /// Why the worker could not go on, in words.
    pub const REASON: usize = super::HEAD_WORDS;
}

/// How many words stand before the last ones.
const HEAD_WORDS: usize = 16;
const REASON_WORDS: usize = 64;
/// Marks a peer that has a port, so that port 0 is not "none".
const HAS_PEER: u64 = 1 << 16;
/// Where the link of an address begins.
const LINK_SHIFT: u32 = 32;

/// Why a worker leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// The worker has served `max_requests` connections.
    Recycled,
    /// The worker cannot open the new log file; its successor inherits that file.
    LogLost,
    /// SIGTERM came.
    Asked,
}

/// The connection that a worker says it has in hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InHand {
    /// Its number among the worker's connections, from 1.
    pub serial: u64,
    /// When the worker accepted it.
    pub began: Moment,
}

/// All pages.
#[derive(Debug)]
pub struct Scoreboard(Rc<Pages>);

impl Scoreboard {
    /// A scoreboard without a page.
    pub fn new() -> io::Result<Self> {
        Pages::new().map(Scoreboard)
    }

    /// An empty page for each of this many workers. A failure leaves out the last of them:
    /// there is no memory, or all pages are in use.
    pub fn seats(&self, count: usize) -> (Vec<Seat>, io::Result<()>) {
        let mut seats = Vec::with_capacity(count);
        for _ in 0..count {
            match self.0.take() {
                Ok(page) => seats.push(Seat(page)),
                Err(error) => return (seats, Err(error)),
            }
        }
        (seats, Ok(()))
    }
}

/// The master's side of a worker's page.
#[derive(Debug)]
pub struct Seat(SharedPage);

/// The content of a page at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// The worker accepts.
    pub is_accepting: bool,
    /// How many connections it has finished.
    pub served: u64,
    /// How many clients it has turned away.
    pub refused: u64,
    /// The connection in hand.
    pub in_hand: Option<InHand>,
    /// Why the worker is leaving by itself.
    pub leaving: Option<Leaving>,
    /// A connection over which nothing was transferred was ended.
    pub has_cut: bool,
}

impl Seat {
    /// Looks at the page.
    pub fn look(&self) -> Look {
        let words: [u64; HEAD_WORDS] = self.0.read(0);
        // The number may come without its time, or with another's time. The next look
        // corrects that, because the number is compared again before any action.
        let (serial, began) = (words[word::SERIAL], Moment::from_nanos(words[word::BEGAN]));
        Look {
            is_accepting: words[word::ACCEPTING] != 0,
            served: words[word::SERVED],
            refused: words[word::REFUSED],
            in_hand: (serial != 0).then_some(InHand { serial, began }),
            leaving: match words[word::LEAVING] {
                1 => Some(Leaving::Recycled),
                2 => Some(Leaving::LogLost),
                3 => Some(Leaving::Asked),
                // SIGTERM ends a worker at once before its first accept.
                _ => (words[word::ASKED] != 0).then_some(Leaving::Asked),
            },
            has_cut: words[word::CUT] != 0,
        }
    }

    /// The peer of the connection in hand.
    pub fn peer(&self) -> Peer {
        let [port, high, low] = self.0.read(word::PEER_PORT);
        if port & HAS_PEER == 0 {
            return Peer::Unix;
        }
        let ip = Ipv6Addr::from(u128::from(high) << 64 | u128::from(low));
        let (link, port) = ((port >> LINK_SHIFT) as u32, (port & 0xffff) as u16);
        Peer::Internet(SocketAddrV6::new(ip, port, 0, link).into()).canonical()
    }

    /// The running program, as reported by the worker. The pid may be anything: before any
    /// action, the caller checks that this process belongs to the worker.
    pub fn program(&self) -> Option<Pid> {
        let [word] = self.0.read(word::PROGRAM);
        i32::try_from(word).ok().filter(|&pid| pid > 1).map(Pid::from_raw)
    }

    /// Marks this connection as overdue; SIGALRM follows.
    pub fn mark_overdue(&self, connection: InHand) {
        self.0.write(word::OVERDUE, connection.serial);
    }

    /// Lets the worker drain its listener; SIGTERM follows.
    pub fn drain(&self) {
        self.0.write(word::DRAINING, YES);
    }

    /// Tells the worker to end this connection if nothing was transferred over it;
    /// SIGALRM follows.
    pub fn mark_unused(&self, connection: InHand) {
        self.0.write(word::UNUSED, connection.serial);
    }

    /// Lets the worker accept; SIGUSR2 follows.
    pub fn let_in(&self) {
        self.0.write(word::LET_IN, 1);
    }

    /// The worker's last words, if it left any: one line, safe to print.
    pub fn reason(&self) -> Option<String> {
        let words: [u64; REASON_WORDS] = self.0.read(word::REASON);
        let bytes = words.iter().flat_map(|word| word.to_le_bytes());
        let bytes: Vec<u8> = bytes.take_while(|&byte| byte != 0).collect();
        let text = String::from_utf8_lossy(&bytes);
        let text: String = text.chars().filter(|c| !c.is_control()).collect();
        (!text.is_empty()).then_some(text)
    }

    /// The worker's own page, mapped in the worker.
    pub fn map(&self) -> io::Result<OwnPage> {
        self.0.map().map(OwnPage)
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

    /// Whether the master lets the worker accept.
    pub fn is_let_in(self) -> bool {
        self.0[word::LET_IN].load(Ordering::Acquire) != 0
    }

    /// Says that the worker has the connection number `serial` in hand.
    pub fn begin(self, serial: u64, began: Moment, peer: Peer) {
        let (port, address) = match peer {
            Peer::Unix => (0, 0),
            Peer::Internet(peer) => {
                let ip = match peer.ip() {
                    IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                    IpAddr::V6(ip) => ip,
                };
                let link = match peer {
                    SocketAddr::V4(_) => 0,
                    SocketAddr::V6(peer) => u64::from(peer.scope_id()) << LINK_SHIFT,
                };
                (link | HAS_PEER | u64::from(peer.port()), u128::from(ip))
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

    /// Says that the worker has turned away a client, the `refused`th so far.
    pub fn refuse(self, refused: u64) {
        self.0[word::REFUSED].store(refused, Ordering::Relaxed);
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

    /// Leaves last words; a text that does not fit is cut.
    pub fn explain(self, reason: &str) {
        // The last byte stays 0, which ends the text.
        let bytes = &reason.as_bytes()[..reason.len().min(REASON_WORDS * 8 - 1)];
        for (word, chunk) in self.0[word::REASON..].iter().zip(bytes.chunks(8)) {
            let mut padded = [0; 8];
            padded[..chunk.len()].copy_from_slice(chunk);
            word.store(u64::from_le_bytes(padded), Ordering::Relaxed);
        }
    }

    /// Takes the last words back.
    pub fn unexplain(self) {
        self.0[word::REASON..].iter().for_each(|word| word.store(0, Ordering::Relaxed));
    }

    /// Whether the worker is to drain its listener.
    pub fn is_draining(self) -> bool {
        self.draining().load(Ordering::Acquire) == YES
    }

    /// The word that says whether to drain.
    pub fn draining(self) -> &'static AtomicU64 {
        &self.0[word::DRAINING]
    }

    /// The word in which the master names a connection that is to end if nothing was
    /// transferred over it, and the word that names a connection that was ended so.
    pub fn unused(self) -> [&'static AtomicU64; 2] {
        [&self.0[word::UNUSED], &self.0[word::CUT]]
    }

    /// The word that says that SIGTERM has come.
    pub fn asked(self) -> &'static AtomicU64 {
        &self.0[word::ASKED]
    }

    /// The word in which the handlers leave the pid of the program in hand.
    pub fn program(self) -> &'static AtomicU64 {
        &self.0[word::PROGRAM]
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
    fn seated() -> (Seat, OwnPage) {
        let seat = Scoreboard::new().unwrap().seats(1).0.pop().unwrap();
        let own = seat.map().unwrap();
        (seat, own)
    }

    #[test]
    fn a_connection_is_seen_while_it_is_in_hand() {
        let (seat, own) = seated();
        assert_eq!(seat.look().in_hand, None);
        let began = Moment::from_nanos(7);
        let internet = |address: &str| Peer::Internet(address.parse().unwrap());
        own.begin(3, began, internet("192.0.2.1:80"));
        assert_eq!(seat.look().in_hand, Some(InHand { serial: 3, began }));
        assert_eq!(seat.peer(), internet("192.0.2.1:80"));
        own.begin(4, began, internet("[2001:db8::1]:80"));
        assert_eq!(seat.peer(), internet("[2001:db8::1]:80"));
        own.begin(4, began, internet("[fe80::1%7]:80"));
        assert_eq!(seat.peer(), internet("[fe80::1%7]:80"));
        own.program().store(42, Ordering::Relaxed);
        assert_eq!(seat.program(), Some(Pid::from_raw(42)));
        own.begin(5, began, Peer::Unix);
        assert_eq!(seat.peer(), Peer::Unix);
        own.finish(5);
        own.refuse(2);
        let look = seat.look();
        assert_eq!((look.in_hand, look.served, look.refused), (None, 5, 2));
        seat.mark_overdue(InHand { serial: 9, began });
        assert_eq!(own.overdue().load(Ordering::Relaxed), 9);
    }

    #[test]
    fn last_words_are_cut_and_cleaned() {
        let (seat, own) = seated();
        assert_eq!(seat.reason(), None);
        own.explain("could not\x1b[2J enter");
        assert_eq!(seat.reason().as_deref(), Some("could not[2J enter"));
        own.explain(&"x".repeat(10_000));
        assert_eq!(seat.reason().map(|reason| reason.len()), Some(REASON_WORDS * 8 - 1));
    }

    #[test]
    fn any_bits_of_a_page_can_be_read() {
        let (seat, own) = seated();
        for word in own.0 {
            word.store(u64::MAX, Ordering::Relaxed);
        }
        let look = seat.look();
        assert!(look.is_accepting && look.in_hand.is_some());
        assert_eq!(look.leaving, Some(Leaving::Asked));
        let _ = (seat.peer(), seat.reason());
    }
}
