//! Listeners: bound once, kept over reloads, closed when their address goes.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, FcntlArg, OFlag, fcntl, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, Shutdown, SockFlag, SockType, SockaddrLike, SockaddrStorage, UnixAddr,
    bind, connect, getsockopt, listen, setsockopt, shutdown, socket, sockopt,
};
use nix::sys::stat::{Mode, fchmod, umask};
use nix::unistd::{
    AccessFlags, Gid, Group, Pid, Uid, User, eaccess, fchownat, getegid, geteuid, getgroups, getpid,
};
use toml::Spanned;

use crate::config::{Address, Listen};
use crate::error::{Code, Error, reason};

/// A socket that was passed to this process, by its name.
#[derive(Debug)]
pub struct Inherited {
    /// FileDescriptorName= of systemd.socket(5), or the name it was stored by.
    pub name: String,
    /// The socket.
    pub socket: OwnedFd,
}

/// What the names of the sockets begin with that were stored for us.
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

/// A listening socket.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    address: Address,
    file: Option<SocketFile>,
    made_by: Pid,
    stays: Cell<bool>,
}

impl Listener {
    /// Binds the address and listens.
    ///
    /// # Errors
    ///
    /// The address is in use, it is systemd's, or it cannot be bound for another
    /// reason. See [`could_not_bind`].
    pub fn bind(settings: &Listen) -> io::Result<Self> {
        let (socket, file) = match &settings.address {
            Address::Inet(address) => (bind_internet(*address)?, None),
            Address::Abstract(name) => {
                (bind_unix(&UnixAddr::new_abstract(name.as_bytes())?)?, None)
            }
            Address::Path(path) => {
                let (socket, file) = bind_path(path, settings)?;
                (socket, Some(file))
            }
            Address::Systemd(_) => return Err(io::Error::other("systemd binds it")),
        };
        let listener = Listener::new(socket, settings.address.clone(), file);
        listener.listen(settings.backlog)?;
        Ok(listener)
    }

    /// Adopts a socket that listens already.
    ///
    /// `is_ours` says whether it was bound by an earlier process of ours, so
    /// that its file, if it has one, is ours to remove.
    ///
    /// # Errors
    ///
    /// It is not a stream socket that listens.
    pub fn adopt(inherited: &Inherited, address: &Address, is_ours: bool) -> Result<Self, Error> {
        let failed = |error: io::Error| {
            let what = format!("adopt listener \"{address}\"");
            Error::system(what, &error).with_code(Code::CannotCreate)
        };
        let socket = inherited.socket.try_clone().map_err(failed)?;
        let kind = getsockopt(&socket, sockopt::SockType).map_err(|errno| failed(errno.into()))?;
        let listens =
            getsockopt(&socket, sockopt::AcceptConn).map_err(|errno| failed(errno.into()))?;
        let is_shut_down = is_shut_down(&socket).map_err(|errno| failed(errno.into()))?;
        if kind != SockType::Stream || !listens || is_shut_down {
            return Err(failed(io::Error::other("it is not a stream socket that listens")));
        }
        // Workers sleep in accept.
        fcntl(&socket, FcntlArg::F_SETFL(OFlag::empty())).map_err(|errno| failed(errno.into()))?;
        let file = match address {
            Address::Path(path) if is_ours => Some(SocketFile::of(path).map_err(failed)?),
            _ => None,
        };
        let listener = Listener::new(socket, address.clone(), file);
        // The service manager has it too: a start that fails must not take it
        // away. See `own`.
        listener.stays.set(true);
        Ok(listener)
    }

    /// Says that the socket is to go with this listener, now that the daemon
    /// serves on it; but not what a socket unit has made.
    pub fn own(&self) {
        self.stays.set(matches!(self.address, Address::Systemd(_)));
    }

    fn new(socket: OwnedFd, address: Address, file: Option<SocketFile>) -> Self {
        Listener { socket, address, file, made_by: getpid(), stays: Cell::new(false) }
    }

    /// Lets the socket live on when this listener goes: somebody else keeps it.
    pub fn leave_open(&self) {
        self.stays.set(true);
    }

