//! The load generator: one thread a client, blocking sockets, nothing allocated on the way.
//!
//! A client does what a client of an echo does: it connects, sends a message, reads it back,
//! says that it is done, and waits for the server's end of file. So each request is the whole
//! life of a connection, a connection that is reset is seen, and it is the client's side that
//! stays in TIME_WAIT. The clients spread over addresses of 127.0.0.0/8, or they would run
//! out of ports and the kernel's search for one would become what is measured.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};
use std::{io, thread};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Shutdown, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, shutdown,
    socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::unistd::{read, write};

use crate::{Result, watch};

/// What a client sends and wants back.
const MESSAGE: [u8; 64] = [b'x'; 64];

/// How many source addresses a client goes through. The kernel takes a port back after one
/// second, and each address has some 28,000, so these are good for any rate seen here.
const SOURCES: u32 = 8;

/// The clients of the arrivals, so many that one which waits does not hold the next back.
const ARRIVAL_CLIENTS: u32 = 16;

/// What the clients do with a connection.
#[derive(Clone, Copy)]
pub enum Manner {
    /// A connection for each message.
    Once,
    /// The same, but the client does not say that it is done: the end is the server's word.
    UntilClosed,
    /// One connection for all.
    Persistent,
}

/// What a load came to.
pub struct Done {
    /// Messages that came back.
    pub requests: u64,
    /// How long that took.
    pub elapsed: Duration,
    /// The CPU time that the clients used.
    pub own_cpu: Duration,
}

/// Keeps `clients` busy at `server`, each with its next request as soon as the last is done,
/// for `duration`. The first failure of any request is the result.
pub fn closed_loop(
    server: SocketAddrV4,
    manner: Manner,
    clients: u32,
    duration: Duration,
) -> io::Result<Done> {
    let start = Barrier::new(clients as usize + 1);
    let stop = AtomicBool::new(false);
    scope(|threads| {
        let running: Vec<_> = (0..clients)
            .map(|client| {
                let client = Client::new(client, server);
                let (start, stop) = (&start, &stop);
                threads.spawn(move || {
                    // Here, and from here.
                    start.wait();
                    start.wait();
                    match manner {
                        Manner::Once => client.once(stop, Exchange::finish),
                        Manner::UntilClosed => client.once(stop, Exchange::wait_for_end),
                        Manner::Persistent => client.persistently(stop),
                    }
                })
            })
            .collect();
        start.wait();
        // Looked at below: nothing may fail here, while the clients wait.
        let own_cpu = watch::own_cpu_time();
        let begun = Instant::now();
        start.wait();
        sleep(duration);
        stop.store(true, Ordering::Relaxed);
        let mut requests = 0;
        for client in running {
            requests += client.join().map_err(|_| io::Error::other("a client panicked"))??;
        }
        let elapsed = begun.elapsed();
        Ok(Done { requests, elapsed, own_cpu: watch::own_cpu_time()? - own_cpu? })
    })
}

/// What the arrivals came to.
#[derive(Default)]
pub struct Arrived {
    /// The latency of each that was answered, from the moment when it was due: a server that
    /// takes the CPU from its clients makes them wait too.
    pub latencies: Vec<Duration>,
    /// How many were refused, reset, cut short or not answered in time.
    pub failures: usize,
    /// The latest that a client was with one, which is part of its latency.
    pub own_delay: Duration,
}

/// Sends `rate` requests a second to `server` at fixed moments, whether or not the earlier
/// ones are answered, for `duration`; meanwhile runs `events` in this thread.
pub fn arrivals(
    server: SocketAddrV4,
    rate: u32,
    duration: Duration,
    events: impl FnOnce() -> Result<()>,
) -> Result<Arrived> {
    let begun = Instant::now();
    let due = move |arrival: u32| begun + Duration::from_secs(1) * arrival / rate;
    let all = (duration.as_secs_f64() * f64::from(rate)) as u32;
    scope(|threads| {
        let running: Vec<_> = (0..ARRIVAL_CLIENTS)
            .map(|client| {
                threads.spawn(move || {
                    let mut mine = Arrived::default();
                    let sender = Client::new(client, server);
                    for arrival in (client..all).step_by(ARRIVAL_CLIENTS as usize) {
                        thread::sleep(due(arrival).saturating_duration_since(Instant::now()));
                        mine.own_delay = mine.own_delay.max(due(arrival).elapsed());
                        match sender.connect(arrival).and_then(Exchange::finish) {
                            Ok(()) => mine.latencies.push(due(arrival).elapsed()),
                            Err(_) => mine.failures += 1,
                        }
                    }
                    mine
                })
            })
            .collect();
        let outcome = events();
        let mut arrived = Arrived::default();
        for client in running {
            let theirs = client.join().map_err(|_| "a client panicked")?;
            arrived.latencies.extend(theirs.latencies);
            arrived.failures += theirs.failures;
            arrived.own_delay = arrived.own_delay.max(theirs.own_delay);
        }
        outcome.map(|()| arrived)
    })
}

