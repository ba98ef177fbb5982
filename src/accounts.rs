//! The one look-up of users and groups. It may block for as long as the user database
//! of the machine takes.
#![forbid(unsafe_code)]

use std::ffi::CString;
use std::io;

use nix::unistd::{Gid, Group, User, geteuid, getgrouplist};

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

/// All groups of a user whose first one is `gid`.
///
/// # Errors
///
/// The database cannot be read.
pub fn groups(user: &User, gid: Gid) -> io::Result<Vec<Gid>> {
    Ok(getgrouplist(&CString::new(user.name.as_bytes())?, gid)?)
}

/// The name of the user that this process runs as, or its number.
pub fn own_name() -> String {
    let uid = geteuid();
    let found = User::from_uid(uid).ok().flatten();
    found.map_or_else(|| uid.to_string(), |user| user.name)
}