    /// Takes over what `settings` says beside the address, while it listens.
    ///
    /// # Errors
    ///
    /// The backlog, the owner or the mode could not be changed.
    pub fn adjust(&self, settings: &Listen) -> io::Result<()> {
        if matches!(self.address, Address::Systemd(_)) {
            return Ok(());
        }
        self.listen(settings.backlog)?;
        match &self.file {
            Some(file) => file.adjust(settings),
            None => Ok(()),
        }
    }

    /// Listens, or changes the length of the backlog of one that does. The
    /// kernel takes no more than net.core.somaxconn.
    fn listen(&self, backlog: u32) -> io::Result<()> {
        let backlog =
            Backlog::new(i32::try_from(backlog).unwrap_or(i32::MAX)).unwrap_or(Backlog::MAXCONN);
        listen(&self.socket, backlog)?;
        Ok(())
    }

    /// Whether clients can find it: nobody has removed its file, or put another in
    /// its place.
    pub fn is_in_place(&self) -> bool {
        self.file.as_ref().is_none_or(SocketFile::is_in_place)
    }

    /// The address as the configuration writes it.
    pub fn address(&self) -> &Address {
        &self.address
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Whether somebody has shut a socket down. Of a Unix socket that listens, only poll
/// tells.
fn is_shut_down(socket: &OwnedFd) -> nix::Result<bool> {
    let mut socket = [PollFd::new(socket.as_fd(), PollFlags::empty())];
    poll(&mut socket, PollTimeout::ZERO)?;
    Ok(socket[0].revents().is_some_and(|flags| flags.contains(PollFlags::POLLHUP)))
}

/// Why the address of a listener, or of another `kind` of socket, was not bound: code
/// 77 if the permission is missing, else 73.
pub fn could_not_bind(kind: &str, address: &Address, error: &io::Error) -> Error {
    let error = Error::system(format!("bind {kind} \"{address}\""), error);
    match error.code() {
        Code::NoPermission => error,
        _ => error.with_code(Code::CannotCreate),
    }
}

/// Finds what would keep a listener from being bound, without leaving anything
/// behind. That the address is in use is not looked for: it may be by the very
/// daemon that is to be reloaded.
pub fn check(settings: &Listen) -> io::Result<()> {
    match &settings.address {
        Address::Inet(address) => match bind_internet(*address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(()),
            probed => probed.map(drop),
        },
        Address::Path(path) => check_path(path, settings),
        Address::Abstract(_) | Address::Systemd(_) => Ok(()),
    }
}

fn check_path(path: &Path, settings: &Listen) -> io::Result<()> {
    let owner = settings.owner.as_ref().map(find_user).transpose()?;
    let group = settings.group.as_ref().map(find_group).transpose()?;
    // Only root gives files away.
    let is_own = owner.is_none_or(|owner| owner == geteuid())
        && group.is_none_or(|group| group == getegid() || is_member(group));
    if !geteuid().is_root() && !is_own {
        return Err(Errno::EPERM.into());
    }
    let directory = path.parent().unwrap_or(Path::new("/"));
    let found = fs::metadata(directory)
        .map_err(|error| io::Error::other(format!("its directory: {}", reason(&error))))?;
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

/// What takes the place of a listener: accept on it fails at once (ENOTSOCK).
/// Every worker holds it, so it is nothing that one of them could change, as
/// it could bind and listen on a socket.
pub fn dead() -> io::Result<OwnedFd> {
    Ok(fs::File::open("/dev/null")?.into())
}

fn bind_internet(address: SocketAddr) -> io::Result<OwnedFd> {
    let address = SockaddrStorage::from(address);
    let family = address.family().ok_or(io::ErrorKind::InvalidInput)?;
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // Connections of a daemon that has just stopped must not keep the next
    // one from its address (TIME_WAIT; socket(7)).
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    // Each connection has it from its listener: a client that vanished without a
    // word must not have its worker for ever.
    setsockopt(&socket, sockopt::KeepAlive, &true)?;
    bind_to(&socket, &address)?;
    Ok(socket)
}

fn bind_unix(address: &UnixAddr) -> io::Result<OwnedFd> {
    let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    bind_to(&socket, address)?;
    Ok(socket)
}

fn bind_to(socket: &OwnedFd, address: &dyn SockaddrLike) -> io::Result<()> {
    Ok(bind(socket.as_raw_fd(), address)?)
}

/// Binds a socket file that nobody can connect to before it has its owner and
/// mode: until `listen`, a connect is refused.
fn bind_path(path: &Path, settings: &Listen) -> io::Result<(OwnedFd, SocketFile)> {
    let owner = settings.owner.as_ref().map(find_user).transpose()?;
    let group = settings.group.as_ref().map(find_group).transpose()?;
    remove_stale(path)?;

    let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // The file is made with the mode of the socket less the umask (unix(7)).
    // By name it could be changed only after it is there, when it may be
    // another file already.
    fchmod(&socket, Mode::from_bits_truncate(settings.mode))?;
    let previous = umask(Mode::empty());
    let bound = bind_to(&socket, &UnixAddr::new(path)?);
    umask(previous);
    bound?;
    let file = SocketFile::of(path)?;
    if owner.is_some() || group.is_some() {
        fchownat(AT_FDCWD, path, owner, group, AtFlags::AT_SYMLINK_NOFOLLOW)
            .inspect_err(|_| file.remove())?;
    }
    Ok((socket, file))
}

/// The owner of a socket file by its name.
pub fn find_user(name: &Spanned<String>) -> io::Result<Uid> {
    let user = User::from_name(name.get_ref())?;
    user.map(|user| user.uid).ok_or_else(|| io::Error::other("no such user"))
}

/// The group of a socket file by its name.
pub fn find_group(name: &Spanned<String>) -> io::Result<Gid> {
    let group = Group::from_name(name.get_ref())?;
    group.map(|group| group.gid).ok_or_else(|| io::Error::other("no such group"))
}

/// Removes a socket file that a daemon left behind which is no more. A file
/// that is not a socket, and a socket that somebody listens on, stay.
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

/// The file of a Unix socket, removed with its listener.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        let file = fs::symlink_metadata(path)?;
        Ok(SocketFile { path: path.to_owned(), device: file.dev(), inode: file.ino() })
    }

    /// Removes the file, unless somebody else has put another in its place.
    fn remove(&self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|file| self.is(&file)) {
            // Were it to fail, the next start finds it stale.
            let _ = fs::remove_file(&self.path);
        }
    }

