//! What the master's one wait is for, each source with its name.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags};

use crate::pool::Shared;
use crate::sys::clock::Moment;
use crate::sys::signal::Waiting;

use super::control::{Caller, Control};
use super::scout::Scouts;

/// Something that can end the wait, beside a signal and a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Workers have got as far as accepting.
    Arrivals,
    /// The kernel may have killed for want of memory.
    OomKills,
    /// The child that reads the configuration.
    Scout,
    /// The control socket.
    Control(Caller),
}

/// How long the master sleeps when it cannot wait for its sources: the kernel has no
/// memory for the wait, or somebody has lowered the limit of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Sleeps a little, or until a signal comes, in place of [`wait`]. Gives the sources
/// that can be looked at without knowing that they have something.
pub fn pause(signals: &Waiting) -> Vec<Source> {
    // Without a descriptor there is nothing that could fail.
    let _ = signals.wait(&mut [], Some(PAUSE));
    vec![Source::Arrivals, Source::OomKills, Source::Scout]
}

/// Sleeps until a signal comes, a source has something, or the time is over. Gives the
/// sources that have.
///
/// # Errors
///
/// Those of ppoll(2), but for EINTR.
pub fn wait(
    signals: &Waiting,
    shared: &Shared,
    scouts: &Scouts,
    control: &Control,
    timeout: Option<Duration>,
    now: Moment,
) -> io::Result<Vec<Source>> {
    let arrivals = PollFd::new(shared.arrivals.as_fd(), PollFlags::POLLIN);
    let oom_kills = shared.oom_kills.watched(now).map(|fd| PollFd::new(fd, PollFlags::POLLPRI));
    let scout = scouts.watched().map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    let (sources, mut descriptors): (Vec<_>, Vec<_>) = [(Source::Arrivals, arrivals)]
        .into_iter()
        .chain(oom_kills.map(|descriptor| (Source::OomKills, descriptor)))
        .chain(scout.map(|descriptor| (Source::Scout, descriptor)))
        .chain(control.watched().map(|(caller, descriptor)| (Source::Control(caller), descriptor)))
        .unzip();
    signals.wait(&mut descriptors, timeout)?;
    // What cannot be told counts as ready: who looks finds out.
    let is_ready = |descriptor: &PollFd<'_>| descriptor.any() != Some(false);
    let ready = sources.into_iter().zip(&descriptors).filter(|(_, it)| is_ready(it));
    Ok(ready.map(|(source, _)| source).collect())
}
