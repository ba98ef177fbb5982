//! Calls on a listening socket that nix lacks: a filter of its new clients, and a check
//! whether it is shut down.

use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use nix::errno::Errno;
use nix::libc;

/// Where a segment has its flags, and two of them (RFC 9293, section 3.1).
const FLAGS: u32 = 13;
const SYN: u32 = 0x02;
const ACK: u32 = 0x10;

/// Makes a TCP listener drop the first segment of each new connection.
///
/// A handshake that the listener has answered goes on, because its next segment is no SYN,
/// and a connection in the queue still receives. A later client repeats its SYN until the
/// listener is closed, and is then refused. The filter belongs to the socket, not to this
/// process, and needs no privilege (socket(7), SO_ATTACH_FILTER).
pub fn drop_newcomers(listener: BorrowedFd<'_>) -> nix::Result<()> {
    let step = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    // The filter of a TCP socket sees the segment from its TCP header on.
    let mut program = [
        step((libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16, FLAGS, 0, 0),
        step((libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16, SYN | ACK, 0, 0),
        step((libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, SYN, 0, 1),
        step((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, 0),
        step((libc::BPF_RET | libc::BPF_K) as u16, u32::MAX, 0, 0),
    ];
    let filter =
        libc::sock_fprog { len: program.len() as libc::c_ushort, filter: program.as_mut_ptr() };
    // SAFETY: the kernel reads one sock_fprog, and from there `len` steps. Both outlive the
    // call, and the kernel keeps a copy.
    Errno::result(unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            ptr::from_ref(&filter).cast(),
            mem::size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    })?;
    Ok(())
}

/// Wakes nobody for a client that sends nothing, for so many seconds (TCP_DEFER_ACCEPT of
/// tcp(7)); 0 is not at all.
pub fn defer_accept(listener: BorrowedFd<'_>, seconds: u32) -> nix::Result<()> {
    let seconds = libc::c_int::try_from(seconds).unwrap_or(libc::c_int::MAX);
    // SAFETY: the kernel reads one int from the pointer to a live one.
    Errno::result(unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            ptr::from_ref(&seconds).cast(),
            mem::size_of::<libc::c_int>() as libc::socklen_t,
        )
    })?;
    Ok(())
}

/// The state of a listener, as poll(2) gives it without waiting.
#[derive(Clone, Copy, Debug)]
pub struct Readiness {
    /// Accept would not block: a client waits, or the socket is shut down.
    pub is_readable: bool,
    /// Somebody has shut the socket down for reading.
    pub is_shut_down: bool,
}

/// Looks at a listener without waiting.
pub fn look_at(listener: BorrowedFd<'_>) -> nix::Result<Readiness> {
    let wanted = libc::POLLIN | libc::POLLRDHUP;
    let mut entry = libc::pollfd { fd: listener.as_raw_fd(), events: wanted, revents: 0 };
    // SAFETY: the kernel writes `revents` of the one entry, which is ours.
    Errno::result(unsafe { libc::poll(&mut entry, 1, 0) })?;
    let has = |flag| entry.revents & flag != 0;
    Ok(Readiness {
        is_readable: has(libc::POLLIN),
        is_shut_down: has(libc::POLLRDHUP) || has(libc::POLLHUP),
    })
}
