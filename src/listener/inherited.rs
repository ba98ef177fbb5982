//! Sockets that were passed to this process.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;

use crate::config::Address;

/// A socket that was passed to this process, by its name.
#[derive(Debug)]
pub struct Inherited {
    /// FileDescriptorName= of systemd.socket(5), or the name it was stored by.
    pub name: String,
    /// The socket.
    pub socket: OwnedFd,
}

/// Who has bound an inherited socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BoundBy {
    /// An earlier process of ours. The file of the socket, if it has one, is ours to remove.
    Us,
    /// A socket unit.
    SocketUnit,
}

/// Prefix of the names of our stored sockets.
const STORED: &str = "listener-";

/// The name under which the socket of an address is stored. It holds the whole
/// address, in characters that such a name may have.
pub fn stored_name(address: &Address) -> String {
    let hex: String = address.to_string().bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("{STORED}{hex}")
}

/// Whether a socket was stored for us, and not made by a socket unit.
pub fn is_stored(name: &str) -> bool {
    name.starts_with(STORED)
}
