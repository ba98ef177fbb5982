//! Sources: which clients count as one.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::sys::socket::Peer;

/// How many bits of an address are those of its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefixes {
    /// Up to 32.
    pub ipv4: u8,
    /// Up to 128.
    pub ipv6: u8,
}

/// Where clients come from: an address, or the network of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    network: IpAddr,
    /// The link of a link-local address (sin6_scope_id of ipv6(7)), else 0.
    link: u32,
}

impl Source {
    /// The source of a peer in the form of [`Peer::canonical`]. A Unix socket has none.
    ///
    /// The network of a link-local address is every machine of the link, so that such an
    /// address is a source by itself.
    pub fn of(peer: Peer, prefixes: Prefixes) -> Option<Source> {
        let Peer::Internet(address) = peer else { return None };
        Some(match address {
            SocketAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(prefixes.ipv4.min(32))).unwrap_or(0);
                let network = u32::from(*address.ip()) & mask;
                Source { network: IpAddr::V4(network.into()), link: 0 }
            }
            SocketAddr::V6(address) if address.ip().is_unicast_link_local() => {
                Source { network: IpAddr::V6(*address.ip()), link: address.scope_id() }
            }
            SocketAddr::V6(address) => {
                let shift = 128 - u32::from(prefixes.ipv6.min(128));
                let network = u128::from(*address.ip()) & u128::MAX.checked_shl(shift).unwrap_or(0);
                Source { network: IpAddr::V6(Ipv6Addr::from(network)), link: 0 }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_counts_as_one() {
        let usual = Prefixes { ipv4: 32, ipv6: 64 };
        let wide = Prefixes { ipv4: 24, ipv6: 48 };
        let all = Prefixes { ipv4: 0, ipv6: 0 };
        let each = Prefixes { ipv4: 32, ipv6: 128 };
        for (prefixes, one, other, is_same) in [
            (usual, "192.0.2.1:1", "192.0.2.1:2", true),
            (usual, "192.0.2.1:1", "192.0.2.2:1", false),
            (wide, "192.0.2.1:1", "192.0.2.2:1", true),
            (wide, "192.0.2.1:1", "192.0.3.1:1", false),
            (all, "192.0.2.1:1", "203.0.113.1:1", true),
            (all, "192.0.2.1:1", "[2001:db8::1]:1", false),
            (usual, "[2001:db8::1]:1", "[2001:db8::ffff:0:0:1]:1", true),
            (usual, "[2001:db8::1]:1", "[2001:db8:0:1::1]:1", false),
            (wide, "[2001:db8::1]:1", "[2001:db8:0:1::1]:1", true),
            (each, "[2001:db8::1]:1", "[2001:db8::2]:1", false),
            // An IPv4 client of an IPv6 listener.
            (usual, "[::ffff:192.0.2.1]:1", "192.0.2.1:2", true),
            (usual, "[::ffff:192.0.2.1]:1", "[::ffff:192.0.2.2]:1", false),
            // Every neighbour has an address in fe80::/64.
            (usual, "[fe80::1%2]:1", "[fe80::1%2]:2", true),
            (usual, "[fe80::1%2]:1", "[fe80::2%2]:1", false),
            (usual, "[fe80::1%2]:1", "[fe80::1%3]:1", false),
        ] {
            let source = |text: &str| {
                Source::of(Peer::Internet(text.parse().unwrap()).canonical(), prefixes).unwrap()
            };
            assert_eq!(source(one) == source(other), is_same, "{one} {other} {prefixes:?}");
        }
        assert_eq!(Source::of(Peer::Unix, usual), None);
    }
}
