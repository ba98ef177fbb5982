//! A load of many short connections, and what became of them.

use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use super::{Address, Client, until};

/// What became of the connections of a load.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// The reply was what was sent, and then ended.
    pub complete: usize,
    /// `connect` failed.
    pub refused: usize,
    /// Cut before the first byte of a reply.
    pub unanswered: usize,
    /// Cut in the middle of the reply.
    pub short: usize,
    /// The reply was something else.
    pub wrong: usize,
    /// The first few errors.
    pub errors: Vec<String>,
}

impl Tally {
    fn add(&mut self, other: Tally) {
        self.complete += other.complete;
        self.refused += other.refused;
        self.unanswered += other.unanswered;
        self.short += other.short;
        self.wrong += other.wrong;
        self.errors.extend(other.errors);
        self.errors.truncate(10);
    }
}

/// Clients that connect to an echo service over and over.
pub struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<Tally>>,
}

struct Shared {
    address: Address,
    wanted: usize,
    begun: AtomicUsize,
    ended: AtomicUsize,
    stop: AtomicBool,
}

impl Load {
    /// Starts `clients` threads, which make `connections` in all.
    pub fn start(address: &Address, clients: usize, connections: usize) -> Self {
        let shared = Arc::new(Shared {
            address: address.clone(),
            wanted: connections,
            begun: AtomicUsize::new(0),
            ended: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        });
        let clients = (0..clients)
            .map(|client| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || shared.run(client))
            })
            .collect();
        Load { shared, clients }
    }

    /// How many connections have ended.
    pub fn ended(&self) -> usize {
        self.shared.ended.load(Ordering::Relaxed)
    }

    /// Whether all have ended.
    pub fn is_over(&self) -> bool {
        self.clients.iter().all(JoinHandle::is_finished)
    }

    /// Waits until `count` more connections have ended, or all.
    #[track_caller]
    pub fn wait_for(&self, count: usize) {
        let goal = self.ended() + count;
        until("the load goes on", || (self.ended() >= goal || self.is_over()).then_some(()));
    }

    /// Lets the connections in hand end and makes no further ones.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }

    /// Waits for the clients, and tells what they met.
    #[track_caller]
    pub fn finish(self) -> Tally {
        while !self.is_over() {
            // Bounded: as long as it goes on, a client's time-out at the latest.
            self.wait_for(1);
        }
        let mut tally = Tally::default();
        for client in self.clients {
            tally.add(client.join().expect("a client of the load"));
        }
        tally
    }
}

impl Shared {
    fn run(&self, client: usize) -> Tally {
        let mut tally = Tally::default();
        while !self.stop.load(Ordering::Relaxed) {
            let number = self.begun.fetch_add(1, Ordering::Relaxed);
            if number >= self.wanted {
                break;
            }
            self.connect(client, number, &mut tally);
            self.ended.fetch_add(1, Ordering::Relaxed);
        }
        tally
    }

    fn connect(&self, client: usize, number: usize, tally: &mut Tally) {
        let connected = match self.address.source(client) {
            Some(source) => Client::try_connect_from(source, &self.address),
            None => Client::try_connect(&self.address),
        };
        let mut connection = match connected {
            Ok(connection) => connection,
            Err(error) => {
                tally.refused += 1;
                tally.errors.push(format!("connection {number}: could not connect: {error}"));
                return;
            }
        };
        let request = request(number);
        let mut reply = Vec::new();
        let result = exchange(&mut connection, &request, &mut reply);
        let counter = if reply == request && result.is_ok() {
            tally.complete += 1;
            return;
        } else if reply.is_empty() {
            &mut tally.unanswered
        } else if request.starts_with(&reply) {
            &mut tally.short
        } else {
            &mut tally.wrong
        };
        *counter += 1;
        if tally.errors.len() < 10 {
            let error = format!(
                "connection {number}: {} of {} bytes, {result:?}",
                reply.len(),
                request.len()
            );
            tally.errors.push(error);
        }
    }
}

/// A text of 1 to some 600 bytes that tells connections apart.
fn request(number: usize) -> Vec<u8> {
    let unit = format!("connection {number}; ");
    let size = 1 + number * 7919 % 600;
    unit.bytes().cycle().take(size).collect()
}

fn exchange(connection: &mut Client, request: &[u8], reply: &mut Vec<u8>) -> io::Result<()> {
    connection.write_all(request)?;
    connection.half_close()?;
    let mut buffer = [0; 1024];
    loop {
        match connection.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(size) => reply.extend_from_slice(&buffer[..size]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
