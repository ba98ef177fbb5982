//! The services by name.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use crate::config::{Options, Problems, ServiceChoice};

use super::{Service, echo::Echo, exec::Exec};

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

    /// These services and one more, which `factory` makes from the options
    /// that the configuration gives it. A name that is taken is replaced.
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
    /// There is no such service, or its options are wrong.
    pub fn build(&self, choice: &ServiceChoice) -> Result<Box<dyn Service>, Problems> {
        match self.factories.get(choice.name.get_ref().as_str()) {
            Some(factory) => factory(&choice.options),
            None => {
                let known: Vec<_> =
                    self.factories.keys().map(|name| format!("\"{name}\"")).collect();
                let message = format!("unknown service \"{}\"", choice.name.get_ref());
                let hint = format!("the services are {}", known.join(", "));
                Err(choice.options.problem("", message).with_hint(hint).into())
            }
        }
    }
}
