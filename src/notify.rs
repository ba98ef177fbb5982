//! The service manager: readiness, status and watchdog (sd_notify(3)), and our sockets that
//! the manager keeps (sd_listen_fds(3), FileDescriptorStoreMax= of systemd.service(5)).
#![forbid(unsafe_code)]

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::env;
use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, sendmsg, socket,
};
use nix::sys::stat::fstat;
use sd_notify::NotifyState;

use crate::config::Address;
use crate::error::{Code, Error, reason};
use crate::listener::{Inherited, Listener, is_stored, stored_name};
use crate::master::{Observer, Status};
use crate::sys::clock::Moment;
use crate::sys::descriptor;

/// How often the status text may change.
const STATUS_PAUSE: Duration = Duration::from_secs(1);

/// The most bytes of a status. systemd ignores a whole message of more than 4,096 bytes.
const STATUS_BYTES: usize = 2048;

/// The pause before an unsent message is sent again.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// The time that a stop may need beyond the announced time-outs.
const STOP_MARGIN: Duration = Duration::from_secs(15);

/// The sockets that were passed to this process.
pub fn inherited() -> Result<Vec<Inherited>, Error> {
    let failed = |error: io::Error| {
        Error::new(Code::CannotCreate, format!("could not adopt listeners: {}", reason(&error)))
    };
    // Sockets for another process are not ours, and neither are their names. This is so if
    // a shell of a service has started us.
    let is_for_us = env::var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string());
    if !is_for_us {
        return Ok(Vec::new());
    }
    let passed = sd_notify::listen_fds_with_names().map_err(failed)?;
    Ok(passed.map(|(number, name)| Inherited { name, socket: descriptor::adopt(number) }).collect())
}

/// Keeps the service manager informed of the master's life.
pub struct Notifier {
    manager: Manager,
    /// The time between two pings: half of the watchdog's time.
    watchdog: Option<Duration>,
    next_ping: Moment,
    status: String,
    next_status: Moment,
    /// The status may have changed since it was sent.
    is_stale: bool,
    /// The sockets that the service manager keeps for us, by name, and the number of each.
    stored: BTreeMap<String, Option<u64>>,
}

impl Notifier {
    /// The notifier, if a service manager listens. `inherited` are the names
    /// of the sockets that were passed.
    pub fn from_environment(inherited: &[Inherited]) -> Option<Self> {
        let manager = Manager::at(&env::var_os("NOTIFY_SOCKET")?).ok()?;
        let stored = inherited
            .iter()
            .filter(|socket| is_stored(&socket.name))
            .map(|socket| (socket.name.clone(), inode(&socket.socket)))
            .collect();
        Some(Notifier {
            manager,
            watchdog: sd_notify::watchdog_enabled().map(|limit| limit / 2),
            next_ping: Moment::default(),
            status: String::new(),
            next_status: Moment::default(),
            is_stale: false,
            stored,
        })
    }
}

impl Observer for Notifier {
    fn ready(&mut self) {
        self.manager.tell(&[NotifyState::Ready], None);
        self.next_status = Moment::default();
    }

    fn waits_for_all(&self) -> bool {
        true
    }

