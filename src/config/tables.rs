//! The tables of a configuration, as the daemon uses them.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::{Deref, Range};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use crate::program;

use super::address::SocketPath;
use super::diagnostics::{Problem, Source};
use super::fairness::{PerSource, Rate, Refusal};
use super::leftovers::Leftovers;
use super::limits::Limits;
use super::listen::Listens;
use super::peers::Peers;
use super::sealed::Sealed;
use super::service::ServiceChoice;
use super::units::{
    AbsolutePath, Elapsed, Mode, Name, Percent, Timeout, Within, optional, plain, present, spanned,
};
use super::variables::{HostName, passed, variables};

/// All settings, checked as far as that can be done without the system.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The daemon as a whole.
    pub daemon: Daemon,
    /// What is logged, and where.
    pub log: Log,
    /// The pools, sorted by name; at least one.
    pub pools: Vec<Pool>,
}

impl Config {
    /// A copy of it whose pools are sealed, see [`Pool::seal`].
    ///
    /// # Errors
    ///
    /// That of `keep`.
    pub fn sealed<M: Deref<Target = [u8]> + 'static>(
        &self,
        keep: impl Fn(&[u8]) -> io::Result<M>,
    ) -> io::Result<Config> {
        let mut copy = self.clone();
        copy.pools.iter_mut().try_for_each(|pool| pool.seal(&keep))?;
        Ok(copy)
    }
}

/// `[daemon]`: the daemon as a whole.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Daemon {
    #[serde(skip)]
    pub(super) origin: Origin,
    /// The socket that takes commands. Its default is [`program::control`] of the file, and
    /// empty until the file is known. There it is optional: that directory exists only
    /// under the service.
    #[serde(deserialize_with = "plain::<SocketPath, _>")]
    pub control: PathBuf,
    /// The file that holds the master's pid; written only when it detaches.
    #[serde(deserialize_with = "plain::<AbsolutePath, _>")]
    pub pid_file: PathBuf,
    /// How long a stop may wait for connections before it kills.
    #[serde(deserialize_with = "plain::<Timeout, _>")]
    pub stop_timeout: Duration,
    /// How long a stop first goes on serving as if nothing had happened.
    #[serde(deserialize_with = "plain::<Elapsed, _>")]
    pub stop_delay: Duration,
    /// The user of the pools that name none, where the daemon is root.
    #[serde(deserialize_with = "present::<Name, _>")]
    pub user: Spanned<String>,
}

impl Daemon {
    /// What a pool without a user needs to know.
    pub(super) fn default_user(&self) -> DefaultUser {
        DefaultUser { origin: self.origin.clone(), name: self.user.clone() }
    }
}

/// `user` in `[daemon]`, as a pool without a user needs it.
#[derive(Clone, Debug, PartialEq)]
pub struct DefaultUser {
    origin: Origin,
    name: Spanned<String>,
}

impl DefaultUser {
    /// Its name.
    pub fn name(&self) -> &str {
        self.name.get_ref()
    }

    /// A problem with it, where it was written. A default was written nowhere.
    pub fn problem(&self, message: impl fmt::Display) -> Problem {
        let (source, span) = (&self.origin.source, self.name.span());
        if span.is_empty() {
            Problem::of_file(source.path(), format_args!("daemon.user: {message}"))
        } else {
            source.problem("daemon.user", span, message)
        }
    }
}

impl Default for DefaultUser {
    fn default() -> Self {
        Daemon::default().default_user()
    }
}

impl Default for Daemon {
    fn default() -> Self {
        Daemon {
            control: PathBuf::new(),
            pid_file: program::pid_file(),
            stop_timeout: Duration::from_secs(30),
            stop_delay: Duration::ZERO,
            user: Spanned::new(0..0, "nobody".to_owned()),
            origin: Origin::default(),
        }
    }
}

/// `[log]`: what is logged, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// The least severe events that are logged.
    pub level: Level,
    /// How an event is written.
    pub format: Format,
    /// The file; `None` is the standard error.
    #[serde(deserialize_with = "optional::<AbsolutePath, _>")]
    pub file: Option<PathBuf>,
}

/// How severe an event is, from the least to the most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Every step.
    Trace,
    /// What a developer asks for.
    Debug,
    /// What happens in good health.
    #[default]
    Info,
    /// What may become a fault.
    Warning,
    /// A fault that the daemon survives.
    Error,
    /// A fault that ends the daemon.
    Critical,
}

