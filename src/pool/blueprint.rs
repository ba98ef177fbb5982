//! A pool as it is to be: checked, and nothing of it running yet.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use slog::Logger;
use toml::Spanned;

use crate::accounts;
use crate::config::{Leftovers, Listen, Pool, Problem, Problems};
use crate::error::{Error, reason};
use crate::ledger::Ledger;
use crate::log::event::Event;
use crate::log::journal;
use crate::program;
use crate::service::{Service, Services};
use crate::sys::unshared::Unshared;
use crate::worker::Profile;

/// All that the workers of a generation are forked from, but their listeners.
pub struct Blueprint {
    /// What the configuration says.
    pub config: Pool,
    pub(super) profile: Profile,
    pub(super) service: Box<dyn Service>,
    pub(super) stderr: Stderr,
    /// What its workers know of each other's clients, where a limit asks for that.
    pub(super) ledger: Option<Rc<Ledger>>,
}

/// What the workers have as standard error.
pub(super) enum Stderr {
    /// That of the daemon.
    Daemon,
    /// A stream to the journal, once the first of them is started: most of what a
    /// reload draws starts none.
    JournalLater,
    /// This stream to the journal.
    Journal(OwnedFd),
}

impl Blueprint {
    /// The blueprint of a pool.
    ///
    /// # Errors
    ///
    /// All problems of the pool at once.
    pub fn draw(config: Pool, services: &Services) -> Result<Self, Problems> {
        let mut problems = check_owners(&config);
        let profile = Profile::resolve(&config);
        let service = services.build(&config.service);
        match (profile, service) {
            (Ok(profile), Ok(service)) => {
                problems.extend(check_leftovers(&config, &*service));
                let (stderr, ledger) = (Stderr::Daemon, None);
                let blueprint = Blueprint { config, profile, service, stderr, ledger };
                Problems::unless_empty(problems, blueprint)
            }
            (profile, service) => {
                let profile = profile.err().into_iter().flat_map(Problems::into_iter);
                let service = service.err().into_iter().flat_map(Problems::into_iter);
                problems.extend(profile.chain(service));
                Err(problems.into())
            }
        }
    }

    /// Only looks up the users and groups that a pool names. The results are remembered.
    pub fn look_up(config: &Pool) {
        drop(check_owners(config));
        // Its other problems are reported when the blueprint is drawn.
        if let Ok(profile) = Profile::resolve(config) {
            drop(profile.user());
        }
    }

    /// Lets go of what is not for the workers of other pools, once nothing is left to
    /// find fault with.
    ///
    /// # Errors
    ///
    /// There is no memory for what has to be kept.
    pub fn seal(&mut self) -> Result<(), Error> {
        let sealed = self.config.seal(Unshared::copy_of);
        sealed.map_err(|error| Error::system("keep configuration", &error))
    }

    /// Opens the ledger of the workers, if a limit asks for one.
    ///
    /// # Errors
    ///
    /// There is no memory for it.
    pub fn open_ledger(&mut self) -> Result<(), Error> {
        if self.config.is_shared_out() {
            let ledger = Ledger::new();
            self.ledger = Some(ledger.map_err(|error| Error::system("open ledger", &error))?);
        }
        Ok(())
    }

    /// Goes on with the ledger of an earlier generation, so that the clients of its workers
    /// count, too.
    pub(super) fn inherit_ledger(&mut self, earlier: &Blueprint) {
        if let (Some(own), Some(ledger)) = (&mut self.ledger, &earlier.ledger) {
            *own = Rc::clone(ledger);
        }
    }

    /// The name of the user that the workers run as.
    pub fn user(&self) -> String {
        self.profile.user()
    }

    /// Whether the workers run as root.
    pub fn is_root(&self) -> bool {
        self.profile.is_root()
    }

    /// The workers are to have a stream to the journal as their standard error, so
    /// that its lines arrive with the pid of who wrote them.
    pub fn log_stderr(&mut self) {
        self.stderr = Stderr::JournalLater;
    }

    /// Opens the stream to the journal before the first worker is forked. If there is
    /// none, the workers have the standard error of the daemon for good.
    pub(super) fn open_stderr(&mut self, log: &Logger) {
        if !matches!(self.stderr, Stderr::JournalLater) {
            return;
        }
        let pool = &self.config.name;
        self.stderr = match journal::stream(&format!("{}/{pool}", program::name())) {
            Ok(stream) => Stderr::Journal(stream),
            Err(error) => {
                let (pool, reason) = (pool.clone(), reason(&error));
                Event::CouldNotOpenStream { pool, reason }.tell(log);
                Stderr::Daemon
            }
        };
    }
}

impl Stderr {
    /// The descriptor, if it is not that of the daemon.
    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Stderr::Daemon | Stderr::JournalLater => None,
            Stderr::Journal(stream) => Some(stream.as_fd()),
        }
    }
}

/// Something to be done with what programs leave, where the service runs none.
fn check_leftovers(config: &Pool, service: &dyn Service) -> Option<Problem> {
    let key = &config.leftovers;
    if *key.get_ref() == Leftovers::Leave || service.program().is_some() {
        return None;
    }
    let name = config.service.name.get_ref();
    let message = format!("the service \"{name}\" runs no program that could leave anything");
    Some(config.problem("leftovers", key.span(), message))
}

/// Checks that the owners of the sockets exist. The problems have the places of the names,
/// which the listeners do not know.
fn check_owners(config: &Pool) -> Vec<Problem> {
    config.listen.iter().flat_map(|listen| check_owner(config, listen.get_ref())).collect()
}

fn check_owner(config: &Pool, listen: &Listen) -> Vec<Problem> {
    let Listen { owner, group, .. } = listen;
    let owner = owner.as_ref().map(|name| ("owner", name, accounts::user(name.get_ref()).err()));
    let group = group.as_ref().map(|name| ("group", name, accounts::group(name.get_ref()).err()));
    let problem = |(key, name, error): (_, &Spanned<String>, Option<io::Error>)| {
        let reason = reason(&error?);
        let message = format!("could not find {key} \"{}\": {reason}", name.get_ref());
        Some(config.problem(&format!("listen.{key}"), name.span(), message))
    };
    [owner, group].into_iter().flatten().filter_map(problem).collect()
}
