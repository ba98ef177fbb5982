//! The profile of a pool's workers: what each of them is to be, with all names looked up.
#![forbid(unsafe_code)]

use std::convert::Infallible;
use std::env;
use std::ffi::CString;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{Gid, Uid, getegid, geteuid};
use toml::Spanned;

use crate::accounts::{self, Account};
use crate::config::{self, Leftovers, Pool, Problem, Problems};
use crate::error::{Code, Error, reason};
use crate::service::{LOCAL_HOST, SEARCH_PATH};
use crate::sys::fork::Children;
use crate::sys::identity::Environment;
use crate::unit::{self, Refused};

use super::door::Admission;

/// What the environment of every worker holds, where the daemon's has it.
const KEPT_VARIABLES: [&str; 3] = ["PATH", "LANG", "TZ"];

/// The properties of a pool's workers, looked up and checked before the first fork, because
/// a child does not read the user database.
pub struct Profile {
    pub(super) identity: Option<Identity>,
    pub(super) working_directory: Option<PathBuf>,
    pub(super) umask: Option<u32>,
    pub(super) nice: Option<i32>,
    pub(super) oom_score_adj: Option<i32>,
    pub(super) limits: Vec<ResourceLimit>,
    pub(super) environment: Environment,
    pub(super) admission: Admission,
    pub(super) access_log: bool,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) kill_timeout: Duration,
    pub(super) leftovers: Leftovers,
    pub(super) max_requests: u64,
    pub(super) max_requests_jitter: u8,
}

/// The user that a worker runs as.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// What the configuration calls it.
    pub name: String,
    pub uid: Uid,
    pub gid: Gid,
    pub groups: Vec<Gid>,
}

/// A resource limit.
pub(super) struct ResourceLimit {
    pub name: &'static str,
    pub resource: Resource,
    pub soft: u64,
    pub hard: u64,
}

impl ResourceLimit {
    fn new(name: &'static str, resource: Resource, value: u64) -> Self {
        let hard = match resource {
            // At the soft limit the kernel sends SIGXCPU, which says what happened;
            // at the hard one SIGKILL, which anybody may have sent.
            Resource::RLIMIT_CPU => {
                let most = getrlimit(resource).map_or(value, |(_, hard)| hard);
                value.saturating_add(1).min(most.max(value))
            }
            _ => value,
        };
        ResourceLimit { name, resource, soft: value, hard }
    }
}

impl Profile {
    /// The profile of a pool.
    ///
    /// # Errors
    ///
    /// Checks for known faults that would keep the workers from settling: an unknown user,
    /// a missing directory, a permission that only root has.
    pub fn resolve(pool: &Pool) -> Result<Self, Problems> {
        let mut problems = Vec::new();
        let (identity, account) = match whom(pool) {
            Ok(found) => found,
            Err(problem) => {
                problems.push(problem);
                (None, None)
            }
        };
        problems.extend(check_directory(pool));
        problems.extend(check_priority(pool));
        problems.extend(check_limits(pool));
        let environment = Environment::new(&environment(pool, account.as_ref()))
            .map_err(|error| Problem::new(Error::system("keep environment", &error)))?;
        let profile = Profile {
            identity,
            working_directory: pool.working_directory.as_ref().map(|path| path.get_ref().clone()),
            umask: pool.umask,
            nice: pool.nice.as_ref().map(|nice| *nice.get_ref()),
            oom_score_adj: pool.oom_score_adj.as_ref().map(|score| *score.get_ref()),
            limits: limits(&pool.limits)
                .map(|(name, resource, value)| ResourceLimit::new(name, resource, *value.get_ref()))
                .collect(),
            environment,
            admission: Admission::of(pool),
            access_log: pool.access_log,
            idle_timeout: pool.idle_timeout,
            kill_timeout: pool.kill_timeout,
            leftovers: *pool.leftovers.get_ref(),
            max_requests: pool.max_requests,
            max_requests_jitter: pool.max_requests_jitter.get(),
        };
        Problems::unless_empty(problems, profile)
    }

    /// Forks workers in a row, which alone get their environment. Each of them lives
    /// `life`, which is given its place in the row.
    ///
    /// # Errors
    ///
    /// There is no child: the process has threads, or madvise(2) failed.
    pub fn fork_row(
        &self,
        count: usize,
        life: impl FnOnce(usize) -> Infallible,
    ) -> io::Result<Children> {
        self.environment.fork_row(count, life)
    }

