//! Who may connect: `allow` and `deny`.
#![forbid(unsafe_code)]

use crate::config::Peers;
use crate::service::Peer;

/// Why a client is not served, named after the key that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is not in the list.
    Allow,
    /// It is in the list.
    Deny,
    /// Its source has as many connections as it may have.
    PerSource,
    /// Connections of its source begin too often.
    SourceRate,
    /// Connections begin too often.
    Rate,
}

impl Refusal {
    /// The key.
    pub fn as_str(self) -> &'static str {
        match self {
            Refusal::Allow => "allow",
            Refusal::Deny => "deny",
            Refusal::PerSource => "per_source",
            Refusal::SourceRate => "per_source.rate",
            Refusal::Rate => "rate",
        }
    }
}

/// Which of the two lists refuses a client. `deny` is stronger than `allow`; an empty
/// `allow` allows everybody.
///
/// An IPv4 client of an IPv6 listener, ::ffff:192.0.2.1, is in the networks of
/// either form: who denies ::/0 means everybody who comes to that socket.
pub fn refuses(allow: &[Peers], deny: &[Peers], peer: Peer) -> Option<Refusal> {
    let among = |list: &[Peers]| {
        list.iter().any(|entry| match (entry, peer) {
            (Peers::Net(network), Peer::Internet(peer)) => {
                [peer.ip(), peer.ip().to_canonical()].iter().any(|ip| network.contains(ip))
            }
            (Peers::Unix, Peer::Unix) => true,
            (Peers::Net(_), Peer::Unix) | (Peers::Unix, Peer::Internet(_)) => false,
        })
    };
    if among(deny) {
        Some(Refusal::Deny)
    } else if allow.is_empty() || among(allow) {
        None
    } else {
        Some(Refusal::Allow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(list: &[&str]) -> Vec<Peers> {
        list.iter()
            .map(|text| match *text {
                "unix" => Peers::Unix,
                network => Peers::Net(network.parse().unwrap()),
            })
            .collect()
    }

    #[test]
    fn deny_is_stronger_than_allow_and_no_list_allows_all() {
        let cases: [(&[&str], &[&str], &str, bool); 18] = [
            (&[], &[], "192.0.2.1:1", true),
            (&[], &[], "", true),
            (&["192.0.2.0/24"], &[], "192.0.2.1:1", true),
            (&["192.0.2.0/24"], &[], "192.0.3.1:1", false),
            (&["192.0.2.0/24"], &["192.0.2.1/32"], "192.0.2.1:1", false),
            (&[], &["192.0.2.1/32"], "192.0.2.2:1", true),
            (&["2001:db8::/32"], &[], "[2001:db8::1]:1", true),
            (&["2001:db8::/32"], &[], "192.0.2.1:1", false),
            (&["192.0.2.0/24"], &[], "[::ffff:192.0.2.1]:1", true),
            (&[], &["192.0.2.1/32"], "[::ffff:192.0.2.1]:1", false),
            (&[], &["::/0"], "[::ffff:192.0.2.1]:1", false),
            (&[], &["::/64"], "[::ffff:192.0.2.1]:1", false),
            (&["::/0"], &[], "[::ffff:192.0.2.1]:1", true),
            (&[], &["2000::/3"], "[::ffff:192.0.2.1]:1", true),
            (&[], &["::/0"], "192.0.2.1:1", true),
            (&["192.0.2.0/24"], &[], "", false),
            (&["unix"], &[], "", true),
            (&[], &["unix"], "", false),
        ];
        for (allow, deny, peer, admitted) in cases {
            let from = peer.parse().map_or(Peer::Unix, Peer::Internet);
            assert_eq!(
                refuses(&nets(allow), &nets(deny), from).is_none(),
                admitted,
                "{allow:?} {deny:?} {peer}"
            );
        }
    }
}
