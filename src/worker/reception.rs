//! Where clients come in: on one listener, or on several.
//!
//! On one listener, a worker sleeps in accept, as long as that blocks. On several it waits
//! in ppoll for a client of any of them. All idle workers wake up then, and the first gets
//! the client. So accept on these must not block, because a late worker would sleep on one
//! listener while the others have clients.
#![forbid(unsafe_code)]

use std::os::fd::{BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::{SigSet, SigmaskHow};

use crate::scoreboard::OwnPage;
use crate::service::Peer;
use crate::sys::listener::look_at;
use crate::sys::{handler, socket};

/// A listener, as a worker sees it.
#[derive(Clone, Copy, Debug)]
pub struct Inlet<'a> {
    /// Where to accept.
    pub listener: BorrowedFd<'a>,
    /// What becomes of it at a stop.
    pub ending: Ending,
}

/// What becomes of a listener at a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It drains. An accept that would block has found the end of the queue (TCP).
    WouldBlock,
    /// It drains. Once it is shut down, an accept that fails has found the end of the queue
    /// (a Unix socket).
    ShutDown,
    /// It stays open for the next daemon, whose clients wait there.
    Stays,
}

/// All inlets of a worker.
pub struct Reception<'a> {
    inlets: &'a [Inlet<'a>],
    page: OwnPage,
    /// What ppoll is asked, once there is something to ask.
    entries: Vec<PollFd<'a>>,
    /// Whose turn it is to be looked at first, so that no inlet keeps the others waiting.
    first: usize,
}

/// What comes next for a worker.
pub enum Next {
    /// This client.
    Client(OwnedFd, Peer),
    /// Nobody: the queues have come to their ends.
    End,
    /// Accept or ppoll failed. EINTR also says that there is a reason to look around.
    Failed(Errno),
}

impl<'a> Reception<'a> {
    pub fn new(inlets: &'a [Inlet<'a>], page: OwnPage) -> Self {
        Reception { inlets, page, entries: Vec::new(), first: 0 }
    }

    /// Waits for the next client.
    pub fn next(&mut self) -> Next {
        if let [inlet] = self.inlets {
            match socket::accept(inlet.listener) {
                Ok((socket, peer)) => return Next::Client(socket, peer),
                // Somebody has set O_NONBLOCK, which all that have the listener share.
                Err(Errno::EAGAIN) => {}
                Err(Errno::EINVAL) if self.page.is_draining() => {}
                Err(errno) => return Next::Failed(errno),
            }
        }
        if self.page.is_draining() { self.drain() } else { self.wait() }
    }

    /// Waits for a client of any inlet.
    fn wait(&mut self) -> Next {
        if self.entries.is_empty() {
            let wanted = PollFlags::POLLIN | SHUT_DOWN;
            self.entries
                .extend(self.inlets.iter().map(|inlet| PollFd::new(inlet.listener, wanted)));
        }
        loop {
            if let Err(errno) = sleep(&mut self.entries, self.page) {
                return Next::Failed(errno);
            }
            for at in self.in_turn() {
                let state = State::of(&self.entries[at]);
                if state == State::Quiet {
                    continue;
                }
                match (socket::accept(self.inlets[at].listener), state) {
                    (Ok((socket, peer)), _) => {
                        self.first = at + 1;
                        return Next::Client(socket, peer);
                    }
                    // An accept that sleeps says so itself.
                    (Err(Errno::EAGAIN), State::ShutDown) => {
                        let drains = self.page.is_draining();
                        return Next::Failed(if drains { Errno::EINTR } else { Errno::EINVAL });
                    }
                    // Another worker was quicker.
                    (Err(Errno::EAGAIN), _) => {}
                    (Err(errno), _) => return Next::Failed(errno),
                }
            }
        }
    }

    /// Takes the next client from the queues, into which nobody comes any more.
    fn drain(&mut self) -> Next {
        let mut left = Vec::new();
        for at in self.in_turn() {
            let Inlet { listener, ending } = self.inlets[at];
            if ending == Ending::Stays {
                continue;
            }
            // First, because afterwards nobody gets into the queue.
            let is_shut_down = look_at(listener).is_ok_and(|ready| ready.is_shut_down);
            match socket::accept(listener) {
                Ok((socket, peer)) => {
                    self.first = at + 1;
                    return Next::Client(socket, peer);
                }
                Err(Errno::EINVAL) => {}
                Err(Errno::EAGAIN) if is_shut_down || ending == Ending::WouldBlock => {}
                // The master has not come to it yet.
                Err(Errno::EAGAIN) => left.push(PollFd::new(listener, PollFlags::POLLIN)),
                Err(errno) => return Next::Failed(errno),
            }
        }
        if left.is_empty() {
            return Next::End;
        }
        Next::Failed(ppoll(&mut left, None, None).err().unwrap_or(Errno::EINTR))
    }

    fn in_turn(&self) -> impl Iterator<Item = usize> + use<> {
        let (count, first) = (self.inlets.len(), self.first);
        (0..count).map(move |step| (first + step) % count)
    }
}

/// Somebody has shut the listener down. The crate has no name for it, and gives no flags at
/// all where it is among them.
const SHUT_DOWN: PollFlags = PollFlags::from_bits_retain(libc::POLLRDHUP);

/// What ppoll has said of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Quiet,
    Ready,
    ShutDown,
}

impl State {
    fn of(entry: &PollFd<'_>) -> State {
        match entry.revents() {
            Some(flags) if flags.is_empty() => State::Quiet,
            Some(flags) if !flags.contains(PollFlags::POLLHUP) => State::Ready,
            Some(_) | None => State::ShutDown,
        }
    }
}

/// Sleeps until an entry is ready or a signal has come.
fn sleep(entries: &mut [PollFd<'_>], page: OwnPage) -> nix::Result<()> {
    // A signal that comes between the test and the sleep must end the sleep, so it is let in
    // only there. To retire, /dev/null in place of the listeners would do; but they stay
    // where they are to be drained.
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    let slept = match handler::retiring() || page.is_draining() {
        true => Err(Errno::EINTR),
        false => ppoll(entries, None, Some(before)).map(drop),
    };
    before.thread_set_mask()?;
    slept
}
