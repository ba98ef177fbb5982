//! Whether the client of a program is idle: it sends nothing and takes nothing.
//!
//! The program has the socket, and only the kernel sees what is transferred. So the worker
//! looks when the time could be over, and not before.
#![forbid(unsafe_code)]

use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::sys::clock::Moment;
use crate::sys::socket::{self, Traffic};

use super::{Connection, Outcome, Peer};

/// How coarse the kernel's account of times is: at least a hundred ticks a second.
const TICK: Duration = Duration::from_millis(10);

/// The watch over one client. Without a limit it costs nothing and never ends.
pub struct IdleWatch<'c> {
    connection: &'c Connection,
    limit: Option<Duration>,
    /// The client may have sent or taken something until then.
    active: Moment,
    gauge: Gauge,
    is_over: bool,
}

/// How activity is seen.
enum Gauge {
    /// The kernel counts the bytes of TCP: what it said at the last look.
    Counters(Option<Traffic>),
    /// On a Unix socket it counts nothing. But the kernel wakes any waiter on the socket
    /// when the client sends, and when the client makes room by reading. An epoll(7) set
    /// keeps such a wake-up until the next look (EPOLLET), and wakes nobody.
    WakeUps { set: Epoll, untaken: usize },
}

impl<'c> IdleWatch<'c> {
    /// A watch over the client of this connection, which was active just now.
    ///
    /// # Errors
    ///
    /// There is no descriptor or no memory for it.
    pub fn begin(connection: &'c Connection) -> io::Result<Self> {
        let limit = connection.idle_timeout();
        let gauge = match (limit, connection.peer()) {
            (Some(_), Peer::Unix) => Gauge::wake_ups(connection)?,
            (_, Peer::Internet(_)) | (None, Peer::Unix) => Gauge::Counters(None),
        };
        let active = limit.map_or(Moment::default(), |_| Moment::now());
        Ok(IdleWatch { connection, limit, active, gauge, is_over: false })
    }

    /// When to look.
    pub fn deadline(&self) -> Option<Moment> {
        self.limit.filter(|_| !self.is_over).map(|limit| self.active + limit)
    }

    /// Ends the connection if the client has been idle for too long; tells whether it did
    /// so now. Before the deadline it does nothing.
    pub fn ends_connection(&mut self, now: Moment) -> bool {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return false;
        }
        if let Some(active) = self.gauge.look(self.connection, now) {
            self.active = self.active.max(active);
        }
        self.is_over = self.deadline().is_some_and(|deadline| now >= deadline);
        if self.is_over {
            // It cannot fail but on a connection that is gone.
            let _ = self.connection.shutdown(Shutdown::Both);
        }
        self.is_over
    }

    /// How the connection has ended.
    pub fn outcome(&self) -> Outcome {
        match self.is_over {
            true => io::Error::from(ErrorKind::TimedOut).into(),
            false => Outcome::Served,
        }
    }
}

impl Gauge {
    fn wake_ups(connection: &Connection) -> io::Result<Self> {
        let set = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let events = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
        set.add(connection.socket(), EpollEvent::new(events, 0))?;
        // The first event is the present state of the socket, and no wake-up.
        was_woken(&set);
        Ok(Gauge::WakeUps { set, untaken: socket::untaken(connection.socket()) })
    }

    /// When the client was active last, if that was after the last look.
    fn look(&mut self, connection: &Connection, now: Moment) -> Option<Moment> {
        match self {
            Gauge::Counters(last) => {
                // Without an answer the client gets more time.
                let Some(traffic) = socket::traffic(connection.socket()) else {
                    return Some(now);
                };
                active_until(last.replace(traffic), traffic, now)
            }
            Gauge::WakeUps { set, untaken } => {
                let before = std::mem::replace(untaken, socket::untaken(connection.socket()));
                // Where little room was made, there was no wake-up.
                (was_woken(set) || *untaken != before).then_some(now)
            }
        }
    }
}

/// Until when a client may have been active, by what the kernel said at the last look, if
/// there was one, and what it says now.
///
/// A client that takes nothing still acknowledges our probes, so that the time of its last
/// acknowledgement means something only if it has taken more than before.
fn active_until(last: Option<Traffic>, traffic: Traffic, now: Moment) -> Option<Moment> {
    let has_changed = |of: fn(&Traffic) -> u64| last.is_none_or(|it| of(&it) != of(&traffic));
    let sent = has_changed(|it| it.sent).then_some(traffic.since_sent);
    let took = has_changed(|it| it.taken).then_some(traffic.since_acknowledged);
    let ago = sent.into_iter().chain(took).min()?;
    Some(now.before(ago.saturating_sub(TICK)))
}

/// Whether anybody who waits for the socket would have been woken since the last question.
fn was_woken(set: &Epoll) -> bool {
    loop {
        match set.wait(&mut [EpollEvent::empty()], EpollTimeout::ZERO) {
            Ok(count) => return count > 0,
            Err(Errno::EINTR) => {}
            // It cannot fail otherwise; were it to, the client gets more time.
            Err(_) => return true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_active_while_it_sends_or_takes() {
        let at = |millis: u64| Moment::from_nanos(millis * 1_000_000);
        let traffic = |sent, taken, since_sent, since_acknowledged| Traffic {
            sent,
            taken,
            since_sent: Duration::from_millis(since_sent),
            since_acknowledged: Duration::from_millis(since_acknowledged),
        };
        let before = Some(traffic(10, 10, 500, 500));
        let cases = [
            // The first look: the handshake, and what came since.
            (None, traffic(0, 0, 900, 900), Some(110)),
            (None, traffic(10, 0, 300, 900), Some(710)),
            // Nothing but probes, which it acknowledges.
            (before, traffic(10, 10, 800, 0), None),
            (before, traffic(11, 10, 200, 900), Some(810)),
            (before, traffic(10, 11, 900, 200), Some(810)),
            (before, traffic(11, 11, 100, 200), Some(910)),
            // Not later than now.
            (before, traffic(11, 10, 0, 900), Some(1000)),
            // Longer ago than this clock has run.
            (before, traffic(11, 10, 5000, 5000), Some(0)),
        ];
        for (last, now, active) in cases {
            assert_eq!(active_until(last, now, at(1000)), active.map(at), "{last:?} {now:?}");
        }
    }
}
