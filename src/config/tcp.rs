//! The options of the listener of a TCP address.
#![forbid(unsafe_code)]

use std::fmt;
use std::time::Duration;

use serde::Deserialize;

use super::endpoint::is_interface;
use super::fault::Fault;
use super::units::{Elapsed, Unit, Within, not, optional, without_unit};

/// The options of a TCP listener; its connections have most of them from it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tcp {
    /// The interface whose clients alone are served.
    pub bind_device: Option<String>,
    /// Whether small pieces are sent at once.
    pub nodelay: bool,
    /// When a client that says nothing is asked whether it is there.
    pub keepalive: Keepalive,
    /// Whether clients over IPv4 are left to another listener; `None` is as the system has it
    /// (net.ipv6.bindv6only).
    pub ipv6_only: Option<bool>,
    /// Whether the address need not be one of this machine yet.
    pub freebind: bool,
    /// For how many seconds a client that sends nothing wakes no worker.
    pub defer_accept: Option<u32>,
}

/// The probes of a quiet connection, tcp(7); `None` is as the system has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Keepalive {
    /// After how many quiet seconds the first one is sent.
    #[serde(deserialize_with = "optional::<Seconds, _>")]
    pub idle: Option<u32>,
    /// How many seconds are between two.
    #[serde(deserialize_with = "optional::<Seconds, _>")]
    pub interval: Option<u32>,
    /// How many are sent before the connection is given up.
    #[serde(deserialize_with = "optional::<Within<u32, 1, 127>, _>")]
    pub count: Option<u32>,
}

/// A duration in whole seconds, as many as tcp(7) takes.
pub(super) struct Seconds;

impl Seconds {
    const MOST: u64 = 32767;
}

impl Unit for Seconds {
    type Value = u32;

    fn expected(f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a duration in whole seconds, from \"1s\" to \"{}s\"", Seconds::MOST)
    }

    fn text(text: &str) -> Result<u32, Fault> {
        let duration = Elapsed::text(text)?;
        match u32::try_from(duration.as_secs()) {
            Ok(seconds)
                if duration == Duration::from_secs(u64::from(seconds))
                    && (1..=Seconds::MOST).contains(&u64::from(seconds)) =>
            {
                Ok(seconds)
            }
            _ => Err(not::<Self>(format_args!("{text:?}"))),
        }
    }

    fn whole(number: i64) -> Result<u32, Fault> {
        Err(without_unit::<Self>(number))
    }
}

/// The name of a network interface.
pub(super) struct Interface;

impl Unit for Interface {
    type Value = String;

    fn expected(f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a network interface")
    }

    fn text(text: &str) -> Result<String, Fault> {
        if is_interface(text) {
            Ok(text.to_owned())
        } else {
            Err(not::<Self>(format_args!("{text:?}")))
        }
    }
}