/// Somebody who connects to the server, from addresses of its own.
pub struct Client {
    number: u32,
    server: SockaddrIn,
}

/// A connection on which the message is under way.
pub struct Exchange(OwnedFd);

impl Client {
    /// The client with this number (below 250), of the server at this address.
    pub fn new(number: u32, server: SocketAddrV4) -> Client {
        Client { number, server: SockaddrIn::from(server) }
    }

    /// Connects for the `turn`-th time and sends the message.
    pub fn connect(&self, turn: u32) -> nix::Result<Exchange> {
        let connection =
            socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        // No request may hang the bench.
        let limit = TimeVal::seconds(5);
        setsockopt(&connection, sockopt::ReceiveTimeout, &limit)?;
        // The port is chosen at connect, when the kernel knows both ends and can reuse it.
        setsockopt(&connection, sockopt::IpBindAddressNoPort, &true)?;
        bind(connection.as_raw_fd(), &self.source(turn))?;
        connect(connection.as_raw_fd(), &self.server)?;
        let exchange = Exchange(connection);
        exchange.send()?;
        Ok(exchange)
    }

    fn source(&self, turn: u32) -> SockaddrIn {
        let [_, _, third, fourth] = (((self.number + 1) << 8) | (turn % SOURCES + 1)).to_be_bytes();
        SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::new(127, 0, third, fourth), 0))
    }

    fn once(
        &self,
        stop: &AtomicBool,
        end: impl Fn(Exchange) -> nix::Result<()>,
    ) -> nix::Result<u64> {
        let mut turn = 0;
        while !stop.load(Ordering::Relaxed) {
            end(self.connect(turn)?)?;
            turn += 1;
        }
        Ok(u64::from(turn))
    }

    fn persistently(&self, stop: &AtomicBool) -> nix::Result<u64> {
        let exchange = self.connect(0)?;
        exchange.receive()?;
        let mut turns = 1;
        while !stop.load(Ordering::Relaxed) {
            exchange.send()?;
            exchange.receive()?;
            turns += 1;
        }
        Ok(turns)
    }
}

impl Exchange {
    fn send(&self) -> nix::Result<()> {
        match write(&self.0, &MESSAGE)? {
            count if count == MESSAGE.len() => Ok(()),
            _ => Err(Errno::EMSGSIZE),
        }
    }

    /// Reads the message back, whole.
    pub fn receive(&self) -> nix::Result<()> {
        let mut reply = [0; MESSAGE.len()];
        let mut have = 0;
        while have < reply.len() {
            match read(&self.0, &mut reply[have..])? {
                0 => return Err(Errno::ENODATA),
                count => have += count,
            }
        }
        if reply == MESSAGE { Ok(()) } else { Err(Errno::EBADMSG) }
    }

    /// Reads the message back, and takes the connection to its orderly end.
    pub fn finish(self) -> nix::Result<()> {
        self.receive()?;
        self.close()
    }

    /// Reads the message back, and waits for the server to end the connection.
    fn wait_for_end(self) -> nix::Result<()> {
        self.receive()?;
        self.read_end()
    }

    /// Takes the connection to its orderly end.
    pub fn close(self) -> nix::Result<()> {
        shutdown(self.0.as_raw_fd(), Shutdown::Write)?;
        self.read_end()
    }

    fn read_end(&self) -> nix::Result<()> {
        match read(&self.0, &mut [0])? {
            0 => Ok(()),
            _ => Err(Errno::EBADMSG),
        }
    }
}
