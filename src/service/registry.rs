//! The services by name.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use crate::config::{self, Options, Problems, ServiceChoice};
use crate::error::Code;

use super::{Service, echo::Echo, exec::Exec, panic};

type Factory = Box<dyn Fn(&Options) -> Result<Box<dyn Service>, Problems>>;

/// The services that a configuration can name.
pub struct Services {
    factories: BTreeMap<&'static str, Factory>,
}

impl Services {
    /// No service at all.
    pub fn none() -> Self {
        Services { factories: BTreeMap::new() }
    }

    /// The services that come with the daemon.
    pub fn builtin() -> Self {
        Services::none().with("echo", Echo::from_options).with("exec", Exec::from_options)
    }

    /// These services and one more, which `factory` makes from its options in the
    /// configuration. A service of the same name is replaced.
    ///
    /// The master itself calls `factory`, at the start and at each reload. A factory that
    /// panics makes the start or the reload fail. So does a factory that leaves a thread
    /// behind: a process with threads cannot fork. After such a reload no worker that dies
    /// can be replaced until the daemon is restarted.
    pub fn with<S, F>(mut self, name: &'static str, factory: F) -> Self
    where
        S: Service + 'static,
        F: Fn(&Options) -> Result<S, Problems> + 'static,
    {
        let factory: Factory = Box::new(move |options| Ok(Box::new(factory(options)?)));
        self.factories.insert(name, factory);
        self
    }

    /// Makes the service that a pool has chosen.
    ///
    /// # Errors
    ///
    /// There is no such service, its options are wrong, or its factory panicked.
    pub(crate) fn build(&self, choice: &ServiceChoice) -> Result<Box<dyn Service>, Problems> {
        match self.factories.get(choice.name.get_ref().as_str()) {
            // A panic leaves only the factory's own data half changed. If the panic were
            // not caught, the master would end, and with it the pools that serve.
            Some(factory) => {
                panic::catch_quietly(|| factory(&choice.options)).unwrap_or_else(|reason| {
                    let name = choice.name.get_ref();
                    let message =
                        format!("could not make service \"{name}\": it panicked: {reason}");
                    Err(choice.options.problem("", message).with_code(Code::Software).into())
                })
            }
            None => {
                let known: Vec<_> = self.factories.keys().map(|&name| name.to_owned()).collect();
                let name = choice.name.get_ref();
                let problem = choice.options.problem("", format!("unknown service {name:?}"));
                Err(problem.with_hint(config::service_hint(name, &known)).into())
            }
        }
    }
}
