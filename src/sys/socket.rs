//! accept4(2) with the peer, and the options that nix does not have.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::ptr;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{UnixAddr, getsockname};

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A client at this Internet address. For a service, an IPv4 client of an IPv6 listener
    /// has an IPv4 address.
    Internet(SocketAddr),
    /// A client on the Unix socket, which has no address; see
    /// [`Connection::credentials`](crate::Connection::credentials).
    Unix,
}

impl Peer {
    /// The peer as people know it: an IPv4 address in the form of IPv6 (::ffff:192.0.2.1)
    /// becomes an IPv4 address.
    pub(crate) fn canonical(self) -> Peer {
        match self {
            Peer::Internet(address) => Peer::Internet(canonical(address)),
            Peer::Unix => Peer::Unix,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Internet(address) => address.fmt(f),
            Peer::Unix => f.write_str("unix"),
        }
    }
}

/// Takes a connection off the listener, with its peer.
///
/// An IPv4 peer of an IPv6 listener has the form of IPv6; see [`Peer::canonical`].
pub fn accept(listener: BorrowedFd<'_>) -> nix::Result<(OwnedFd, Peer)> {
    let mut address = MaybeUninit::<libc::sockaddr_storage>::uninit();
    let mut length = mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which is the room there.
    let fd = Errno::result(unsafe {
        libc::accept4(
            listener.as_raw_fd(),
            address.as_mut_ptr().cast(),
            &mut length,
            libc::SOCK_CLOEXEC,
        )
    })?;
    // SAFETY: accept4 gave us a new descriptor that nobody else owns.
    let connection = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: `length` bytes were written.
    let address = unsafe { internet_address(address.as_ptr(), length) };
    Ok((connection, address.map_or(Peer::Unix, Peer::Internet)))
}

fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, address.port()),
        IpAddr::V6(_) => address,
    }
}

/// The address of this end of a connection, in the form of [`Peer::canonical`]; None on a
/// Unix socket.
pub fn local_address(connection: BorrowedFd<'_>) -> nix::Result<Option<SocketAddr>> {
    let mut address = MaybeUninit::<libc::sockaddr_storage>::uninit();
    let mut length = mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which is the room there.
    Errno::result(unsafe {
        libc::getsockname(connection.as_raw_fd(), address.as_mut_ptr().cast(), &mut length)
    })?;
    // SAFETY: `length` bytes were written.
    Ok(unsafe { internet_address(address.as_ptr(), length) }.map(canonical))
}

/// The path of a Unix socket, `@name` in the abstract namespace; None if the socket has no
/// path.
pub fn local_path(connection: RawFd) -> nix::Result<Option<OsString>> {
    let address: UnixAddr = getsockname(connection)?;
    let path = address.path().map(|path| path.as_os_str().to_owned());
    let name = address.as_abstract().map(|name| OsString::from_vec([b"@", name].concat()));
    Ok(path.or(name))
}