    fn is_in_place(&self) -> bool {
        match fs::symlink_metadata(&self.path) {
            Ok(file) => self.is(&file),
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }

    fn is(&self, file: &fs::Metadata) -> bool {
        (file.dev(), file.ino()) == (self.device, self.inode)
    }

    fn adjust(&self, settings: &Listen) -> io::Result<()> {
        // The file is held while its identity is checked and its mode changed,
        // lest another one take its name in between.
        let held =
            open(&self.path, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?;
        let by_number = format!("/proc/self/fd/{}", held.as_raw_fd());
        if !self.is(&fs::metadata(&by_number)?) {
            return Err(io::Error::other("another file has taken its name"));
        }
        let owner = settings.owner.as_ref().map(find_user).transpose()?;
        let group = settings.group.as_ref().map(find_group).transpose()?;
        if owner.is_some() || group.is_some() {
            fchownat(&held, "", owner, group, AtFlags::AT_EMPTY_PATH)?;
        }
        fs::set_permissions(&by_number, fs::Permissions::from_mode(settings.mode))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Not in a child, where the socket is still the parent's; and not by a
        // panic, after which the service manager starts us on it again.
        if self.stays.get() || getpid() != self.made_by || std::thread::panicking() {
            return;
        }
        // A worker that is stopped or busy may hold the socket open for long.
        // Shut down, it refuses clients and leaves the address at once.
        let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Both);
        if let Some(file) = &self.file {
            file.remove();
        }
    }
}
