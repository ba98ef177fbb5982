//! The workers that have begun to accept: each new worker reports this once.
//!
//! A worker sends a message, and the kernel adds the pid of the sender (SO_PASSCRED
//! of unix(7)). So one arrival costs the same among ten workers and among ten thousand,
//! and a worker cannot name another.
#![forbid(unsafe_code)]

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixCredentials, recvmsg,
    setsockopt, socketpair, sockopt,
};
use nix::unistd::Pid;

/// How many arrivals are read in one turn of the loop: a misbehaving worker may send
/// without end.
const MOST_AT_ONCE: usize = 1024;

/// Both ends of the way from the workers to the master.
#[derive(Debug)]
pub struct Arrivals {
    ours: OwnedFd,
    workers: OwnedFd,
}

impl Arrivals {
    /// A way on which nobody has sent anything.
    pub fn new() -> io::Result<Self> {
        let (workers, ours) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        setsockopt(&ours, sockopt::PassCred, &true)?;
        Ok(Arrivals { ours, workers })
    }

    /// The end for workers. A write blocks while the socket is full and nobody reads.
    pub fn announcer(&self) -> BorrowedFd<'_> {
        self.workers.as_fd()
    }

    /// Gives the pid of each sender to `arrived`.
    pub fn take(&self, mut arrived: impl FnMut(Pid)) {
        for _ in 0..MOST_AT_ONCE {
            match self.take_one() {
                Ok(Some(pid)) => arrived(pid),
                // There is no message without credentials.
                Ok(None) | Err(Errno::EINTR) => {}
                Err(_) => return,
            }
        }
    }

    fn take_one(&self) -> nix::Result<Option<Pid>> {
        let mut bytes = [0; size_of::<u64>()];
        let mut room = cmsg_space!(UnixCredentials);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::MSG_DONTWAIT;
        let message = recvmsg::<()>(self.ours.as_raw_fd(), &mut parts, Some(&mut room), flags)?;
        let pid = message.cmsgs()?.find_map(|control| match control {
            ControlMessageOwned::ScmCredentials(sender) => Some(Pid::from_raw(sender.pid())),
            _ => None,
        });
        Ok(pid)
    }
}

impl AsFd for Arrivals {
    /// The end that is readable when a worker has arrived.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ours.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_who_has_arrived() {
        let arrivals = Arrivals::new().unwrap();
        let taken = || {
            let mut pids = Vec::new();
            arrivals.take(|pid| pids.push(pid));
            pids
        };
        assert_eq!(taken(), []);
        for _ in 0..3 {
            nix::unistd::write(arrivals.announcer(), &1u64.to_ne_bytes()).unwrap();
        }
        assert_eq!(taken(), [nix::unistd::getpid(); 3]);
        assert_eq!(taken(), []);
    }
}
