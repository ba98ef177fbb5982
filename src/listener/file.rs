//! The file of a Unix socket: made, replaced and removed by one daemon at a time.
#![forbid(unsafe_code)]

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, FcntlArg, OFlag, fcntl, open};
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use nix::sys::stat::{Mode, fchmod, umask};
use nix::unistd::{AccessFlags, Gid, Uid, eaccess, fchownat, getegid, geteuid, getgroups};

use crate::accounts;
use crate::config::Listen;
use crate::error::reason;

use super::{bind_to, listen_on};

/// The file of a Unix socket that listens.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    /// Listens on a new file `path`. A file that a dead daemon left there is replaced.
    pub fn listen(path: &Path, listen: &Listen) -> io::Result<(OwnedFd, Self)> {
        // Says of a directory what bind would say of the file.
        check(path, listen)?;
        let owner = Owner::find(listen)?;
        let lock = Lock::take(path)?;
        remove_stale(path)?;
        make(path, listen, owner, &lock)
    }

    /// Listens on a new file that takes the name of this one. The name is not missing
    /// for a moment, unless it is too long for a second one next to it.
    pub fn listen_again(&self, listen: &Listen) -> io::Result<(OwnedFd, Self)> {
        let owner = Owner::find(listen)?;
        let lock = Lock::take(&self.path)?;
        if !fs::symlink_metadata(&self.path).is_ok_and(|file| self.is(&file)) {
            // Another daemon may have the name since, and keeps it.
            remove_stale(&self.path)?;
        }
        let beside = next_to(&self.path, "new");
        if UnixAddr::new(&beside).is_err() {
            self.unlink(&lock);
            return make(&self.path, listen, owner, &lock);
        }
        match fs::remove_file(&beside) {
            // A daemon that was killed here left one behind.
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let (socket, mut file) = make(&beside, listen, owner, &lock)?;
        fs::rename(&beside, &self.path).inspect_err(|_| file.unlink(&lock))?;
        file.path.clone_from(&self.path);
        Ok((socket, file))
    }

    /// The file `path`, on which a socket of ours listens.
    pub fn of(path: &Path) -> io::Result<Self> {
        let file = fs::symlink_metadata(path)?;
        Ok(SocketFile { path: path.to_owned(), device: file.dev(), inode: file.ino() })
    }

    /// Removes the file, unless somebody else has put another in its place.
    pub fn remove(&self) {
        // The holder of the lock is about to listen there, and finds this file stale.
        if let Ok(lock) = Lock::take(&self.path) {
            self.unlink(&lock);
        }
    }

    /// The lock keeps another daemon from taking the name between look and removal.
    fn unlink(&self, _: &Lock) {
        if fs::symlink_metadata(&self.path).is_ok_and(|file| self.is(&file)) {
            // Were it to fail, the next start finds it stale.
            let _ = fs::remove_file(&self.path);
        }
    }

    /// Whether the file still has its name.
    pub fn is_in_place(&self) -> bool {
        match fs::symlink_metadata(&self.path) {
            Ok(file) => self.is(&file),
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }

    fn is(&self, file: &fs::Metadata) -> bool {
        (file.dev(), file.ino()) == (self.device, self.inode)
    }

    /// Gives the file the owner and mode that `listen` say.
    pub fn adjust(&self, listen: &Listen) -> io::Result<()> {
        // The file is held while its identity is checked and its mode changed, so
        // that no other file can take its name in between.
        let held =
            open(&self.path, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?;
        let by_number = format!("/proc/self/fd/{}", held.as_raw_fd());
        if !self.is(&fs::metadata(&by_number)?) {
            return Err(io::Error::other("another file has taken its name"));
        }
        let owner = Owner::find(listen)?;
        if owner.is_given() {
            fchownat(&held, "", owner.user, owner.group, AtFlags::AT_EMPTY_PATH)?;
        }
        fs::set_permissions(&by_number, fs::Permissions::from_mode(listen.mode))
    }
}

/// Checks that a socket can be made at `path`. A daemon that listens there and an owner
/// that does not exist are not checked.
pub fn check(path: &Path, listen: &Listen) -> io::Result<()> {
    let Ok(owner) = Owner::find(listen) else { return Ok(()) };
    // Only root gives files away.
    let is_own = owner.user.is_none_or(|user| user == geteuid())
        && owner.group.is_none_or(|group| group == getegid() || is_member(group));
    if !geteuid().is_root() && !is_own {
        return Err(Errno::EPERM.into());
    }
    let directory = path.parent().unwrap_or(Path::new("/"));
    let found = fs::metadata(directory).map_err(|error| {
        io::Error::new(error.kind(), format!("its directory: {}", reason(&error)))
    })?;
    if !found.is_dir() {
        return Err(io::Error::other("its directory: not a directory"));
    }
    eaccess(directory, AccessFlags::W_OK | AccessFlags::X_OK)?;
    match fs::symlink_metadata(path) {
        Ok(file) if !file.file_type().is_socket() => Err(io::Error::other(IN_THE_WAY)),
        _ => Ok(()),
    }
}

fn is_member(group: Gid) -> bool {
    getgroups().is_ok_and(|groups| groups.contains(&group))
}

const IN_THE_WAY: &str = "a file that is not a socket is in the way";

/// The owner of the file, if the configuration names one.
struct Owner {
    user: Option<Uid>,
    group: Option<Gid>,
}

impl Owner {
    fn find(listen: &Listen) -> io::Result<Self> {
        let user = listen.owner.as_ref().map(|name| accounts::user(name.get_ref()));
        let group = listen.group.as_ref().map(|name| accounts::group(name.get_ref()));
        Ok(Owner { user: user.transpose()?.map(|user| user.uid), group: group.transpose()? })
    }

    fn is_given(&self) -> bool {
        self.user.is_some() || self.group.is_some()
    }
}

/// Makes a socket file that nobody can connect to before it has its owner and mode:
/// until it listens, a connect is refused.
///
/// Another daemon takes a socket that does not listen yet for stale. The lock keeps
/// it from looking before this one listens.
fn make(
    path: &Path,
    listen: &Listen,
    owner: Owner,
    lock: &Lock,
) -> io::Result<(OwnedFd, SocketFile)> {
    let address = UnixAddr::new(path)?;
    let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // The file is made with the mode of the socket less the umask (unix(7)).
    // By name it could be changed only after it is there, when it may be
    // another file already.
    fchmod(&socket, Mode::from_bits_truncate(listen.mode))?;
    let previous = umask(Mode::empty());
    let bound = bind_to(&socket, &address);
    umask(previous);
    bound?;
    let file = SocketFile::of(path)?;
    let ready = || -> io::Result<()> {
        if owner.is_given() {
            fchownat(AT_FDCWD, path, owner.user, owner.group, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        }
        listen_on(&socket, listen.backlog)
    };
    ready().inspect_err(|_| file.unlink(lock))?;
    Ok((socket, file))
}

/// Removes the file of a socket that does not listen any more, if that is still there.
pub fn clear(path: &Path) {
    // The holder of the lock is about to listen there, and removes the file itself.
    if let Ok(_lock) = Lock::take(path) {
        let _ = remove_stale(path);
    }
}

/// Removes a socket file that a dead daemon left behind. A file that is not a socket,
/// and a socket that somebody listens on, stay.
fn remove_stale(path: &Path) -> io::Result<()> {
    let file = match fs::symlink_metadata(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !file.file_type().is_socket() {
        return Err(io::Error::other(IN_THE_WAY));
    }
    // Non-blocking: somebody with a full backlog must not hold us up.
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let probe = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    match connect(probe.as_raw_fd(), &UnixAddr::new(path)?) {
        Err(Errno::ECONNREFUSED) => fs::remove_file(path),
        // A full backlog, no permission: somebody may be there.
        Ok(()) | Err(_) => Err(Errno::EADDRINUSE.into()),
    }
}

/// The right to make and remove the socket file of one name: a locked file next to
/// it, which is there for as long as that takes.
///
/// A lock of the directory would leave no file, but everybody who may read a
/// directory may lock it, and for as long as he likes.
#[derive(Debug)]
pub(super) struct Lock {
    path: PathBuf,
    _held: File,
}

impl Lock {
    /// How often another daemon may finish with its lock while we take it.
    const TRIES: usize = 16;

    /// Takes the lock at once or not at all: the master does not wait for anybody. If
    /// another daemon has it, that daemon listens there in a moment.
    pub(super) fn take(socket: &Path) -> io::Result<Self> {
        let path = next_to(socket, "lock");
        for _ in 0..Self::TRIES {
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .mode(0o600)
                // Somebody may have put a link or a FIFO there.
                .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
                .open(&path)?;
            lock(&file).map_err(|errno| match errno {
                Errno::EAGAIN | Errno::EACCES => Errno::EADDRINUSE,
                _ => errno,
            })?;
            // Its last holder may have removed it between our open and our lock.
            let ours = file.metadata()?;
            let is_there = fs::symlink_metadata(&path)
                .is_ok_and(|file| (file.dev(), file.ino()) == (ours.dev(), ours.ino()));
            if is_there {
                return Ok(Lock { path, _held: file });
            }
        }
        Err(Errno::EADDRINUSE.into())
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While it is still locked: afterwards it may be another daemon's.
        let _ = fs::remove_file(&self.path);
    }
}

/// Locks a file for as long as it is open: a lock of this kind belongs to the open
/// file and not to the process (fcntl_locking(2)).
fn lock(file: &File) -> nix::Result<()> {
    let whole = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(file, FcntlArg::F_OFD_SETLK(&whole)).map(drop)
}

/// A file of ours next to a socket file, hidden from a list of the sockets.
fn next_to(socket: &Path, what: &str) -> PathBuf {
    let name = socket.file_name().unwrap_or_default().to_string_lossy();
    socket.with_file_name(format!(".{name}.preforkd-{what}"))
}
