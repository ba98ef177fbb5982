//! Where a pool listens.
#![forbid(unsafe_code)]

use std::fmt;
use std::io;
use std::ops::Range;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use toml::Spanned;

use super::address::Address;
use super::endpoint::Port;
use super::fault::Fault;
use super::tcp::{Interface, Keepalive, Seconds, Tcp};
use super::units::{Mode, Name, Unit, Within, optional, plain, spanned};

/// Where the clients of a pool connect, each address with its place in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listens(Vec<Spanned<Listen>>);

impl Listens {
    /// The most of one pool.
    pub const MOST: usize = 64;

    /// All of them, in the order in which they are written.
    pub fn iter(&self) -> impl Iterator<Item = &Spanned<Listen>> {
        self.0.iter()
    }

    /// Puts the number in the place of each port that has a name, as `find` knows it. Gives
    /// the names that it does not know, each with its place.
    pub(super) fn number_ports(
        &mut self,
        find: impl Fn(&str) -> io::Result<u16>,
    ) -> Vec<(Range<usize>, String, io::Error)> {
        let mut unknown = Vec::new();
        for listen in &mut self.0 {
            let span = listen.span();
            let Address::Inet(endpoint) = &mut listen.get_mut().address else { continue };
            let Port::Name(name) = &endpoint.port else { continue };
            match find(name) {
                Ok(number) => endpoint.port = Port::Number(number),
                Err(error) => unknown.push((span, name.clone(), error)),
            }
        }
        separate_families(&mut self.0);
        unknown
    }

    /// What is said of this address.
    pub fn of(&self, address: &Address) -> Option<&Listen> {
        self.0.iter().map(Spanned::get_ref).find(|listen| listen.address == *address)
    }
}

impl<'de> Deserialize<'de> for Listens {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let read = Spanned::<OneOrMany>::deserialize(from)?;
        let span = read.span();
        let mut all = match read.into_inner() {
            OneOrMany::One(listen) => vec![Spanned::new(span, *listen)],
            OneOrMany::Many(all) => all,
        };
        separate_families(&mut all);
        Ok(Listens(all))
    }
}

/// The value of `listen`: an address, or a list of them.
enum OneOrMany {
    One(Box<Listen>),
    Many(Vec<Spanned<Listen>>),
}

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct FormVisitor;

        impl<'de> Visitor<'de> for FormVisitor {
            type Value = OneOrMany;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address, a table with one, or a list of them")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<OneOrMany, E> {
                ListenVisitor.visit_str(text).map(Box::new).map(OneOrMany::One)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<OneOrMany, A::Error> {
                ListenVisitor.visit_map(map).map(Box::new).map(OneOrMany::One)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<OneOrMany, A::Error> {
                let mut all: Vec<Spanned<Listen>> = Vec::new();
                while let Some(listen) = list.next_element()? {
                    all.push(listen);
                }
                check_count(&all).map(|()| OneOrMany::Many(all)).map_err(A::Error::custom)
            }
        }

        from.deserialize_any(FormVisitor)
    }
}

/// Where a list has an address of IPv4 and one of IPv6 with the same port, that of IPv6
/// leaves the clients over IPv4 to the other: the kernel lets no two listeners have them.
fn separate_families(all: &mut [Spanned<Listen>]) {
    let ports: Vec<Port> = all
        .iter()
        .filter_map(|listen| match &listen.get_ref().address {
            Address::Inet(endpoint) if endpoint.ip.is_ipv4() => Some(endpoint.port.clone()),
            _ => None,
        })
        .collect();
    for listen in all.iter_mut().map(Spanned::get_mut) {
        if let Address::Inet(endpoint) = &listen.address
            && endpoint.ip.is_ipv6()
            && ports.contains(&endpoint.port)
        {
            listen.tcp.ipv6_only.get_or_insert(true);
        }
    }
}

fn check_count(all: &[Spanned<Listen>]) -> Result<(), Fault> {
    if all.is_empty() {
        return Err(Fault::new("the list has no address"));
    }
    if all.len() > Listens::MOST {
        return Err(Fault::new(format_args!("the list has more than {} addresses", Listens::MOST)));
    }
    Ok(())
}

/// One address of a pool, and what its listener is to be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// The address that clients connect to.
    pub address: Address,
    /// How many connections may wait to be accepted, listen(2).
    pub backlog: u32,
    /// The user that owns the socket file; `None` is the daemon's own.
    pub owner: Option<Spanned<String>>,
    /// The group of the socket file; `None` is the daemon's own.
    pub group: Option<Spanned<String>>,
    /// The permission bits of the socket file.
    pub mode: u32,
    /// What a TCP listener has.
    pub tcp: Tcp,
}

impl Listen {
    const BACKLOG: u32 = 1024;
    const MODE: u32 = 0o660;
}

impl From<Address> for Listen {
    fn from(address: Address) -> Self {
        Listen {
            address,
            backlog: Listen::BACKLOG,
            owner: None,
            group: None,
            mode: Listen::MODE,
            tcp: Tcp::default(),
        }
    }
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(ListenVisitor)
    }
}

struct ListenVisitor;

impl<'de> Visitor<'de> for ListenVisitor {
    type Value = Listen;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an address or a table with one")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Listen, E> {
        Address::text(text).map(Listen::from).map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Listen, A::Error> {
        ListenTable::deserialize(MapAccessDeserializer::new(map))?.check().map_err(A::Error::custom)
    }
}