    fn reloading(&mut self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.manager.tell(&[NotifyState::Reloading, now], None),
            Err(_) => self.manager.tell(&[NotifyState::Reloading], None),
        }
    }

    fn stopping(&mut self, within: Duration) {
        // The crate's own type for this time holds at most 71 minutes.
        let within = within.saturating_add(STOP_MARGIN).as_micros();
        let extension = format!("EXTEND_TIMEOUT_USEC={within}");
        self.manager.tell(&[NotifyState::Stopping, NotifyState::Custom(&extension)], None);
    }

    fn turn(&mut self, now: Moment, status: &mut dyn FnMut() -> Status) {
        self.manager.catch_up(now);
        if let Some(pace) = self.watchdog
            && now >= self.next_ping
        {
            let told = self.manager.hint(&NotifyState::Watchdog);
            self.next_ping = now + if told { pace } else { RETRY_PAUSE };
        }
        self.is_stale = now < self.next_status;
        if !self.is_stale {
            self.next_status = now + STATUS_PAUSE;
            let status = shortened(status().to_string());
            if status != self.status {
                self.is_stale = !self.manager.hint(&NotifyState::Status(&status));
                if !self.is_stale {
                    self.status = status;
                }
            }
        }
    }

    fn deadline(&self) -> Option<Moment> {
        let ping = self.watchdog.map(|_| self.next_ping);
        let status = self.is_stale.then_some(self.next_status);
        [ping, status, self.manager.deadline()].into_iter().flatten().min()
    }

    fn keep(&mut self, listeners: &mut dyn Iterator<Item = &Listener>) -> bool {
        // A socket from a socket unit belongs to the service manager.
        let ours = listeners.filter(|listener| !matches!(listener.address(), Address::Systemd(_)));
        let mut wanted: BTreeMap<String, &Listener> = BTreeMap::new();
        // Of two listeners with one address the first is the newer one; the other lost its
        // file.
        for listener in ours {
            wanted.entry(stored_name(listener.address())).or_insert(listener);
        }
        self.stored.retain(|name, socket| {
            let stays = wanted.get(name).is_some_and(|listener| same(socket, listener));
            if !stays {
                let states = [NotifyState::FdStoreRemove, NotifyState::FdName(name)];
                self.manager.tell(&states, None);
            }
            stays
        });
        for (name, listener) in wanted {
            if let Entry::Vacant(entry) = self.stored.entry(name) {
                let states = [NotifyState::FdStore, NotifyState::FdName(entry.key())];
                self.manager.tell(&states, Some(listener.as_fd()));
                entry.insert(inode(listener));
            }
        }
        true
    }
}

/// The way to the service manager (sd_notify(3)). The manager may be slow or hang. Nothing
/// here waits for it, as the crate's own send would.
struct Manager {
    socket: OwnedFd,
    address: UnixAddr,
    /// The messages that could not be sent yet, in their order.
    waiting: VecDeque<Message>,
    retry: Moment,
}

struct Message {
    text: String,
    descriptor: Option<OwnedFd>,
}

impl Manager {
    /// The manager that listens at the address in NOTIFY_SOCKET.
    fn at(address: &OsStr) -> io::Result<Self> {
        let address = match address.as_bytes().strip_prefix(b"@") {
            Some(name) => UnixAddr::new_abstract(name)?,
            None => UnixAddr::new(address.as_bytes())?,
        };
        let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        Ok(Manager { socket, address, waiting: VecDeque::new(), retry: Moment::default() })
    }

