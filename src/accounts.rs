//! The one look-up of users and groups. A look-up may block as long as the machine's user
//! database does, so each result is remembered.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use nix::unistd::{Gid, Group, Uid, User, geteuid, getgrouplist};
use serde::{Deserialize, Serialize};

/// A user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its name.
    pub name: String,
    /// Its number.
    pub uid: Uid,
    /// Its first group.
    pub gid: Gid,
    /// Its home directory.
    pub home: String,
    /// Its shell.
    pub shell: String,
}

/// The entry of a user in the database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    uid: u32,
    gid: u32,
    home: String,
    shell: String,
}

/// The results from the database of users and groups. They can cross a pipe: in a running
/// daemon a child does the look-up, because that may block.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Users by name.
    users: BTreeMap<String, Entry>,
    /// The numbers of groups, by name.
    groups: BTreeMap<String, u32>,
    /// All groups of users, by the name of the user and the number of the first group.
    members: BTreeMap<String, BTreeMap<String, Vec<u32>>>,
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

/// The user of this name.
///
/// # Errors
///
/// There is none, or the database cannot be read.
pub fn user(name: &str) -> io::Result<Account> {
    let account = |entry: Entry| Account {
        name: name.to_owned(),
        uid: Uid::from_raw(entry.uid),
        gid: Gid::from_raw(entry.gid),
        home: entry.home,
        shell: entry.shell,
    };
    if let Some(entry) = with_found(|found| found.users.get(name).cloned()) {
        return Ok(account(entry));
    }
    let user = User::from_name(name)?.ok_or_else(|| io::Error::other("no such user"))?;
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
    let entry = Entry { uid, gid, home: text(user.dir), shell: text(user.shell) };
    with_found(|found| found.users.insert(name.to_owned(), entry.clone()));
    Ok(account(entry))
}

/// The group of this name.
///
/// # Errors
///
/// There is none, or the database cannot be read.
pub fn group(name: &str) -> io::Result<Gid> {
    if let Some(gid) = with_found(|found| found.groups.get(name).copied()) {
        return Ok(Gid::from_raw(gid));
    }
    let group = Group::from_name(name)?.ok_or_else(|| io::Error::other("no such group"))?;
    with_found(|found| found.groups.insert(name.to_owned(), group.gid.as_raw()));
    Ok(group.gid)
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
        let entry = Entry { uid: 7, gid: 8, home, shell };
        let found = Found {
            users: BTreeMap::from([("no one\" at all".to_owned(), entry)]),
            groups: BTreeMap::from([("none at all".to_owned(), 9)]),
            members: BTreeMap::from([(
                "no one\" at all".to_owned(),
                BTreeMap::from([("8".to_owned(), vec![8, 10])]),
            )]),
            own: Some("somebody".to_owned()),
        };
        let text = toml::to_string(&found).unwrap();
        assert_eq!(toml::from_str::<Found>(&text).unwrap(), found);
        let before = self::found();
        remember(found);
        let account = user("no one\" at all").unwrap();
        assert_eq!((account.uid.as_raw(), account.gid.as_raw()), (7, 8));
        assert_eq!((account.home.as_str(), account.shell.as_str()), ("/a \\ b", "/bin/sh"));
        assert_eq!(group("none at all").unwrap().as_raw(), 9);
        assert_eq!(groups(&account, account.gid).unwrap().len(), 2);
        assert_eq!(own_name(), "somebody");
        remember(before);
        assert!(user("no one\" at all").is_err());
    }
}
