//! The one look-up of users, groups, and ports by name. It may block for as long as the
//! databases of the machine take, so what was found once is remembered.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use nix::unistd::{Gid, Group, Uid, User, geteuid, getgrouplist};
use serde::{Deserialize, Serialize};

use crate::sys::ports;

/// A user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its name.
    pub name: String,
    /// Its number.
    pub uid: Uid,
    /// Its first group, which a number that no user has is without.
    pub gid: Option<Gid>,
    /// Its home directory.
    pub home: String,
    /// Its shell.
    pub shell: String,
}

/// The entry of a user in the database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    uid: u32,
    gid: Option<u32>,
    home: String,
    shell: String,
}

/// What was found in the databases. It can cross a pipe: a daemon that
/// runs has a child look, because that may block.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Users by name.
    users: BTreeMap<String, Entry>,
    /// The numbers of groups, by name.
    groups: BTreeMap<String, u32>,
    /// All groups of users, by the name of the user and the number of the first group.
    members: BTreeMap<String, BTreeMap<String, Vec<u32>>>,
    /// The numbers of ports, by name.
    ports: BTreeMap<String, u16>,
    /// The name of the user that this process runs as.
    own: Option<String>,
}

static FOUND: Mutex<Option<Found>> = Mutex::new(None);

/// All results so far.
pub fn found() -> Found {
    with_found(|found| found.clone())
}

/// Replaces all results by these.
pub fn remember(new: Found) {
    with_found(|found| *found = new);
}

fn with_found<T>(act: impl FnOnce(&mut Found) -> T) -> T {
    let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    act(found.get_or_insert_with(Found::default))
}

/// The user of this name or number. As with chown(1), a name goes before a number.
///
/// # Errors
///
/// There is none, or the database cannot be read.
pub fn user(name: &str) -> io::Result<Account> {
    let account = |entry: Entry| Account {
        name: name.to_owned(),
        uid: Uid::from_raw(entry.uid),
        gid: entry.gid.map(Gid::from_raw),
        home: entry.home,
        shell: entry.shell,
    };
    if let Some(entry) = with_found(|found| found.users.get(name).cloned()) {
        return Ok(account(entry));
    }
    let number = number(name);
    let user = match (User::from_name(name)?, number) {
        (None, Some(uid)) => User::from_uid(Uid::from_raw(uid))?,
        (user, _) => user,
    };
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let entry = match (user, number) {
        (Some(user), _) => {
            let (uid, gid) = (user.uid.as_raw(), Some(user.gid.as_raw()));
            Entry { uid, gid, home: text(user.dir), shell: text(user.shell) }
        }
        (None, Some(uid)) => {
            Entry { uid, gid: None, home: "/".to_owned(), shell: "/bin/sh".to_owned() }
        }
        (None, None) => return Err(io::Error::other("no such user")),
    };
    with_found(|found| found.users.insert(name.to_owned(), entry.clone()));
    Ok(account(entry))
}

/// The group of this name or number.
///
/// # Errors
///
/// There is none, or the database cannot be read.
pub fn group(name: &str) -> io::Result<Gid> {
    if let Some(gid) = with_found(|found| found.groups.get(name).copied()) {
        return Ok(Gid::from_raw(gid));
    }
    let gid = match Group::from_name(name)? {
        Some(group) => group.gid.as_raw(),
        None => number(name).ok_or_else(|| io::Error::other("no such group"))?,
    };
    with_found(|found| found.groups.insert(name.to_owned(), gid));
    Ok(Gid::from_raw(gid))
}

/// The id that a text is. The greatest number means nobody to the kernel (chown(2)).
fn number(text: &str) -> Option<u32> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|&id| is_number && id != u32::MAX)
}

/// The number of the TCP port of this name.
///
/// # Errors
///
/// There is none, or the database cannot be read.
pub fn port(name: &str) -> io::Result<u16> {
    if let Some(port) = with_found(|found| found.ports.get(name).copied()) {
        return Ok(port);
    }
    let port = ports::by_name(&CString::new(name)?)?;
    with_found(|found| found.ports.insert(name.to_owned(), port));
    Ok(port)
}

/// All groups of a user whose first group is `gid`.
///
/// # Errors
///
/// The database cannot be read.
pub fn groups(user: &Account, gid: Gid) -> io::Result<Vec<Gid>> {
    let known = |found: &mut Found| found.members.get(&user.name)?.get(&gid.to_string()).cloned();
    if let Some(groups) = with_found(known) {
        return Ok(groups.into_iter().map(Gid::from_raw).collect());
    }
    let groups = getgrouplist(&CString::new(user.name.as_bytes())?, gid)?;
    let numbers = groups.iter().map(|group| group.as_raw()).collect();
    with_found(|found| {
        found.members.entry(user.name.clone()).or_default().insert(gid.to_string(), numbers)
    });
    Ok(groups)
}

/// The name of the user that this process runs as, or its number.
pub fn own_name() -> String {
    if let Some(name) = with_found(|found| found.own.clone()) {
        return name;
    }
    let uid = geteuid();
    let user = User::from_uid(uid).ok().flatten();
    let name = user.map_or_else(|| uid.to_string(), |user| user.name);
    with_found(|found| found.own = Some(name.clone()));
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_crosses_a_pipe_and_is_not_looked_for_again() {
        // Nobody has these names. This is one test, because all tests share the results.
        let (home, shell) = ("/a \\ b".to_owned(), "/bin/sh".to_owned());
        let entry = Entry { uid: 7, gid: Some(8), home, shell };
        let found = Found {
            users: BTreeMap::from([("no one\" at all".to_owned(), entry)]),
            groups: BTreeMap::from([("none at all".to_owned(), 9)]),
            members: BTreeMap::from([(
                "no one\" at all".to_owned(),
                BTreeMap::from([("8".to_owned(), vec![8, 10])]),
            )]),
            ports: BTreeMap::from([("no-port-at-all".to_owned(), 11)]),
            own: Some("somebody".to_owned()),
        };
        let text = toml::to_string(&found).unwrap();
        assert_eq!(toml::from_str::<Found>(&text).unwrap(), found);
        let before = self::found();
        remember(found);
        let account = user("no one\" at all").unwrap();
        assert_eq!((account.uid.as_raw(), account.gid), (7, Some(Gid::from_raw(8))));
        assert_eq!((account.home.as_str(), account.shell.as_str()), ("/a \\ b", "/bin/sh"));
        assert_eq!(group("none at all").unwrap().as_raw(), 9);
        assert_eq!(groups(&account, Gid::from_raw(8)).unwrap().len(), 2);
        assert_eq!(own_name(), "somebody");
        assert_eq!(port("no-port-at-all").unwrap(), 11);
        remember(before);
        assert!(user("no one\" at all").is_err());
    }
}