    /// Sends this, at once or later.
    fn tell(&mut self, states: &[NotifyState<'_>], descriptor: Option<BorrowedFd<'_>>) {
        let text: String = states.iter().map(|state| format!("{state}\n")).collect();
        if self.waiting.is_empty() && self.send(&text, descriptor) != Err(Errno::EAGAIN) {
            return;
        }
        // Only a waiting message needs a descriptor of its own.
        let descriptor = descriptor.and_then(|fd| fd.try_clone_to_owned().ok());
        self.waiting.push_back(Message { text, descriptor });
    }

    /// Sends this now, or not at all. Gives whether there was room. If the service manager
    /// is gone, the answer is yes, because there is nobody to try again for.
    fn hint(&mut self, state: &NotifyState<'_>) -> bool {
        self.waiting.is_empty() && self.send(&state.to_string(), None) != Err(Errno::EAGAIN)
    }

    /// Sends the messages that could not be sent before.
    fn catch_up(&mut self, now: Moment) {
        if now >= self.retry {
            self.send_all();
            self.retry = now + RETRY_PAUSE;
        }
    }

    fn deadline(&self) -> Option<Moment> {
        (!self.waiting.is_empty()).then_some(self.retry)
    }

    fn send_all(&mut self) {
        while let Some(message) = self.waiting.front() {
            let descriptor = message.descriptor.as_ref().map(|fd| fd.as_fd());
            if self.send(&message.text, descriptor) == Err(Errno::EAGAIN) {
                return;
            }
            // A service manager that is gone is no reason to stop serving.
            self.waiting.pop_front();
        }
    }

    fn send(&self, text: &str, descriptor: Option<BorrowedFd<'_>>) -> nix::Result<()> {
        let descriptor = descriptor.map(|fd| [fd.as_raw_fd()]);
        let control = descriptor.as_ref().map(|fd| ControlMessage::ScmRights(fd));
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let text = [IoSlice::new(text.as_bytes())];
        sendmsg(self.socket.as_raw_fd(), &text, control.as_slice(), flags, Some(&self.address))?;
        Ok(())
    }
}

/// A status cut to the bytes that may be sent.
fn shortened(mut status: String) -> String {
    let end = (0..=STATUS_BYTES).rfind(|&end| status.is_char_boundary(end));
    if status.len() > STATUS_BYTES {
        status.truncate(end.unwrap_or(0));
        status.push('\u{2026}');
    }
    status
}

/// The number of a socket, which distinguishes it from another of the same name.
fn inode(socket: impl AsFd) -> Option<u64> {
    fstat(socket).ok().map(|socket| socket.st_ino)
}

fn same(stored: &Option<u64>, listener: &Listener) -> bool {
    stored.is_some() && *stored == inode(listener)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;
    use crate::config::Listen;

    #[test]
    fn what_a_slow_manager_cannot_take_is_told_later_and_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let reader = UnixDatagram::bind(&path).unwrap();
        reader.set_nonblocking(true).unwrap();
        let mut manager = Manager::at(path.as_os_str()).unwrap();
        let mut hints = 0;
        while manager.hint(&NotifyState::Watchdog) {
            hints += 1;
        }
        assert!(hints > 0);
        manager.tell(&[NotifyState::Reloading], None);
        manager.tell(&[NotifyState::FdStore], Some(reader.as_fd()));
        manager.tell(&[NotifyState::Ready], None);
        assert!(manager.deadline().is_some());
        assert!(!manager.hint(&NotifyState::Watchdog), "it would come before what waits");

        let read = || {
            let mut bytes = [0; 100];
            let length = reader.recv(&mut bytes).ok()?;
            Some(String::from_utf8_lossy(&bytes[..length]).into_owned())
        };
        for _ in 0..hints {
            assert_eq!(read().as_deref(), Some("WATCHDOG=1"));
        }
        assert_eq!(read(), None);
        manager.catch_up(Moment::now());
        assert_eq!(manager.deadline(), None);
        let told = [(); 4].map(|()| read());
        let expected = [Some("RELOADING=1\n"), Some("FDSTORE=1\n"), Some("READY=1\n"), None];
        assert_eq!(told.each_ref().map(|text| text.as_deref()), expected);
        assert!(manager.hint(&NotifyState::Watchdog));
    }

    // While a reload can still be undone both sockets exist, and the master may be killed.
    #[test]
    fn of_two_listeners_with_one_address_the_newer_is_stored() {
        let directory = tempfile::tempdir().unwrap();
        let manager = directory.path().join("notify");
        let _reader = UnixDatagram::bind(&manager).unwrap();
        let path = directory.path().join("listener");
        let listen = Listen::from(Address::Path(path.clone()));
        let old = Listener::bind(&listen).unwrap();
        std::fs::remove_file(path).unwrap();
        let new = Listener::bind(&listen).unwrap();
        let mut notifier = Notifier {
            manager: Manager::at(manager.as_os_str()).unwrap(),
            watchdog: None,
            next_ping: Moment::default(),
            status: String::new(),
            next_status: Moment::default(),
            is_stale: false,
            stored: BTreeMap::new(),
        };
        for (kept, expected) in [(&[&old][..], &old), (&[&new, &old], &new), (&[&old], &old)] {
            notifier.keep(&mut kept.iter().copied());
            assert!(notifier.stored.values().eq([&inode(expected)]));
        }
    }

    #[test]
    fn a_status_is_cut_between_two_characters() {
        let most = "x".repeat(STATUS_BYTES);
        assert_eq!(shortened(most.clone()), most);
        assert_eq!(shortened(most.clone() + "x"), most.clone() + "\u{2026}");
        let wide = "x".repeat(STATUS_BYTES - 1);
        assert_eq!(shortened(wide.clone() + "\u{e4}x"), wide + "\u{2026}");
    }

    #[test]
    fn a_manager_that_is_gone_is_told_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        drop(UnixDatagram::bind(&path).unwrap());
        let mut manager = Manager::at(path.as_os_str()).unwrap();
        manager.tell(&[NotifyState::Ready], None);
        assert_eq!(manager.deadline(), None);
        assert!(manager.hint(&NotifyState::Watchdog), "it would be tried again for ever");
    }
}