/// Decodes ip(7) and ipv6(7) addresses.
///
/// # Safety
///
/// The first `length` bytes at `address` must be initialised.
unsafe fn internet_address(
    address: *const libc::sockaddr_storage,
    length: libc::socklen_t,
) -> Option<SocketAddr> {
    let length = length as usize;
    if length < mem::size_of::<libc::sa_family_t>() {
        return None;
    }
    // SAFETY: the family is the first member and was written.
    let family = unsafe { (*address.cast::<libc::sockaddr>()).sa_family };
    match i32::from(family) {
        libc::AF_INET if length >= mem::size_of::<libc::sockaddr_in>() => {
            // SAFETY: the family says which struct it is, the length that it
            // is whole; sockaddr_storage is aligned for each.
            let v4 = unsafe { &*address.cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddr::new(ip.into(), u16::from_be(v4.sin_port)))
        }
        libc::AF_INET6 if length >= mem::size_of::<libc::sockaddr_in6>() => {
            // SAFETY: as above.
            let v6 = unsafe { &*address.cast::<libc::sockaddr_in6>() };
            let (ip, port) = (Ipv6Addr::from(v6.sin6_addr.s6_addr), u16::from_be(v6.sin6_port));
            Some(SocketAddrV6::new(ip, port, 0, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}

/// How many received bytes are unread (SIOCINQ of tcp(7) and unix(7)).
pub fn unread(connection: BorrowedFd<'_>) -> usize {
    count(connection, libc::FIONREAD)
}

/// How many written bytes the kernel has not sent yet, because the client's window or the
/// network is full (SIOCOUTQNSD of linux/sockios.h). On a Unix socket none.
pub fn unsent(connection: BorrowedFd<'_>) -> usize {
    const SIOCOUTQNSD: libc::Ioctl = 0x894B;
    count(connection, SIOCOUTQNSD)
}

/// How many bytes of memory hold written data that the client has not taken yet (SIOCOUTQ
/// of tcp(7) and unix(7)).
pub fn untaken(connection: BorrowedFd<'_>) -> usize {
    count(connection, libc::TIOCOUTQ)
}

/// A count of the kernel for a socket; 0 if the kernel has none.
fn count(connection: BorrowedFd<'_>, what: libc::Ioctl) -> usize {
    let mut count: libc::c_int = 0;
    // SAFETY: each request writes one int to the pointer, which is to a live local.
    let done = unsafe { libc::ioctl(connection.as_raw_fd(), what, &raw mut count) };
    if done < 0 { 0 } else { usize::try_from(count).unwrap_or(0) }
}

/// Bounds how long a receive or a send may wait for the other side
/// (SO_RCVTIMEO and SO_SNDTIMEO of socket(7)); the call then fails with EAGAIN.
pub fn set_timeouts(connection: BorrowedFd<'_>, longest: Duration) -> io::Result<()> {
    let time = libc::timeval {
        tv_sec: libc::time_t::try_from(longest.as_secs()).unwrap_or(libc::time_t::MAX),
        // A wait of zero would mean for ever, so round up to a microsecond.
        tv_usec: longest.subsec_nanos().div_ceil(1000).min(999_999).into(),
    };
    for option in [libc::SO_RCVTIMEO, libc::SO_SNDTIMEO] {
        // SAFETY: the kernel reads one timeval from the pointer to a live one.
        Errno::result(unsafe {
            libc::setsockopt(
                connection.as_raw_fd(),
                libc::SOL_SOCKET,
                option,
                ptr::from_ref(&time).cast(),
                mem::size_of::<libc::timeval>() as libc::socklen_t,
            )
        })?;
    }
    Ok(())
}

/// The kernel's data on a TCP connection (TCP_INFO of tcp(7)), in 32-bit words; None if it
/// gives fewer words. A signal handler may call this: getsockopt is async-signal-safe.
fn tcp_info<const WORDS: usize>(connection: RawFd) -> Option<[u32; WORDS]> {
    let mut info = [0u32; WORDS];
    let mut length = mem::size_of_val(&info) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which is the room there.
    let result = unsafe {
        libc::getsockopt(
            connection,
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &mut length,
        )
    };
    let is_whole = result == 0 && length as usize == mem::size_of_val(&info);
    is_whole.then_some(info)
}

/// Whether any data came or went over a TCP connection; None if the kernel does not say. A
/// signal handler may call this.
pub fn has_transferred(connection: RawFd) -> Option<bool> {
    /// Where `tcpi_data_segs_in` is; `tcpi_data_segs_out` follows.
    const DATA_SEGMENTS: usize = 38;
    let info: [u32; DATA_SEGMENTS + 2] = tcp_info(connection)?;
    Some(info[DATA_SEGMENTS..].iter().any(|&segments| segments > 0))
}

/// What a TCP client has done so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// How many bytes it has sent.
    pub sent: u64,
    /// How many bytes it has taken, which means that its kernel has acknowledged them.
    pub taken: u64,
    /// How long ago it last sent data.
    pub since_sent: Duration,
    /// How long ago it last acknowledged anything, a probe of ours included.
    pub since_acknowledged: Duration,
}

/// What the client has done so far; None if the kernel does not say.
pub fn traffic(connection: BorrowedFd<'_>) -> Option<Traffic> {
    /// Where `tcpi_last_data_recv` is, in milliseconds; `tcpi_last_ack_recv` follows.
    const LAST: usize = 13;
    /// Where the 64 bits of `tcpi_bytes_acked` are; those of `tcpi_bytes_received` follow.
    const BYTES: usize = 30;
    let info: [u32; BYTES + 4] = tcp_info(connection.as_raw_fd())?;
    let millis = |at: usize| Duration::from_millis(info[at].into());
    let bytes = |at: usize| long_word(&info, at);
    Some(Traffic {
        sent: bytes(BYTES + 2),
        taken: bytes(BYTES),
        since_sent: millis(LAST),
        since_acknowledged: millis(LAST + 1),
    })
}

/// How many bytes were transferred over a TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transferred {
    /// From the client.
    pub received: u64,
    /// To the client, each byte counted once.
    pub sent: u64,
}

/// How many bytes were transferred so far; None where the kernel does not say, as before
/// Linux 4.19. `end` is what this process knows of the end of what the client sends: a
/// connection that is closed on both sides does not tell any more.
pub fn transferred(connection: BorrowedFd<'_>, end: StreamEnd) -> Option<Transferred> {
    /// Where the 64 bits of `tcpi_bytes_received` are.
    const RECEIVED: usize = 32;
    /// Where those of `tcpi_bytes_sent` are; those of `tcpi_bytes_retrans` follow.
    const SENT: usize = 50;
    /// `tcpi_state`: the client has closed its side, and maybe we ours (linux/tcp.h).
    const CLOSED_BY_CLIENT: [u8; 4] = [6, 8, 9, 11];
    let info: [u32; SENT + 4] = tcp_info(connection.as_raw_fd())?;
    // The end of the stream (FIN) is counted as a byte.
    let has_end = end == StreamEnd::Seen || CLOSED_BY_CLIENT.contains(&info[0].to_ne_bytes()[0]);
    Some(Transferred {
        received: long_word(&info, RECEIVED).saturating_sub(u64::from(has_end)),
        sent: long_word(&info, SENT).saturating_sub(long_word(&info, SENT + 2)),
    })
}

/// Whether a process has read to the end of what a client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamEnd {
    Seen,
    Unseen,
}

/// The 64 bits at this 32-bit word.
fn long_word(words: &[u32], at: usize) -> u64 {
    let halves = [words[at].to_ne_bytes(), words[at + 1].to_ne_bytes()];
    u64::from_ne_bytes(halves.concat().try_into().unwrap_or_default())
}
