//! A pool as it is to be: checked, and nothing of it running yet.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;

use toml::Spanned;

use crate::accounts;
use crate::config::{Listen, Pool, Problem, Problems};
use crate::error::reason;
use crate::log::journal;
use crate::service::{Service, Services};
use crate::worker::Settings;

/// All that the workers of a generation are forked from, but their listener.
pub struct Blueprint {
    /// What the configuration says.
    pub config: Pool,
    pub(super) settings: Settings,
    pub(super) service: Box<dyn Service>,
    /// What the workers have as standard error, if not that of the daemon.
    pub(super) stderr: Option<OwnedFd>,
}

impl Blueprint {
    /// The blueprint of a pool.
    ///
    /// # Errors
    ///
    /// All that is wrong with the pool, told at once.
    pub fn draw(config: Pool, services: &Services) -> Result<Self, Problems> {
        let mut problems = check_owner(&config);
        let settings = Settings::resolve(&config);
        let service = services.build(&config.service);
        match (settings, service) {
            (Ok(settings), Ok(service)) => Problems::unless_empty(
                problems,
                Blueprint { config, settings, service, stderr: None },
            ),
            (settings, service) => {
                let settings = settings.err().into_iter().flat_map(Problems::into_iter);
                let service = service.err().into_iter().flat_map(Problems::into_iter);
                problems.extend(settings.chain(service));
                Err(problems.into())
            }
        }
    }

    /// The name of the user that the workers run as.
    pub fn user(&self) -> String {
        self.settings.user()
    }

    /// Whether the workers run as root.
    pub fn is_root(&self) -> bool {
        self.settings.is_root()
    }

    /// Gives the workers a stream to the journal as their standard error, so
    /// that its lines arrive with the pid of who wrote them. Without one they
    /// have the daemon's.
    pub fn log_stderr(&mut self) {
        self.stderr = journal::stream(&format!("preforkd/{}", self.config.name)).ok();
    }
}

/// The names of whom the socket is to belong to, where nobody has them: told at their
/// places, which the listener does not know.
fn check_owner(config: &Pool) -> Vec<Problem> {
    let Listen { owner, group, .. } = config.listen.get_ref();
    let owner = owner.as_ref().map(|name| ("owner", name, accounts::user(name.get_ref()).err()));
    let group = group.as_ref().map(|name| ("group", name, accounts::group(name.get_ref()).err()));
    let problem = |(key, name, error): (_, &Spanned<String>, Option<io::Error>)| {
        let reason = reason(&error?);
        let message = format!("could not find {key} \"{}\": {reason}", name.get_ref());
        Some(config.problem(&format!("listen.{key}"), name.span(), message))
    };
    [owner, group].into_iter().flatten().filter_map(problem).collect()
}
