//! The service manager: readiness, status and watchdog (sd_notify(3)), and the
//! sockets that it keeps for us (sd_listen_fds(3), FileDescriptorStoreMax= of
//! systemd.service(5)).
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::env;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

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

/// What stopping may take beyond the time-outs that were announced.
const STOP_MARGIN: Duration = Duration::from_secs(15);

/// How long a start may wait for a pool that cannot start. systemd has no word for
/// "for ever"; ten years will do.
const AS_LONG_AS_IT_TAKES: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// The sockets that were passed to this process.
pub fn inherited() -> Result<Vec<Inherited>, Error> {
    let failed = |error: io::Error| {
        Error::new(Code::CannotCreate, format!("could not adopt listeners: {}", reason(&error)))
    };
    // What is meant for another process, as where a shell of a service has
    // started us, is none of our business, names included.
    let is_for_us = env::var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string());
    if !is_for_us {
        return Ok(Vec::new());
    }
    let passed = sd_notify::listen_fds_with_names().map_err(failed)?;
    Ok(passed.map(|(number, name)| Inherited { name, socket: descriptor::adopt(number) }).collect())
}

/// Tells the service manager of the master's life.
pub struct Notifier {
    /// How often the watchdog wants to hear of us: twice in its time.
    watchdog: Option<Duration>,
    next_ping: Moment,
    status: String,
    next_status: Moment,
    /// The status may have changed since it was told.
    is_stale: bool,
    /// The sockets that it keeps for us, by name, and the number of each.
    stored: BTreeMap<String, Option<u64>>,
}

impl Notifier {
    /// The notifier, if a service manager listens. `inherited` are the names
    /// of the sockets that were passed.
    pub fn from_environment(inherited: &[Inherited]) -> Option<Self> {
        env::var_os("NOTIFY_SOCKET")?;
        let stored = inherited
            .iter()
            .filter(|socket| is_stored(&socket.name))
            .map(|socket| (socket.name.clone(), inode(&socket.socket)))
            .collect();
        Some(Notifier {
            watchdog: sd_notify::watchdog_enabled().map(|limit| limit / 2),
            next_ping: Moment::default(),
            status: String::new(),
            next_status: Moment::default(),
            is_stale: false,
            stored,
        })
    }
}

/// A service manager that is gone is no reason to stop serving.
fn tell(states: &[NotifyState<'_>]) {
    let _ = sd_notify::notify(states);
}

impl Observer for Notifier {
    fn ready(&mut self) {
        tell(&[NotifyState::Ready]);
        self.next_status = Moment::default();
    }

    fn partly_ready(&mut self, _warning: &str) {
        // The pools that accept must not end with the patience of systemd.
        tell(&[NotifyState::Custom(&extension(AS_LONG_AS_IT_TAKES))]);
    }

    fn reloading(&mut self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now]),
            Err(_) => tell(&[NotifyState::Reloading]),
        }
    }

    fn stopping(&mut self, within: Duration) {
        tell(&[
            NotifyState::Stopping,
            NotifyState::Custom(&extension(within.saturating_add(STOP_MARGIN))),
        ]);
    }

    fn turn(&mut self, now: Moment, status: &mut dyn FnMut() -> Status) {
        if let Some(pace) = self.watchdog
            && now >= self.next_ping
        {
            self.next_ping = now + pace;
            tell(&[NotifyState::Watchdog]);
        }
        self.is_stale = now < self.next_status;
        if !self.is_stale {
            self.next_status = now + STATUS_PAUSE;
            let status = status().to_string();
            if status != self.status {
                tell(&[NotifyState::Status(&status)]);
                self.status = status;
            }
        }
    }

    fn deadline(&self) -> Option<Moment> {
        let ping = self.watchdog.map(|_| self.next_ping);
        let status = self.is_stale.then_some(self.next_status);
        ping.into_iter().chain(status).min()
    }

    fn keep(&mut self, listeners: &mut dyn Iterator<Item = &Listener>) -> bool {
        // What a socket unit has made is the service manager's own.
        let ours = listeners.filter(|listener| !matches!(listener.address(), Address::Systemd(_)));
        let wanted: BTreeMap<String, &Listener> =
            ours.map(|listener| (stored_name(listener.address()), listener)).collect();
        self.stored.retain(|name, socket| {
            let stays = wanted.get(name).is_some_and(|listener| same(socket, listener));
            if !stays {
                tell(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
            }
            stays
        });
        for (name, listener) in wanted {
            if let Entry::Vacant(entry) = self.stored.entry(name) {
                let states = [NotifyState::FdStore, NotifyState::FdName(entry.key())];
                let _ = sd_notify::notify_with_fds(&states, &[listener.as_fd()]);
                entry.insert(inode(listener));
            }
        }
        true
    }
}

/// That what is under way may take this long from now on. The crate's own has room
/// for 71 minutes.
fn extension(within: Duration) -> String {
    format!("EXTEND_TIMEOUT_USEC={}", within.min(AS_LONG_AS_IT_TAKES).as_micros())
}

/// The number of a socket, by which it is told from another of the same name.
fn inode(socket: impl AsFd) -> Option<u64> {
    fstat(socket).ok().map(|socket| socket.st_ino)
}

fn same(stored: &Option<u64>, listener: &Listener) -> bool {
    stored.is_some() && *stored == inode(listener)
}
