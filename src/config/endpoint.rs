//! Where a TCP listener is bound: an IP address, and a port by number or by name.
#![forbid(unsafe_code)]

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::fault::Fault;
use super::meant;

/// The size of an interface's name, with the NUL behind it (IFNAMSIZ).
const INTERFACE_NAME: usize = 16;

/// `"127.0.0.1:7007"`, `"[fe80::1%eth0]:ssh"`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The IP address.
    pub ip: IpAddr,
    /// The interface of a link-local address of IPv6, by name or number.
    pub scope: Option<String>,
    /// The port.
    pub port: Port,
}

/// A port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Port {
    /// Its number.
    Number(u16),
    /// Its name, as services(5) has it.
    Name(String),
}

impl Endpoint {
    /// Reads an IP address and a port.
    pub(super) fn parse(text: &str) -> Result<Self, Fault> {
        let read = || {
            let (host, port) = text.rsplit_once(':')?;
            let port = Port::read(port)?;
            let Some(inner) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) else {
                let ip = IpAddr::V4(host.parse().ok()?);
                return Some(Endpoint { ip, scope: None, port });
            };
            let (ip, scope) = match inner.split_once('%') {
                Some((ip, scope)) => (ip, Some(scope.to_owned())),
                None => (inner, None),
            };
            Some(Endpoint { ip: IpAddr::V6(ip.parse().ok()?), scope, port })
        };
        let endpoint = read().ok_or_else(|| not_an_address(text))?;
        endpoint.check_scope(text).map(|()| endpoint)
    }

    /// Its numbers, without the interface; `None` while the port has a name.
    pub fn numbers(&self) -> Option<SocketAddr> {
        match self.port {
            Port::Number(port) => Some(SocketAddr::new(self.ip, port)),
            Port::Name(_) => None,
        }
    }

    fn check_scope(&self, text: &str) -> Result<(), Fault> {
        let IpAddr::V6(ip) = self.ip else { return Ok(()) };
        match (&self.scope, ip.is_unicast_link_local()) {
            (None, false) => Ok(()),
            (None, true) => {
                let example = Endpoint { scope: Some("eth0".to_owned()), ..self.clone() };
                Err(Fault::new(format_args!("{text:?} names no interface"))
                    .with_hint(format_args!(r#"add the one of the link, like "{example}""#)))
            }
            (Some(_), false) => Err(Fault::new(format_args!("{text:?} names an interface"))
                .with_hint("only a link-local address, of fe80::/10, has one")),
            (Some(scope), true) if is_interface(scope) => Ok(()),
            (Some(scope), true) => {
                Err(Fault::new(format_args!("{scope:?} is not the name of an interface")))
            }
        }
    }
}

/// Whether an interface may have this name.
pub(super) fn is_interface(name: &str) -> bool {
    (1..INTERFACE_NAME).contains(&name.len())
        && name.chars().all(|c| c.is_ascii_graphic() && c != '/' && c != ':')
}

impl Port {
    fn read(text: &str) -> Option<Port> {
        if is_port(text) {
            return text.parse().ok().map(Port::Number);
        }
        // RFC 6335, section 5.1; what is older may have an underscore.
        let is_name =
            |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+' | '/');
        (text.contains(is_letter) && text.chars().all(is_name)).then(|| Port::Name(text.to_owned()))
    }
}

fn is_letter(c: char) -> bool {
    c.is_ascii_alphabetic()
}

fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok()
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        let scope = match address {
            SocketAddr::V6(address) if address.scope_id() != 0 => {
                Some(address.scope_id().to_string())
            }
            _ => None,
        };
        Endpoint { ip: address.ip(), scope, port: Port::Number(address.port()) }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.ip, &self.scope) {
            (IpAddr::V4(ip), _) => write!(f, "{ip}:{}", self.port),
            (IpAddr::V6(ip), None) => write!(f, "[{ip}]:{}", self.port),
            (IpAddr::V6(ip), Some(scope)) => write!(f, "[{ip}%{scope}]:{}", self.port),
        }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Port::Number(number) => number.fmt(f),
            Port::Name(name) => name.fmt(f),
        }
    }
}

/// The fault of a text that is no address, with a hint for what it looks like.
fn not_an_address(text: &str) -> Fault {
    let fault = Fault::new(format_args!("{text:?} is not an address"));
    if let Some(hint) = meant::address(text) {
        return fault.with_hint(hint);
    }
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = bare.parse() {
        return fault
            .with_hint(format_args!(r#"add a port, like "{}""#, SocketAddr::new(ip, 7007)));
    }
    if let Some(path) = text.strip_prefix("unix:").filter(|path| path.starts_with('/')) {
        return fault.with_hint(format_args!("write the path alone, {path:?}"));
    }
    match text.rsplit_once(':') {
        Some(("" | "*", port)) => fault
            .with_hint(format_args!(r#"write "[::]:{port}" for every address of this machine"#)),
        Some((host, port)) if host.contains(is_letter) && is_port(port) => {
            fault.with_hint("write the IP address: names are not looked up")
        }
        _ => fault.with_hint(r#"write "IP:PORT", "/path", "@abstract" or "systemd:NAME""#),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_written_as_they_are_read() {
        for text in [
            "127.0.0.1:7007",
            "[::1]:7007",
            "0.0.0.0:0",
            "127.0.0.1:ssh",
            "[::]:iso-tsap",
            "[fe80::1%eth0]:22",
            "[fe80::1%2]:ssh",
        ] {
            assert_eq!(Endpoint::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_link_local_address_has_an_interface_and_no_other_has() {
        for (text, message) in [
            ("[fe80::1]:22", "\"[fe80::1]:22\" names no interface"),
            ("[2001:db8::1%eth0]:22", "\"[2001:db8::1%eth0]:22\" names an interface"),
            ("[fe80::1%]:22", "\"\" is not the name of an interface"),
            ("[fe80::1%a/b]:22", "\"a/b\" is not the name of an interface"),
            ("127.0.0.1%lo:22", "\"127.0.0.1%lo:22\" is not an address"),
            ("127.0.0.1:s h", "\"127.0.0.1:s h\" is not an address"),
        ] {
            assert_eq!(Endpoint::parse(text).unwrap_err().message, message);
        }
    }
}
