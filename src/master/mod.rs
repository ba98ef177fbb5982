//! The master: it keeps the pools at size, and obeys signals.
//!
//! The master waits in one place. Pure decisions are made elsewhere: [`phase`],
//! [`changes`], and the policies of a pool.
#![forbid(unsafe_code)]

mod ahead;
mod answers;
mod binding;
mod changes;
mod condition;
mod control;
mod herald;
mod observer;
mod orphans;
mod phase;
mod plan;
mod reap;
mod reload;
mod report;
mod rollout;
mod scout;
mod sources;
mod start;
mod stop;

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::config::{self, Config};
use crate::error::{Code, Error, reason};
use crate::listener::{Inherited, abandon, is_stored, stored_name};
use crate::log;
use crate::log::event::Event;
use crate::log::mirror::Mirror;
use crate::log::sink::Kind;
use crate::pool::{Asked, Gate, Inheritance, Mending, OomKills, Pool, Standing};
use crate::service::{Services, panic};
use crate::sys::clock::Moment;
use crate::sys::descriptor;
use crate::sys::signal::{Received, Waiting};

use answers::Answers;
use control::Control;
use herald::Herald;
use orphans::Leftovers;
use phase::{Phase, together};
use plan::Plan;
use report::Losses;
use rollout::Rollout;
use scout::Scouts;

pub use observer::{Observer, Status};
pub use plan::check;

/// What the master waits for.
const WANTED: [Signal; 8] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
    Signal::SIGCHLD,
];

/// Signals that would end the master and have no meaning for it. A log without a reader
/// causes SIGPIPE, and a log at the size limit of files causes SIGXFSZ (RLIMIT_FSIZE).
const IGNORED: [Signal; 4] = [Signal::SIGPIPE, Signal::SIGXFSZ, Signal::SIGUSR2, Signal::SIGALRM];

/// How long the master waits after a failed fork. The machine is short of
/// processes or memory; asking more often would not help it.
const FORK_PAUSE: Duration = Duration::from_secs(1);

/// The supervising process.
pub struct Master<'a> {
    herald: Herald<'a>,
    file: PathBuf,
    services: Services,
    /// Sockets that a socket unit has made.
    inherited: Vec<Inherited>,
    daemon: config::Daemon,
    log: config::Log,
    signals: Waiting,
    inheritance: Inheritance,
    /// The OOM kills of the kernel.
    oom_kills: OomKills,
    /// The newest configuration epoch.
    epoch: u64,
    /// The pools of the configuration.
    pools: Vec<Pool>,
    /// Pools that are no longer in it, whose workers have not all left.
    removed: Vec<Pool>,
    phase: Phase,
    /// The child that reads the configuration of the next reload.
    scouts: Scouts,
    /// A reload under way.
    rollout: Option<Rollout>,
    /// What programs have left running.
    leftovers: Leftovers,
    /// The results of the reloads, for the clients that ask.
    answers: Answers,
    /// The control socket and its clients.
    control: Control,
    /// When fork may be tried again, and how often it has failed.
    fork_pause: Option<Moment>,
    fork_failures: u64,
    /// The last wait has failed, and the log knows.
    cannot_wait: bool,
    /// How many workers more each pool is to have than its configuration says, by the
    /// signals that came since the last reload was asked for.
    scaled: i64,
    /// SIGCHLD has come, or may have come before there was a handler.
    owes_reaping: bool,
    /// When the daemon was started.
    started: Moment,
    /// Why it was not started as the service manager has asked.
    start_failure: Option<String>,
    /// Why the daemon stops.
    cause: &'static str,
    /// The listeners are kept open over the end of the daemon.
    listeners_stay: bool,
    news: Vec<Event>,
    /// The journal, where the log is a file.
    mirror: Mirror,
    losses: Losses,
}

