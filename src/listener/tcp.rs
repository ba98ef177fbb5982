//! The sockets of TCP listeners: bound, and with the options that the configuration says.
#![forbid(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrLike, SockaddrStorage, getsockopt, setsockopt,
    socket, sockopt,
};

use crate::accounts;
use crate::config::{Endpoint, Keepalive, Port, Tcp};
use crate::sys::listener::defer_accept;

use super::bind_to;

/// Binds a socket that is to be as `tcp` says.
pub fn bind(endpoint: &Endpoint, tcp: &Tcp) -> io::Result<OwnedFd> {
    let address = SockaddrStorage::from(socket_address(endpoint)?);
    let family = address.family().ok_or(io::ErrorKind::InvalidInput)?;
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // Connections of a daemon that has just stopped must not keep the next
    // one from its address (TIME_WAIT; socket(7)).
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    // Each connection has it from its listener: a client that vanished without a
    // word must not have its worker for ever.
    setsockopt(&socket, sockopt::KeepAlive, &true)?;
    if let (Some(ipv6_only), AddressFamily::Inet6) = (tcp.ipv6_only, family) {
        setsockopt(&socket, sockopt::Ipv6V6Only, &ipv6_only)?;
    }
    if tcp.freebind {
        setsockopt(&socket, sockopt::IpFreebind, &true)?;
    }
    if let Some(device) = &tcp.bind_device {
        setsockopt(&socket, sockopt::BindToDevice, &OsString::from(device))?;
    }
    if *tcp != (Tcp { ipv6_only: tcp.ipv6_only, ..Tcp::default() }) {
        adjust(&socket, tcp)?;
    }
    bind_to(&socket, &address)?;
    Ok(socket)
}

/// Gives a socket the options that may change while it listens. Connections have them from
/// the listener that they were accepted on.
pub fn adjust(socket: &OwnedFd, tcp: &Tcp) -> io::Result<()> {
    setsockopt(socket, sockopt::TcpNoDelay, &tcp.nodelay)?;
    defer_accept(socket.as_fd(), tcp.defer_accept.unwrap_or(0))?;
    // What is not said is as a new socket has it (net.ipv4.tcp_keepalive_*).
    let fresh = fresh(AddressFamily::Inet)?;
    let Keepalive { idle, interval, count } = tcp.keepalive;
    let idle = idle.map_or_else(|| getsockopt(&fresh, sockopt::TcpKeepIdle), Ok)?;
    let interval = interval.map_or_else(|| getsockopt(&fresh, sockopt::TcpKeepInterval), Ok)?;
    let count = count.map_or_else(|| getsockopt(&fresh, sockopt::TcpKeepCount), Ok)?;
    setsockopt(socket, sockopt::TcpKeepIdle, &idle)?;
    setsockopt(socket, sockopt::TcpKeepInterval, &interval)?;
    setsockopt(socket, sockopt::TcpKeepCount, &count)?;
    Ok(())
}

/// The option that a bound socket has otherwise, and that cannot change while it is bound.
pub fn bound_otherwise(socket: &OwnedFd, endpoint: &Endpoint, tcp: &Tcp) -> Option<&'static str> {
    let device = getsockopt(socket, sockopt::BindToDevice).unwrap_or_default();
    let device = device.as_bytes().split(|&byte| byte == 0).next().unwrap_or_default();
    if OsStr::from_bytes(device) != OsStr::new(tcp.bind_device.as_deref().unwrap_or_default()) {
        return Some("bind_device");
    }
    if endpoint.ip.is_ipv4() {
        return None;
    }
    let now = getsockopt(socket, sockopt::Ipv6V6Only).ok()?;
    let wanted = tcp.ipv6_only.or_else(ipv6_only_by_default)?;
    (now != wanted).then_some("ipv6_only")
}

/// Where an endpoint is. Interfaces come and go, so their numbers are looked up each time.
pub(super) fn socket_address(endpoint: &Endpoint) -> io::Result<SocketAddr> {
    let port = match &endpoint.port {
        Port::Number(number) => *number,
        Port::Name(name) => accounts::port(name)?,
    };
    Ok(match (endpoint.ip, &endpoint.scope) {
        (IpAddr::V6(ip), Some(scope)) => {
            let number = if_nametoindex(scope.as_str());
            let number = number.or_else(|errno| scope.parse().map_err(|_| errno))?;
            SocketAddrV6::new(ip, port, 0, number).into()
        }
        (ip, _) => SocketAddr::new(ip, port),
    })
}

/// What an address has that says nothing of it (net.ipv6.bindv6only).
fn ipv6_only_by_default() -> Option<bool> {
    getsockopt(&fresh(AddressFamily::Inet6).ok()?, sockopt::Ipv6V6Only).ok()
}

fn fresh(family: AddressFamily) -> io::Result<OwnedFd> {
    Ok(socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?)
}
