//! The one wait of the master, and its sources, each with its name.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags};

use crate::error::reason;
use crate::log::event::Event;
use crate::pool::Pool;
use crate::sys::clock::Moment;
use crate::sys::signal::Waiting;

use super::Master;
use super::control::Caller;

/// Something that can end the wait, as a signal and a deadline can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// Workers have begun to accept.
    Arrivals,
    /// The kernel may have killed a process because memory was short.
    OomKills,
    /// The child that reads the configuration.
    Scout,
    /// The control socket.
    Control(Caller),
}

/// How long the master sleeps when it cannot wait for its sources: the kernel has no
/// memory for the wait, or somebody has lowered the limit of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

impl Master<'_> {
    /// Sleeps until a signal, a source or a deadline ends the sleep. Gives the callers on
    /// the control socket.
    pub(super) fn wait(&mut self) -> Vec<Caller> {
        let now = Moment::now();
        let timeout = self.deadline(now).map(|deadline| deadline - now);
        let ready = match self.ready(timeout, now) {
            Ok(ready) => {
                self.cannot_wait = false;
                ready
            }
            Err(error) => {
                if !std::mem::replace(&mut self.cannot_wait, true) {
                    self.news.push(Event::CouldNotWait { reason: reason(&error) });
                }
                pause(&self.signals)
            }
        };
        let mut callers = Vec::new();
        for source in ready {
            match source {
                Source::Arrivals => {
                    let pools = &mut self.pools;
                    self.inheritance.arrivals.take(|pid| {
                        if let Some(pool) = pools.iter_mut().find(|pool| pool.has(pid)) {
                            pool.note_arrival(pid);
                        }
                    });
                }
                // Read once a turn in any case.
                Source::Scout => {}
                Source::OomKills => self.oom_kills.look(Moment::now()),
                Source::Control(caller) => callers.push(caller),
            }
        }
        if !callers.is_empty() {
            // A signal that came before a command is obeyed before it.
            self.signals.let_in();
        }
        callers
    }

    /// The moment at which the master must act without any event.
    fn deadline(&self, now: Moment) -> Option<Moment> {
        let pools = self.pools.iter().filter_map(|pool| {
            let due = pool.deadline()?;
            Some(if pool.may_fill() { self.fork_pause.unwrap_or(due) } else { due })
        });
        let removed = self.removed.iter().filter_map(Pool::deadline);
        let others = [
            self.oom_kills.deadline(now),
            self.phase.deadline(),
            self.start_deadline(),
            self.losses_deadline(),
            self.scouts.deadline(),
            self.control.deadline(),
            self.herald.observer.deadline(),
        ];
        pools.chain(removed).chain(others.into_iter().flatten()).min()
    }

    /// Sleeps until a signal comes, a source is ready, or the time is over. Gives the
    /// sources that are ready.
    ///
    /// # Errors
    ///
    /// Those of ppoll(2), except EINTR.
    fn ready(&self, timeout: Option<Duration>, now: Moment) -> io::Result<Vec<Source>> {
        let Master { signals, inheritance, oom_kills, scouts, control, .. } = self;
        let arrivals = PollFd::new(inheritance.arrivals.as_fd(), PollFlags::POLLIN);
        let oom_kills = oom_kills.watched(now).map(|fd| PollFd::new(fd, PollFlags::POLLPRI));
        let scout = scouts.watched().map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        let (sources, mut descriptors): (Vec<_>, Vec<_>) = [(Source::Arrivals, arrivals)]
            .into_iter()
            .chain(oom_kills.map(|descriptor| (Source::OomKills, descriptor)))
            .chain(scout.map(|descriptor| (Source::Scout, descriptor)))
            .chain(
                control.watched().map(|(caller, descriptor)| (Source::Control(caller), descriptor)),
            )
            .unzip();
        signals.wait(&mut descriptors, timeout)?;
        // An unknown event counts as ready: the read of that source finds out.
        let is_ready = |descriptor: &PollFd<'_>| descriptor.any() != Some(false);
        let ready = sources.into_iter().zip(&descriptors).filter(|(_, it)| is_ready(it));
        Ok(ready.map(|(source, _)| source).collect())
    }
}

/// Sleeps a little, or until a signal comes, when the sources cannot be waited for. Gives
/// the sources that can be read without knowing whether they are ready.
fn pause(signals: &Waiting) -> Vec<Source> {
    // This cannot fail, because there is no descriptor.
    let _ = signals.wait(&mut [], Some(PAUSE));
    vec![Source::Arrivals, Source::OomKills, Source::Scout]
}
