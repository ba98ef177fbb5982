//! accept4(2) with the peer's address, and the options that nix has not.

use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use nix::errno::Errno;
use nix::libc;

/// Takes a connection off the listener, and the address of its peer (None
/// where the peer has no Internet address, as on a Unix socket).
///
/// An IPv4 peer of an IPv6 listener is given in the form of IPv6; see [`canonical`].
pub fn accept(listener: BorrowedFd<'_>) -> nix::Result<(OwnedFd, Option<SocketAddr>)> {
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
    Ok((connection, unsafe { internet_address(address.as_ptr(), length) }))
}

/// The address with one of IPv4 in the form of IPv6 (::ffff:192.0.2.1) as IPv4.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, address.port()),
        IpAddr::V6(_) => address,
    }
}

/// The address of this end of a connection, as [`canonical`] gives it.
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

/// Bounds how long a receive or a send may wait for the other side
/// (SO_RCVTIMEO and SO_SNDTIMEO of socket(7)); the call then fails with EAGAIN.
pub fn set_timeouts(connection: BorrowedFd<'_>, longest: std::time::Duration) -> io::Result<()> {
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