    /// The name of the user that the workers run as.
    pub fn user(&self) -> String {
        self.identity.as_ref().map_or_else(accounts::own_name, |identity| identity.name.clone())
    }

    /// Whether the workers run as root.
    pub fn is_root(&self) -> bool {
        self.identity.as_ref().map_or(geteuid(), |identity| identity.uid).is_root()
    }
}

/// The user that the configuration asks for, and how to say that there is no such user.
struct Wanted<'a> {
    name: &'a str,
    problem: Box<dyn Fn(String) -> Problem + 'a>,
}

/// The user that a pool asks for. A daemon that is root gives nobody root by default.
fn asked_user(pool: &Pool) -> Option<Wanted<'_>> {
    match &pool.user {
        Some(name) => {
            let problem = |what| pool.problem("user", name.span(), what);
            Some(Wanted { name: name.get_ref(), problem: Box::new(problem) })
        }
        None if geteuid().is_root() => {
            let hint = format!("pool \"{}\" has no user of its own", pool.name);
            let problem = move |what| pool.default_user.problem(what).with_hint(&hint);
            Some(Wanted { name: pool.default_user.name(), problem: Box::new(problem) })
        }
        None => None,
    }
}

fn find_user(asked: &Wanted<'_>) -> Result<Account, Problem> {
    let Wanted { name, problem } = asked;
    accounts::user(name)
        .map_err(|error| problem(format!("could not find user \"{name}\": {}", reason(&error))))
}

fn find_group(pool: &Pool, name: &Spanned<String>) -> Result<Gid, Problem> {
    accounts::group(name.get_ref()).map_err(|error| {
        let message = format!("could not find group \"{}\": {}", name.get_ref(), reason(&error));
        pool.problem("group", name.span(), message)
    })
}

/// The identity that the workers change to, if any, and the user that the pool names.
fn whom(pool: &Pool) -> Result<(Option<Identity>, Option<Account>), Problem> {
    let asked = asked_user(pool);
    let user = asked.as_ref().map(find_user).transpose()?;
    let named = user.clone().filter(|_| pool.user.is_some());
    identity(pool, asked, user).map(|identity| (identity, named))
}

fn identity(
    pool: &Pool,
    asked: Option<Wanted<'_>>,
    user: Option<Account>,
) -> Result<Option<Identity>, Problem> {
    let group = pool.group.as_ref().map(|name| find_group(pool, name)).transpose()?;
    let identity = match (user, group, asked) {
        (Some(user), group, Some(asked)) => {
            let Some(gid) = group.or(user.gid) else {
                let message = format!("could not find the group of user \"{}\"", user.name);
                let problem = (asked.problem)(format!("{message}: nobody has this number"));
                return Err(problem.with_hint("set group, too"));
            };
            let groups = accounts::groups(&user, gid).map_err(|error| {
                let (name, reason) = (&user.name, reason(&error));
                (asked.problem)(format!("could not look up groups of user \"{name}\": {reason}"))
            })?;
            Identity { name: user.name, uid: user.uid, gid, groups }
        }
        (_, Some(gid), _) => {
            let name = pool.group.as_ref().map(|name| name.get_ref().clone()).unwrap_or_default();
            Identity { name, uid: geteuid(), gid, groups: vec![gid] }
        }
        (_, None, _) => return Ok(None),
    };
    if geteuid().is_root() {
        return Ok(Some(identity));
    }
    // Only root can change identity. The own identity needs no change.
    if identity.uid == geteuid() && identity.gid == getegid() {
        return Ok(None);
    }
    let (key, span) = match (&pool.user, &pool.group) {
        (Some(user), _) if identity.uid != geteuid() => ("user", user.span()),
        (_, Some(group)) => ("group", group.span()),
        (Some(user), None) => ("user", user.span()),
        (None, None) => ("user", 0..0),
    };
    let message =
        format!("cannot become {key} \"{}\": the daemon does not run as root", identity.name);
    Err(not_root(pool.problem(key, span, message)))
}