/// How an event is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `Journal` if the standard error is the journal, else `Term`.
    #[default]
    Auto,
    /// A line of text, without colours.
    Term,
    /// One JSON object a line.
    Json,
    /// Native fields of the systemd journal.
    Journal,
}

/// `[pool.NAME]`: workers that share one listener and one service.
///
/// Two are equal if they mean the same, wherever in whichever file they stand.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// The name in `[pool.NAME]`.
    #[serde(skip)]
    pub name: String,
    #[serde(skip)]
    pub(super) origin: Origin,
    /// What `env` and the options have said, once they are sealed.
    #[serde(skip)]
    sealed: Sealed,
    /// The user of `[daemon]`, if this table has no `user`. For a pool with its own user, a
    /// change of the other is no change.
    #[serde(skip)]
    pub default_user: DefaultUser,

    /// Where clients connect.
    pub listen: Listens,
    /// How many workers to keep, at least 1.
    #[serde(
        default = "cpus",
        deserialize_with = "plain::<Within<u32, 1, { MOST_WORKERS as i64 }>, _>"
    )]
    pub workers: u32,
    /// The most processes of the pool, those that retire included; more than `workers`.
    #[serde(
        default,
        deserialize_with = "spanned::<Within<u32, 2, { 2 * MOST_WORKERS as i64 }>, _>"
    )]
    pub max_workers: Option<Spanned<u32>>,
    /// What a worker does with a connection.
    pub service: ServiceChoice,

    /// The user that the workers run as; `None` is [`Pool::default_user`] where the
    /// daemon is root, else the daemon's own.
    #[serde(default, deserialize_with = "spanned::<Name, _>")]
    pub user: Option<Spanned<String>>,
    /// The group that the workers run as; `None` is that of the user.
    #[serde(default, deserialize_with = "spanned::<Name, _>")]
    pub group: Option<Spanned<String>>,
    /// The directory that the workers start in; `None` is the daemon's own.
    #[serde(default, deserialize_with = "spanned::<AbsolutePath, _>")]
    pub working_directory: Option<Spanned<PathBuf>>,
    /// The file mode creation mask, umask(2); `None` is the daemon's own.
    #[serde(default, deserialize_with = "optional::<Mode, _>")]
    pub umask: Option<u32>,
    /// The scheduling priority, nice(1); `None` is the daemon's own.
    #[serde(default, deserialize_with = "spanned::<Within<i32, -20, 19>, _>")]
    pub nice: Option<Spanned<i32>>,
    /// How readily the kernel kills a worker when memory is short,
    /// proc_pid_oom_score_adj(5); `None` is the daemon's own.
    #[serde(default, deserialize_with = "spanned::<Within<i32, -1000, 1000>, _>")]
    pub oom_score_adj: Option<Spanned<i32>>,
    /// What is added to the clean environment of the workers.
    #[serde(default, deserialize_with = "variables")]
    pub env: BTreeMap<String, String>,
    /// Which variables of the daemon the workers have, too, beyond PATH, LANG and TZ.
    #[serde(default, deserialize_with = "passed")]
    pub pass_env: Vec<String>,
    /// The name of this host, as programs get it.
    #[serde(default, deserialize_with = "optional::<HostName, _>")]
    pub hostname: Option<String>,
    /// The resource limits of a worker.
    #[serde(default)]
    pub limits: Limits,

    /// How many connections a worker serves before it is recycled; 0 is no end.
    #[serde(default, deserialize_with = "plain::<Within<u64, 0, { i64::MAX }>, _>")]
    pub max_requests: u64,
    /// By how much `max_requests` varies, so that workers do not go all at once.
    #[serde(default = "Percent::ten", deserialize_with = "plain::<Percent, _>")]
    pub max_requests_jitter: Percent,
    /// The longest that a worker may take until it accepts, and that a start under a
    /// service manager may wait for the pool.
    #[serde(default, deserialize_with = "optional::<Timeout, _>")]
    pub start_timeout: Option<Duration>,
    /// The longest that one connection may take.
    #[serde(default, deserialize_with = "optional::<Timeout, _>")]
    pub request_timeout: Option<Duration>,
    /// The longest that a client may send or take nothing.
    #[serde(default, deserialize_with = "optional::<Timeout, _>")]
    pub idle_timeout: Option<Duration>,
    /// From the polite signal to SIGKILL.
    #[serde(default = "five_seconds", deserialize_with = "plain::<Timeout, _>")]
    pub kill_timeout: Duration,
    /// The longest that a connection in hand may keep a worker of an old generation.
    #[serde(default, deserialize_with = "optional::<Timeout, _>")]
    pub retire_timeout: Option<Duration>,
    /// How long a connection that has transferred nothing may delay a stop that keeps
    /// the listeners.
    #[serde(default = "one_second", deserialize_with = "plain::<Timeout, _>")]
    pub idle_stop: Duration,
    /// What becomes of the processes that a program leaves running.
    #[serde(default = "Leftovers::leave", deserialize_with = "present::<Leftovers, _>")]
    pub leftovers: Spanned<Leftovers>,
    /// A worker that dies sooner, with nothing served, has died young.
    #[serde(default = "one_second", deserialize_with = "plain::<Elapsed, _>")]
    pub min_uptime: Duration,

    /// Who may connect; empty is everybody.
    #[serde(default)]
    pub allow: Vec<Peers>,
    /// Who may not connect.
    #[serde(default)]
    pub deny: Vec<Peers>,
    /// A line in the log for the begin and the end of each connection.
    #[serde(default)]
    pub access_log: bool,
    /// What one source of clients may have; `None` is as much as there is.
    #[serde(default)]
    pub per_source: Option<PerSource>,
    /// How often connections may begin, from all sources together.
    #[serde(default)]
    pub rate: Option<Rate>,
    /// The text for a client that is over one of these limits.
    #[serde(default, deserialize_with = "optional::<Refusal, _>")]
    pub refusal: Option<String>,
}