impl<'a> Master<'a> {
    /// A master of this configuration, with its listeners bound and no worker
    /// yet. `file` is read again at a reload; `inherited` are sockets that were
    /// passed to this process.
    ///
    /// # Errors
    ///
    /// What is wrong with the configuration, or with the machine.
    pub fn new(
        file: PathBuf,
        mut config: Config,
        services: Services,
        mut inherited: Vec<Inherited>,
        observer: &'a mut dyn Observer,
    ) -> Result<Self, Error> {
        let (signals, foreign) = become_supervisor()?;
        ahead::look_up(&config);
        plan::number_ports(&mut config)?;
        let mut plan = Plan::make(config, &services, &[], &inherited, None)?;
        let stored: Vec<_> = inherited.extract_if(.., |socket| is_stored(&socket.name)).collect();
        plan.news.extend(binding::unserved(&plan.pools, &inherited));
        plan.news.extend(ahead::strays(&file));
        let sink = match plan.sink.take() {
            Some(sink) => sink,
            None => plan::open_log(Kind::of(&plan.log))?,
        };
        let logger = log::logger(&plan.log, &sink);
        let inheritance = Inheritance::new(logger, sink)
            .map_err(|error| Error::system("make scoreboard", &error))?;
        let control = Control::open(&plan.daemon.control, &file, &mut plan.news)?;
        let mut master = Master {
            herald: Herald::new(observer),
            file,
            services,
            inherited,
            daemon: plan.daemon,
            log: plan.log,
            signals,
            inheritance,
            oom_kills: OomKills::of_this_process(),
            epoch: 1,
            pools: plan
                .pools
                .into_iter()
                .map(|(blueprint, listeners)| Pool::new(blueprint, listeners, Gate::Open))
                .collect(),
            removed: Vec::new(),
            phase: Phase::Starting,
            scouts: Scouts::default(),
            rollout: None,
            leftovers: Leftovers::new(foreign),
            answers: Answers::default(),
            control,
            fork_pause: None,
            fork_failures: 0,
            cannot_wait: false,
            scaled: 0,
            owes_reaping: true,
            started: Moment::now(),
            start_failure: None,
            cause: "",
            listeners_stay: false,
            news: plan.news,
            mirror: Mirror::new(),
            losses: Losses::default(),
        };
        let epoch = master.epoch;
        master.pools.iter_mut().for_each(|pool| pool.set_epoch(epoch));
        master.keep_listeners();
        // From here on nothing of the start can fail.
        master.pools.iter().flat_map(Pool::listeners).for_each(|listener| listener.own());
        master.abandon(stored);
        Ok(master)
    }

    /// Keeps the pools at size until it is asked to stop.
    ///
    /// # Errors
    ///
    /// No pool could start its workers.
    pub fn run(mut self) -> Result<(), Error> {
        // From here on no fault may end the daemon. A step that fails tells the log of it,
        // and is tried again or done without.
        loop {
            self.fill(Moment::now());
            self.report(Moment::now());
            // Log first: whatever a notified program looks up must already be there.
            self.herald.announce();
            self.answer();
            if self.phase.is_over() {
                return self.end();
            }
            let callers = self.wait();
            let now = Moment::now();
            let received = Received::take();
            self.owes_reaping |= received.has(Signal::SIGCHLD) || self.cannot_wait;
            self.obey(received, now);
            self.hear(&callers, now);
            self.hear_scout(now);
            self.reap(now);
            self.attend(now);
            self.advance(now);
        }
    }

