//! A pool as it is to be: checked, and nothing of it running yet.
#![forbid(unsafe_code)]

use crate::config::{Pool, Problems};
use crate::error::Code;
use crate::listener;
use crate::service::{Service, Services};
use crate::worker::Settings;

/// All that the workers of a generation are forked from, but their listener.
pub struct Blueprint {
    /// What the configuration says.
    pub config: Pool,
    pub(super) settings: Settings,
    pub(super) service: Box<dyn Service>,
}

impl Blueprint {
    /// The blueprint of a pool.
    ///
    /// # Errors
    ///
    /// All that is wrong with the pool, told at once.
    pub fn draw(config: Pool, services: &Services) -> Result<Self, Problems> {
        let mut problems = Vec::new();
        if let Err(reason) = listener::check(config.listen.get_ref()) {
            let message = format!(
                "could not bind listener \"{}\": {reason}",
                config.listen.get_ref().address
            );
            let span = config.listen.span();
            problems.push(
                config
                    .problem("listen", span, message)
                    .with_code(Code::CannotCreate),
            );
        }
        let settings = Settings::resolve(&config);
        let service = services.build(&config.service);
        match (settings, service) {
            (Ok(settings), Ok(service)) => Problems::unless_empty(
                problems,
                Blueprint {
                    config,
                    settings,
                    service,
                },
            ),
            (settings, service) => {
                let settings = settings.err().into_iter().flat_map(Problems::into_iter);
                let service = service.err().into_iter().flat_map(Problems::into_iter);
                problems.extend(settings.chain(service));
                Err(problems.into())
            }
        }
    }
}
