//! Who may connect.
#![forbid(unsafe_code)]

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer};

use super::fault::Fault;
use super::units::{Unit, plain};

/// A set of peers, as `allow` and `deny` list them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Peers {
    /// A network, `"10.0.0.0/8"`, or one address, `"::1"`. No host bit is set.
    Net(IpNet),
    /// `"unix"`: any peer of a Unix socket.
    Unix,
}

impl FromStr for Peers {
    type Err = Fault;

    fn from_str(text: &str) -> Result<Self, Fault> {
        if text == "unix" {
            return Ok(Peers::Unix);
        }
        let Ok(net) = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)) else {
            let fault = Fault::new(format_args!("{text:?} is not a network"));
            return Err(fault.with_hint(r#"write it like "10.0.0.0/8", "fd00::/8" or "unix""#));
        };
        // The meaning, one address or its whole network, cannot be guessed.
        if net != net.trunc() {
            let hint = format!(
                r#"write "{}" for the network, "{}" for the address"#,
                net.trunc(),
                net.addr()
            );
            return Err(
                Fault::new(format_args!("{text:?} has bits set behind its prefix")).with_hint(hint)
            );
        }
        // An IPv4 client has an IPv4 address on every listener, so its network has one
        // form.
        if let Some(ipv4) = mapped(net) {
            let fault = Fault::new(format_args!("{text:?} is IPv4 in the form of IPv6"));
            return Err(fault.with_hint(format_args!(r#"write "{}""#, Peers::Net(ipv4))));
        }
        Ok(Peers::Net(net))
    }
}

/// The IPv4 network that `net` stands for, if it is inside ::ffff:0:0/96.
fn mapped(net: IpNet) -> Option<IpNet> {
    let IpNet::V6(net) = net else {
        return None;
    };
    let prefix = net.prefix_len().checked_sub(96)?;
    IpNet::new(net.addr().to_ipv4_mapped()?.into(), prefix).ok()
}

impl Unit for Peers {
    type Value = Peers;

    fn expected(f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a network")
    }

    fn text(text: &str) -> Result<Peers, Fault> {
        text.parse()
    }
}

impl<'de> Deserialize<'de> for Peers {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        plain::<Peers, D>(from)
    }
}

impl fmt::Display for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peers::Net(net) if net.prefix_len() == net.max_prefix_len() => net.addr().fmt(f),
            Peers::Net(net) => net.fmt(f),
            Peers::Unix => f.write_str("unix"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_written_as_they_are_read() {
        for text in ["10.0.0.0/8", "fd00::/8", "::1", "192.0.2.1", "0.0.0.0/0", "::/0", "unix"] {
            assert_eq!(text.parse::<Peers>().unwrap().to_string(), text);
        }
        assert_eq!("192.0.2.1/32".parse::<Peers>(), "192.0.2.1".parse());
    }

    #[test]
    fn wrong_peers_get_a_hint() {
        let forms = "write it like \"10.0.0.0/8\", \"fd00::/8\" or \"unix\"";
        let cases = [
            ("10.0.0.0/33", "\"10.0.0.0/33\" is not a network", forms),
            ("localhost", "\"localhost\" is not a network", forms),
            ("", "\"\" is not a network", forms),
            (
                "10.1.2.3/8",
                "\"10.1.2.3/8\" has bits set behind its prefix",
                "write \"10.0.0.0/8\" for the network, \"10.1.2.3\" for the address",
            ),
            (
                "::ffff:10.0.0.0/104",
                "\"::ffff:10.0.0.0/104\" is IPv4 in the form of IPv6",
                "write \"10.0.0.0/8\"",
            ),
            (
                "::ffff:10.1.2.3",
                "\"::ffff:10.1.2.3\" is IPv4 in the form of IPv6",
                "write \"10.1.2.3\"",
            ),
        ];
        for (text, message, hint) in cases {
            let fault = text.parse::<Peers>().unwrap_err();
            assert_eq!((fault.message.as_str(), fault.hint.as_deref()), (message, Some(hint)));
        }
    }
}