/// The most workers of one pool: above that, a pid namespace runs out first.
pub const MOST_WORKERS: u32 = 16384;

impl Pool {
    /// A problem with this pool's `key`, whose value stands at `span` of its file.
    pub fn problem(&self, key: &str, span: Range<usize>, message: impl fmt::Display) -> Problem {
        let key = format!("pool.{}.{key}", self.name);
        self.origin.source.problem(key, span, message)
    }

    /// Forgets the environment, the options and the text of the file, once they were used.
    /// Two pools that are sealed are still equal if they mean the same: what they say is
    /// kept in the memory that `keep` makes of it.
    ///
    /// # Errors
    ///
    /// That of `keep`.
    pub fn seal<M: Deref<Target = [u8]> + 'static>(
        &mut self,
        keep: impl FnOnce(&[u8]) -> io::Result<M>,
    ) -> io::Result<()> {
        let mut said = format!("{:?}", std::mem::take(&mut self.env));
        said.push_str(&self.service.options.forget());
        self.sealed = Sealed::new(keep(said.as_bytes())?);
        self.origin.source = Arc::default();
        self.default_user.origin.source = Arc::default();
        Ok(())
    }

    /// What is wrong between keys of which each is right by itself.
    pub(super) fn check(&self) -> Option<Problem> {
        let most = self.max_workers.as_ref()?;
        if *most.get_ref() > self.workers {
            return None;
        }
        let message =
            format!("{} is not more than the {} of workers", most.get_ref(), self.workers);
        let hint = "a reload needs room for a new worker next to the old ones";
        Some(self.problem("max_workers", most.span(), message).with_hint(hint))
    }

    /// Whether its workers have to know of each other's clients.
    pub fn is_shared_out(&self) -> bool {
        self.per_source.is_some() || self.rate.is_some()
    }

    /// The file and the line in which this pool begins, for a message.
    pub(super) fn place(&self) -> String {
        let Origin { source, name } = &self.origin;
        format!("{}:{}", source.path().display(), source.line(name.start))
    }
}

/// Where settings stand, which is no part of what they say: all are equal.
#[derive(Clone, Debug, Default)]
pub(super) struct Origin {
    pub source: Arc<Source>,
    /// The bytes of the name.
    pub name: Range<usize>,
}

impl PartialEq for Origin {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

fn cpus() -> u32 {
    thread::available_parallelism().map_or(1, |cpus| u32::try_from(cpus.get()).unwrap_or(1))
}

fn five_seconds() -> Duration {
    Duration::from_secs(5)
}

fn one_second() -> Duration {
    Duration::from_secs(1)
}