    /// Does what the signals ask for. Their flags are cleared already: one
    /// that comes from now on is obeyed at the next turn.
    fn obey(&mut self, received: Received, now: Moment) {
        if received.has(Signal::SIGUSR1) {
            self.reopen_log();
        }
        for (signal, step) in [(Signal::SIGTTIN, 1), (Signal::SIGTTOU, -1)] {
            if received.has(signal) && !self.phase.is_stopping() {
                self.scale(step, now);
            }
        }
        if received.has(Signal::SIGHUP) && !self.phase.is_stopping() {
            self.reload(now);
        }
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT] {
            if received.has(signal) {
                self.stop(signal, now);
            }
        }
    }

    /// Goes on to the next phase, if its time has come.
    fn advance(&mut self, now: Moment) {
        self.advance_reload(now);
        match self.phase {
            Phase::Starting => match together(self.pools.iter().map(Pool::standing)) {
                Standing::Starting => {}
                Standing::Ready => self.begin_service(),
                Standing::Failed => {
                    self.leave_listeners();
                    self.pools.iter_mut().for_each(|pool| pool.close(Asked::Stop, now));
                    self.enter(Phase::Failed);
                }
            },
            Phase::Running => {
                self.look_who_is_ready();
                self.give_up_start(now);
            }
            Phase::Delaying(_)
            | Phase::Draining { .. }
            | Phase::Asking(_)
            | Phase::Ending(_)
            | Phase::Killing(_) => {
                self.advance_stop(now);
            }
            Phase::Stopped | Phase::Failed => {}
        }
    }

    /// Does what is due in each pool, and mends the listeners of those that lost a worker.
    fn attend(&mut self, now: Moment) {
        let mut events = Vec::new();
        for pool in self.pools.iter_mut().chain(&mut self.removed) {
            pool.attend(now, &mut events);
        }
        let mut has_bound = false;
        for pool in &mut self.pools {
            has_bound |= pool.mend(now, &mut events) == Mending::Rebound;
        }
        if has_bound {
            self.keep_listeners();
        }
        self.news.extend(events);
    }

    /// Fills vacant slots.
    fn fill(&mut self, now: Moment) {
        let mut events = Vec::new();
        if self.phase.fills_slots() && self.fork_pause.is_none_or(|pause| now >= pause) {
            self.fork_pause = None;
            for pool in &mut self.pools {
                let filled = pool.fill(now, &mut self.inheritance, &mut events);
                self.leftovers.spare(|pid| pool.has(pid));
                match filled {
                    Ok(0) => {}
                    Ok(_) if self.fork_failures > 0 => {
                        self.news.push(Event::WorkersCanStartAgain {
                            failures: std::mem::take(&mut self.fork_failures),
                        });
                    }
                    Ok(_) => {}
                    Err(error) => {
                        if self.fork_failures == 0 {
                            self.news.push(Event::CouldNotStartWorker { reason: reason(&error) });
                        }
                        self.fork_failures += 1;
                        self.fork_pause = Some(now + FORK_PAUSE);
                        break;
                    }
                }
            }
        }
        self.news.extend(events);
    }

    /// Gives the listeners to the observer, and leaves the files of those in place that the
    /// observer keeps.
    fn keep_listeners(&mut self) {
        let mut listeners = self.pools.iter().flat_map(Pool::listeners).map(|listener| &**listener);
        self.listeners_stay = self.herald.observer.keep(&mut listeners);
    }

    /// Lets go of what no pool wants of the sockets that were stored over a restart.
    fn abandon(&self, stored: Vec<Inherited>) {
        let listeners = self.pools.iter().flat_map(Pool::listeners);
        let wanted: Vec<_> = listeners.map(|it| stored_name(it.address())).collect();
        let unwanted = stored.into_iter().filter(|socket| !wanted.contains(&socket.name));
        unwanted.for_each(abandon);
    }

    fn scale(&mut self, step: i64, now: Moment) {
        self.scaled += step;
        self.rollout.iter_mut().for_each(|rollout| rollout.scaled += step);
        self.pools.iter_mut().for_each(|pool| pool.scale(step, now));
        self.news.push(Event::Scaled { workers: self.pools.iter().map(Pool::target).sum() });
    }

    fn reopen_log(&mut self) {
        match self.inheritance.sink.reopen() {
            Ok(()) if *self.inheritance.sink.kind() == Kind::StandardError => {}
            Ok(()) => self.news.push(Event::LogReopened {}),
            Err(error) => {
                self.news.push(Event::CouldNotReopenLog { reason: reason(&error) });
            }
        }
        self.pools.iter().chain(&self.removed).for_each(|pool| pool.signal_all(Signal::SIGUSR1));
        // Also without a pool that runs programs: what is left may be of a removed one.
        let is_worker = |pid| self.pools.iter().chain(&self.removed).any(|it| it.has(pid));
        self.leftovers.reopen_log(|pid| is_worker(pid) || self.scouts.has(pid));
    }

    /// Leaves those listeners open that the observer keeps.
    fn leave_listeners(&self) {
        if self.listeners_stay {
            self.pools.iter().flat_map(Pool::listeners).for_each(|listener| listener.leave_open());
        }
    }

    /// The one place in which the phase changes.
    fn enter(&mut self, phase: Phase) {
        self.news.push(Event::PhaseChanged { from: self.phase.to_string(), to: phase.to_string() });
        self.phase = phase;
    }

    fn end(mut self) -> Result<(), Error> {
        let reason = match (self.phase, self.start_failure.take()) {
            (Phase::Stopped, None) => return Ok(()),
            (_, Some(reason)) => reason,
            (_, None) => condition::not_started(&self.pools).unwrap_or_default(),
        };
        self.news.push(Event::CouldNotStart { reason: reason.clone() });
        self.report(Moment::now());
        Err(Error::new(Code::Unavailable, reason).logged())
    }
}

/// Makes this process one that can have workers. From here on a signal waits until the
/// loop does. Gives also the children that are not of the daemon.
fn become_supervisor() -> Result<(Waiting, HashSet<Pid>), Error> {
    let failed = |what: &'static str| move |error: io::Error| Error::system(what, &error);
    let signals = Waiting::begin(&WANTED, &IGNORED).map_err(failed("set signal handlers"))?;
    panic::prepare();
    let foreign = orphans::earlier_children();
    orphans::adopt().map_err(failed("adopt orphans"))?;
    let null = File::open("/dev/null").map_err(failed("open file \"/dev/null\""))?;
    descriptor::replace(&null, 0).map_err(failed("set standard input"))?;
    Ok((signals, foreign))
}
