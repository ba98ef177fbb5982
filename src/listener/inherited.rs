//! Sockets that were passed to this process.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use nix::sys::socket::{Shutdown, shutdown};

use crate::config::Address;

use super::file;

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

/// The file of the socket that was stored under this name, if it has one.
fn stored_path(name: &str) -> Option<PathBuf> {
    let hex = name.strip_prefix(STORED)?.as_bytes();
    let digits = hex.chunks(2).map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok());
    let path = PathBuf::from(OsString::from_vec(digits.collect::<Option<_>>()?));
    path.is_absolute().then_some(path)
}

/// Lets go of a socket that was stored for us and that no pool wants any more: clients are
/// refused, and its file goes.
pub fn abandon(stored: Inherited) {
    // The service manager closes its own descriptor when it comes to it.
    let _ = shutdown(stored.socket.as_raw_fd(), Shutdown::Both);
    if let Some(path) = stored_path(&stored.name) {
        file::clear(&path);
    }
}

/// Whether a socket was stored for us, and not made by a socket unit.
pub fn is_stored(name: &str) -> bool {
    name.starts_with(STORED)
}
