//! A place for a file that root opens by its name.
//!
//! Any user who can write to a directory can put a link there, and root would follow the
//! link to any file of the system. So root goes to the file step by step, and checks each
//! directory: nobody else may be able to change where a step leads.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat, readlinkat};
use nix::libc;
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use nix::unistd::geteuid;

/// How many symbolic links a path may have, as in the kernel (path_resolution(7)).
const MOST_LINKS: usize = 40;

/// The name of a file, in a directory that is held open.
#[derive(Debug)]
pub struct Place {
    directory: OwnedFd,
    name: OsString,
    access: Access,
}

/// Who can put something into a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    /// Only users that root can trust; or this process is not root.
    Own,
    /// A group, as in /var/log of some systems; or everybody, with the sticky bit, so that
    /// users can remove only their own files, as in /tmp.
    Shared,
}

impl Place {
    /// The place that the absolute path `path` names. The file need not exist yet.
    ///
    /// # Errors
    ///
    /// There is no such directory; or this process is root, and somebody else can
    /// change what the path leads to.
    pub fn of(path: &Path) -> io::Result<Self> {
        // "x/" has the name "x" here, and means a directory.
        let is_directory = path.as_os_str().as_encoded_bytes().ends_with(b"/");
        let (Some(directory), Some(name), false) = (path.parent(), path.file_name(), is_directory)
        else {
            return Err(Errno::EISDIR.into());
        };
        let (directory, access) = match geteuid().is_root() {
            true => walk(directory)?,
            false => (open(directory, HOLD | OFlag::O_DIRECTORY, Mode::empty())?, Access::Own),
        };
        Ok(Place { directory, name: name.to_owned(), access })
    }

    /// The file that is there now, if any.
    ///
    /// # Errors
    ///
    /// The file must not be opened: a link, or a file of another user where others can put
    /// one.
    pub fn look(&self) -> io::Result<Option<FileStat>> {
        let name = self.name.as_os_str();
        match fstatat(&self.directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(found) => self.check(&found).map(|()| Some(found)),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Opens the file, without waiting for the reader of a FIFO.
    ///
    /// # Errors
    ///
    /// Those of [`look`](Self::look) and of open(2).
    pub fn open(&self, flags: OFlag, mode: Mode) -> io::Result<File> {
        let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = openat(&self.directory, self.name.as_os_str(), flags, mode);
        let file = File::from(file.map_err(|errno| match errno {
            Errno::ELOOP => is_a_link(),
            errno => errno.into(),
        })?);
        // A check before the open would not do: the file could be another one by now.
        self.check(&fstat(&file)?)?;
        Ok(file)
    }

    fn check(&self, found: &FileStat) -> io::Result<()> {
        let kind = kind(found);
        if kind == SFlag::S_IFLNK {
            return Err(is_a_link());
        }
        if self.access == Access::Own {
            return Ok(());
        }
        if found.st_uid != 0 {
            return Err(refused(format!("it belongs to user {}", found.st_uid)));
        }
        // Others can give a file of root a second name (link(2)).
        if kind == SFlag::S_IFREG && found.st_nlink > 1 {
            return Err(refused("it has a second name".to_owned()));
        }
        Ok(())
    }
}

const HOLD: OFlag = OFlag::O_PATH.union(OFlag::O_CLOEXEC);

/// Goes to a directory, as root.
fn walk(directory: &Path) -> io::Result<(OwnedFd, Access)> {
    let root = || open("/", HOLD | OFlag::O_DIRECTORY, Mode::empty());
    let (mut at, mut here) = (root()?, PathBuf::from("/"));
    let mut ahead = steps(directory);
    let mut links = 0;
    loop {
        let access = access(&here, &fstat(&at)?)?;
        let Some(step) = ahead.pop() else { return Ok((at, access)) };
        let next = openat(&at, step.as_os_str(), HOLD | OFlag::O_NOFOLLOW, Mode::empty())?;
        let found = fstat(&next)?;
        if access == Access::Shared && found.st_uid != 0 {
            let place = here.join(&step);
            return Err(refused(format!(
                "\"{}\" belongs to user {}",
                place.display(),
                found.st_uid
            )));
        }
        if kind(&found) == SFlag::S_IFLNK {
            links += 1;
            if links > MOST_LINKS {
                return Err(Errno::ELOOP.into());
            }
            let target = PathBuf::from(readlinkat(next.as_fd(), "")?);
            if target.is_absolute() {
                (at, here) = (root()?, PathBuf::from("/"));
            }
            ahead.append(&mut steps(&target));
        } else {
            at = next;
            match step == ".." {
                true => _ = here.pop(),
                false => here.push(step),
            }
        }
    }
}

/// The steps of a path, the last one first.
fn steps(path: &Path) -> Vec<OsString> {
    let steps = path.components().filter(|step| !matches!(step, Component::RootDir));
    let mut steps: Vec<_> = steps.map(|step| step.as_os_str().to_owned()).collect();
    steps.reverse();
    steps
}

/// Who can put something into the directory `path`; an error if root must not go there.
fn access(path: &Path, directory: &FileStat) -> io::Result<Access> {
    if kind(directory) != SFlag::S_IFDIR {
        return Err(Errno::ENOTDIR.into());
    }
    let (mode, owner, path) = (directory.st_mode, directory.st_uid, path.display());
    if owner != 0 {
        return Err(refused(format!("directory \"{path}\" belongs to user {owner}")));
    }
    if mode & libc::S_IWOTH != 0 && mode & libc::S_ISVTX == 0 {
        return Err(refused(format!("everybody can write to directory \"{path}\"")));
    }
    // With an access control list the bits of the group are the most that it grants.
    let is_shared = mode & (libc::S_IWGRP | libc::S_IWOTH) != 0;
    Ok(if is_shared { Access::Shared } else { Access::Own })
}

fn kind(file: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(file.st_mode & libc::S_IFMT)
}

fn is_a_link() -> io::Error {
    refused("it is a symbolic link".to_owned())
}

fn refused(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_goes_where_nobody_else_can_mislead_it() {
        let directory = |mode, owner| {
            let mut file = fstat(File::open("/").unwrap()).unwrap();
            (file.st_mode, file.st_uid) = (libc::S_IFDIR | mode, owner);
            access(Path::new("/x"), &file).map_err(|error| error.to_string())
        };
        assert_eq!(directory(0o755, 0), Ok(Access::Own));
        assert_eq!(directory(0o775, 0), Ok(Access::Shared));
        assert_eq!(directory(0o1777, 0), Ok(Access::Shared));
        let refused = |text: &str| Err(text.to_owned());
        assert_eq!(directory(0o777, 0), refused("everybody can write to directory \"/x\""));
        assert_eq!(directory(0o755, 7), refused("directory \"/x\" belongs to user 7"));
    }

    #[test]
    fn a_path_is_gone_from_its_first_step_to_its_last() {
        let gone = |path: &str| steps(Path::new(path)).into_iter().rev().collect::<Vec<_>>();
        assert_eq!(gone("/var/../log"), ["var", "..", "log"]);
        assert!(gone("/").is_empty());
    }
}
