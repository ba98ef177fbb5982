//! Addresses that a pool listens on.
#![forbid(unsafe_code)]

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::endpoint::Endpoint;
use super::fault::Fault;
use super::units::{AbsolutePath, Unit};

/// The size of `sun_path`, unix(7): a path needs a NUL behind it, and an abstract
/// name a NUL before it.
const SUN_PATH: usize = 108;

/// The address of a listener. It displays itself as the user writes it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// `"127.0.0.1:7007"`, `"[fe80::1%eth0]:ssh"`.
    Inet(Endpoint),
    /// `"/run/echo.sock"`: absolute, short enough for a socket.
    Path(PathBuf),
    /// `"@echo"`: a name in the abstract namespace, here without its `@`.
    Abstract(String),
    /// `"systemd:echo"`: a socket of that FileDescriptorName= from the service manager.
    Systemd(String),
}

impl FromStr for Address {
    type Err = Fault;

    fn from_str(text: &str) -> Result<Self, Fault> {
        if text.contains('\0') {
            return Err(Fault::new(format_args!("{text:?} holds a NUL")));
        }
        if let Some(name) = text.strip_prefix('@') {
            return socket_name(text, name).map(|()| Address::Abstract(name.to_owned()));
        }
        if text.starts_with('/') {
            return socket_name(text, text).map(|()| Address::Path(PathBuf::from(text)));
        }
        if let Some(name) = text.strip_prefix("systemd:") {
            // sd_listen_fds_with_names(3): ASCII without control characters and colons.
            if name.is_empty() || !name.chars().all(|c| c.is_ascii_graphic() && c != ':') {
                return Err(Fault::new(format_args!("{text:?} names no socket"))
                    .with_hint("write systemd: and the FileDescriptorName= of the socket unit"));
            }
            return Ok(Address::Systemd(name.to_owned()));
        }
        Endpoint::parse(text).map(Address::Inet)
    }
}

/// Checks that `name`, written as `text`, fits into a Unix socket address.
fn socket_name(text: &str, name: &str) -> Result<(), Fault> {
    if name.is_empty() || name == "/" {
        Err(Fault::new(format_args!("{text:?} names no socket")))
    } else if name.len() >= SUN_PATH {
        let message = format!("{text:?} is longer than the {} bytes of a socket", SUN_PATH - 1);
        Err(Fault::new(message))
    } else {
        Ok(())
    }
}

/// The path of a Unix socket.
pub(super) struct SocketPath;

impl Unit for SocketPath {
    type Value = PathBuf;

    fn expected(f: &mut fmt::Formatter<'_>) -> fmt::Result {
        AbsolutePath::expected(f)
    }

    fn text(text: &str) -> Result<PathBuf, Fault> {
        let path = AbsolutePath::text(text)?;
        socket_name(text, text).map(|()| path)
    }
}

impl Unit for Address {
    type Value = Address;

    fn expected(f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an address")
    }

    fn text(text: &str) -> Result<Address, Fault> {
        text.parse()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Inet(address) => address.fmt(f),
            Address::Path(path) => path.display().fmt(f),
            Address::Abstract(name) => write!(f, "@{name}"),
            Address::Systemd(name) => write!(f, "systemd:{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_they_are_read() {
        for text in
            ["127.0.0.1:7007", "[fe80::1%eth0]:ssh", "/run/echo.sock", "@echo", "systemd:echo"]
        {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
        }
        assert!(format!("/{}", "x".repeat(106)).parse::<Address>().is_ok());
        assert!(format!("@{}", "x".repeat(107)).parse::<Address>().is_ok());
    }

    #[test]
    fn wrong_addresses_get_a_hint_for_what_is_meant() {
        let long = format!("/{}", "x".repeat(107));
        let long_told = format!("\"{long}\" is longer than the 107 bytes of a socket");
        let forms = "write \"IP:PORT\", \"/path\", \"@abstract\" or \"systemd:NAME\"";
        let cases = [
            (
                "127.0.0.1",
                "\"127.0.0.1\" is not an address",
                Some("add a port, like \"127.0.0.1:7007\""),
            ),
            ("::1", "\"::1\" is not an address", Some("add a port, like \"[::1]:7007\"")),
            ("[::1]", "\"[::1]\" is not an address", Some("add a port, like \"[::1]:7007\"")),
            (
                "*:80",
                "\"*:80\" is not an address",
                Some("write \"[::]:80\" for every address of this machine"),
            ),
            (
                ":80",
                "\":80\" is not an address",
                Some("write \"[::]:80\" for every address of this machine"),
            ),
            (
                "localhost:80",
                "\"localhost:80\" is not an address",
                Some("write the IP address: names are not looked up"),
            ),
            ("unix:/x", "\"unix:/x\" is not an address", Some("write the path alone, \"/x\"")),
            (
                "127.0.0.1:65536",
                "\"127.0.0.1:65536\" is not an address",
                Some("a port is a number from 1 to 65535"),
            ),
            (
                "[::1]:70070",
                "\"[::1]:70070\" is not an address",
                Some("a port is a number from 1 to 65535"),
            ),
            ("::1:7007", "\"::1:7007\" is not an address", Some("write \"[::1]:7007\"")),
            (
                "2001:db8::1:80",
                "\"2001:db8::1:80\" is not an address",
                Some("write \"[2001:db8::1]:80\""),
            ),
            (
                "2001:db8::1:2",
                "\"2001:db8::1:2\" is not an address",
                Some("add a port, like \"[2001:db8::1:2]:7007\""),
            ),
            ("localhost:70070", "\"localhost:70070\" is not an address", Some(forms)),
            ("echo.sock", "\"echo.sock\" is not an address", Some(forms)),
            ("", "\"\" is not an address", Some(forms)),
            ("@", "\"@\" names no socket", None),
            ("/", "\"/\" names no socket", None),
            ("@a\0", "\"@a\\0\" holds a NUL", None),
            (
                "systemd:",
                "\"systemd:\" names no socket",
                Some("write systemd: and the FileDescriptorName= of the socket unit"),
            ),
            (&long, &long_told, None),
        ];
        for (text, message, hint) in cases {
            let fault = text.parse::<Address>().unwrap_err();
            assert_eq!((fault.message.as_str(), fault.hint.as_deref()), (message, hint));
        }
    }
}