/// `listen` as a table. An absent key differs from a key with the default value.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListenTable {
    #[serde(deserialize_with = "plain::<Address, _>")]
    address: Address,
    // The kernel cuts a larger one to net.core.somaxconn without a word.
    #[serde(default, deserialize_with = "optional::<Within<u32, 1, 65535>, _>")]
    backlog: Option<u32>,
    #[serde(default, deserialize_with = "spanned::<Name, _>")]
    owner: Option<Spanned<String>>,
    #[serde(default, deserialize_with = "spanned::<Name, _>")]
    group: Option<Spanned<String>>,
    #[serde(default, deserialize_with = "optional::<Mode, _>")]
    mode: Option<u32>,
    #[serde(default, deserialize_with = "optional::<Interface, _>")]
    bind_device: Option<String>,
    nodelay: Option<bool>,
    keepalive: Option<Keepalive>,
    ipv6_only: Option<bool>,
    freebind: Option<bool>,
    #[serde(default, deserialize_with = "optional::<Seconds, _>")]
    defer_accept: Option<u32>,
}

impl ListenTable {
    fn check(self) -> Result<Listen, Fault> {
        match &self.address {
            Address::Path(_) => self.refuse_tcp("only a TCP address has one")?,
            Address::Abstract(_) => {
                self.refuse_file()?;
                self.refuse_tcp("only a TCP address has one")?;
            }
            Address::Inet(endpoint) => {
                self.refuse_file()?;
                if endpoint.ip.is_ipv4() && self.ipv6_only.is_some() {
                    return Err(self.has_no("ipv6_only").with_hint("only an IPv6 address has one"));
                }
            }
            Address::Systemd(_) => {
                self.refuse_file()?;
                self.refuse_tcp("set it in the socket unit, see systemd.socket(5)")?;
            }
        }
        Ok(Listen {
            address: self.address,
            backlog: self.backlog.unwrap_or(Listen::BACKLOG),
            owner: self.owner,
            group: self.group,
            mode: self.mode.unwrap_or(Listen::MODE),
            tcp: Tcp {
                bind_device: self.bind_device,
                nodelay: self.nodelay.unwrap_or_default(),
                keepalive: self.keepalive.unwrap_or_default(),
                ipv6_only: self.ipv6_only,
                freebind: self.freebind.unwrap_or_default(),
                defer_accept: self.defer_accept,
            },
        })
    }

    fn refuse_file(&self) -> Result<(), Fault> {
        let keys = [
            ("owner", self.owner.is_some()),
            ("group", self.group.is_some()),
            ("mode", self.mode.is_some()),
        ];
        self.refuse(&keys, "only a socket that is a file has one")
    }

    fn refuse_tcp(&self, hint: &str) -> Result<(), Fault> {
        let keys = [
            ("bind_device", self.bind_device.is_some()),
            ("nodelay", self.nodelay.is_some()),
            ("keepalive", self.keepalive.is_some()),
            ("ipv6_only", self.ipv6_only.is_some()),
            ("freebind", self.freebind.is_some()),
            ("defer_accept", self.defer_accept.is_some()),
        ];
        self.refuse(&keys, hint)
    }

    fn refuse(&self, keys: &[(&str, bool)], hint: &str) -> Result<(), Fault> {
        match keys.iter().find(|(_, is_present)| *is_present) {
            Some((key, _)) => Err(self.has_no(key).with_hint(hint)),
            None => Ok(()),
        }
    }

    fn has_no(&self, key: &str) -> Fault {
        Fault::new(format_args!(r#"address "{}" has no {key}"#, self.address)).at(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(address: &str, line: &str) -> Fault {
        let text = format!("address = \"{address}\"\n{line}\n");
        toml::from_str::<ListenTable>(&text).unwrap().check().unwrap_err()
    }

    #[test]
    fn only_a_tcp_address_of_ours_has_the_options_of_tcp() {
        for (address, hint) in [
            ("/run/a", "only a TCP address has one"),
            ("@a", "only a TCP address has one"),
            ("systemd:a", "set it in the socket unit, see systemd.socket(5)"),
        ] {
            for (key, value) in [
                ("bind_device", "\"lo\""),
                ("nodelay", "false"),
                ("keepalive", "{}"),
                ("ipv6_only", "true"),
                ("freebind", "true"),
                ("defer_accept", "\"5s\""),
            ] {
                let fault = refused(address, &format!("{key} = {value}"));
                assert_eq!(fault.message, format!("address \"{address}\" has no {key}"));
                assert_eq!((fault.key.as_deref(), fault.hint.as_deref()), (Some(key), Some(hint)));
            }
        }
        let fault = refused("127.0.0.1:1", "ipv6_only = false");
        assert_eq!(fault.message, "address \"127.0.0.1:1\" has no ipv6_only");
    }

    #[test]
    fn only_a_file_has_an_owner_and_a_mode() {
        for address in ["127.0.0.1:1", "@a", "systemd:a"] {
            for key in ["owner", "group", "mode"] {
                let error = refused(address, &format!("{key} = \"0600\""));
                assert_eq!(error.message, format!("address \"{address}\" has no {key}"));
                assert_eq!(error.key.as_deref(), Some(key));
            }
        }
    }
}
