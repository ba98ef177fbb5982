//! The environment of workers: which names and values it may have.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

use super::fault::Fault;
use super::units::{Read, Unit, not};

/// The variables that tell a program of its connection. Nobody else may set one: of two
/// with the same name a program sees the first or the last, as its language has it.
pub const OF_CONNECTIONS: [&str; 16] = [
    "PROTO",
    "REMOTE_ADDR",
    "REMOTE_PORT",
    "TCPCONNNUM",
    "TCPLOCALHOST",
    "TCPLOCALIP",
    "TCPLOCALPORT",
    "TCPREMOTEIP",
    "TCPREMOTEPORT",
    "UNIXLOCALGID",
    "UNIXLOCALPATH",
    "UNIXLOCALPID",
    "UNIXLOCALUID",
    "UNIXREMOTEEGID",
    "UNIXREMOTEEUID",
    "UNIXREMOTEPID",
];

/// Variables from the service manager to the daemon alone, by the beginnings of their
/// names.
const OF_THE_DAEMON: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_"];

/// The name of an environment variable.
struct VariableName;

impl Unit for VariableName {
    type Value = String;

    fn expected(f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of an environment variable")
    }

    fn text(text: &str) -> Result<String, Fault> {
        if text.is_empty() || text.contains(['\0', '=']) {
            return Err(not::<Self>(format_args!("{text:?}")));
        }
        if !OF_CONNECTIONS.contains(&text) {
            return Ok(text.to_owned());
        }
        let fault = Fault::new(format_args!("{text:?} is set by the daemon for each connection"));
        Err(match text {
            "TCPLOCALHOST" => fault.with_hint("set \"hostname\" of the pool"),
            _ => fault,
        })
    }
}

/// The name of a variable that the daemon passes on.
pub(super) struct PassedName(pub String);

impl<'de> Deserialize<'de> for PassedName {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Read::<Passed>::deserialize(from).map(|Read(name)| PassedName(name))
    }
}

struct Passed;

impl Unit for Passed {
    type Value = String;

    fn expected(f: &mut fmt::Formatter<'_>) -> fmt::Result {
        VariableName::expected(f)
    }

    fn text(text: &str) -> Result<String, Fault> {
        if OF_THE_DAEMON.iter().any(|name| text.starts_with(name)) {
            return Err(Fault::new(format_args!("{text:?} is for the daemon alone")));
        }
        VariableName::text(text)
    }
}

/// The value of an environment variable.
struct VariableValue;

impl Unit for VariableValue {
    type Value = String;

    fn expected(f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn text(text: &str) -> Result<String, Fault> {
        if text.contains('\0') {
            Err(Fault::new(format_args!("{text:?} holds a NUL")))
        } else {
            Ok(text.to_owned())
        }
    }

    fn whole(number: i64) -> Result<String, Fault> {
        Err(not::<Self>(number).with_hint(format_args!(r#"write it in quotes, "{number}""#)))
    }
}

/// The name of a host, as a program gets it; nobody looks the name up.
pub(super) struct HostName;

impl Unit for HostName {
    type Value = String;

    fn expected(f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a host")
    }

    fn text(text: &str) -> Result<String, Fault> {
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if (1..=253).contains(&text.len()) && text.chars().all(is_part) {
            Ok(text.to_owned())
        } else {
            Err(not::<Self>(format_args!("{text:?}")))
        }
    }
}

/// A list of variables that are passed on.
pub(super) fn passed<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    Vec::<PassedName>::deserialize(from)
        .map(|names| names.into_iter().map(|PassedName(name)| name).collect())
}

/// A table of variables.
pub(super) fn variables<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    // Pairs in a map keyed by text would need an `Ord` of the wrapper.
    struct Variables;

    impl<'de> Visitor<'de> for Variables {
        type Value = BTreeMap<String, String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a table")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut variables = BTreeMap::new();
            while let Some(Read(name)) = map.next_key::<Read<VariableName>>()? {
                let Read(value) = map.next_value::<Read<VariableValue>>()?;
                variables.insert(name, value);
            }
            Ok(variables)
        }
    }

    from.deserialize_any(Variables)
}
