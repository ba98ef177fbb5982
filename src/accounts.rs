//! The one look-up of users and groups. It may block for as long as the user database
//! of the machine takes.
#![forbid(unsafe_code)]

use std::io;

use nix::unistd::{Group, User};

/// The user of this name.
///
/// # Errors
///
/// There is none, or the database cannot be read.
pub fn user(name: &str) -> io::Result<User> {
    User::from_name(name)?.ok_or_else(|| io::Error::other("no such user"))
}

/// The group of this name.
///
/// # Errors
///
/// There is none, or the database cannot be read.
pub fn group(name: &str) -> io::Result<Group> {
    Group::from_name(name)?.ok_or_else(|| io::Error::other("no such group"))
}