/// A problem with what only root may do.
fn not_root(problem: Problem) -> Problem {
    let problem = problem.with_code(Code::NoPermission);
    match unit::hint(Refused::Privilege, &io::ErrorKind::PermissionDenied.into()) {
        Some(hint) => {
            let hints = problem.hint().into_iter().chain([hint]).collect::<Vec<_>>().join("; ");
            problem.with_hint(hints)
        }
        None => problem,
    }
}

fn check_directory(pool: &Pool) -> Option<Problem> {
    let directory = pool.working_directory.as_ref()?;
    let path = directory.get_ref();
    let (reason, hint) = match path.metadata() {
        Ok(file) if file.is_dir() => return None,
        Ok(_) => ("not a directory".to_owned(), None),
        Err(error) => (reason(&error), unit::hint(Refused::Read(path), &error)),
    };
    let message = format!("could not enter directory \"{}\": {reason}", path.display());
    let problem = pool.problem("working_directory", directory.span(), message);
    Some(match hint {
        Some(hint) => problem.with_hint(hint),
        None => problem,
    })
}

/// Raising a priority is root's alone; find that out now and not in a worker.
fn check_priority(pool: &Pool) -> Vec<Problem> {
    let asked = [("nice", &pool.nice), ("oom_score_adj", &pool.oom_score_adj)];
    asked
        .into_iter()
        .filter_map(|(key, value)| Some((key, value.as_ref()?)))
        .filter(|(_, value)| *value.get_ref() < 0 && !geteuid().is_root())
        .map(|(key, value)| {
            let message = format!(
                "cannot set {key} \"{}\": the daemon does not run as root",
                value.get_ref()
            );
            not_root(pool.problem(key, value.span(), message))
        })
        .collect()
}

/// So is raising a limit above the hard one of the daemon.
fn check_limits(pool: &Pool) -> Vec<Problem> {
    limits(&pool.limits)
        .filter_map(|(name, resource, value)| {
            // A limit that cannot be read does not exist here; setting it fails.
            let (_, hard) = getrlimit(resource).ok()?;
            let message = format!("cannot raise limit \"{name}\": the daemon does not run as root");
            let too_high = *value.get_ref() > hard && !geteuid().is_root();
            let problem = || {
                pool.problem(&format!("limits.{name}"), value.span(), message)
                    .with_hint(format!("the most is {hard}"))
            };
            too_high.then(|| not_root(problem()))
        })
        .collect()
}

/// The limits that are asked for, by their keys.
fn limits(asked: &config::Limits) -> impl Iterator<Item = (&'static str, Resource, &Spanned<u64>)> {
    [
        ("nofile", Resource::RLIMIT_NOFILE, &asked.nofile),
        ("core", Resource::RLIMIT_CORE, &asked.core),
        ("as", Resource::RLIMIT_AS, &asked.address_space),
        ("cpu", Resource::RLIMIT_CPU, &asked.cpu),
        ("nproc", Resource::RLIMIT_NPROC, &asked.nproc),
        ("data", Resource::RLIMIT_DATA, &asked.data),
        ("stack", Resource::RLIMIT_STACK, &asked.stack),
        ("fsize", Resource::RLIMIT_FSIZE, &asked.fsize),
    ]
    .into_iter()
    .filter_map(|(name, resource, value)| Some((name, resource, value.as_ref()?)))
}

/// A clean environment: [`KEPT_VARIABLES`] and the additions of the pool. A variable that
/// the pool sets itself comes first.
fn environment(pool: &Pool, account: Option<&Account>) -> Vec<CString> {
    let mut variables = pool.env.clone();
    let mut add = |name: &str, value: &str| {
        variables.entry(name.to_owned()).or_insert_with(|| value.to_owned());
    };
    for name in KEPT_VARIABLES.into_iter().chain(pool.pass_env.iter().map(String::as_str)) {
        if let Ok(value) = env::var(name) {
            add(name, &value);
        }
    }
    if let Some(Account { name, home, shell, .. }) = account {
        for (variable, value) in
            [("HOME", home), ("USER", name), ("LOGNAME", name), ("SHELL", shell)]
        {
            add(variable, value);
        }
    }
    if let Some(hostname) = &pool.hostname {
        add(LOCAL_HOST, hostname);
    }
    add("PATH", SEARCH_PATH);
    // The configuration has refused NUL bytes, and a variable that this
    // process has holds none.
    variables
        .into_iter()
        .filter_map(|(name, value)| CString::new(format!("{name}={value}")).ok())
        .collect()
}
