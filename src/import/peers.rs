//! `only_from` and `no_access` of xinetd, as lists of networks.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

/// The networks that this word means; None for a name, which only a look-up could tell.
pub fn networks(word: &str) -> Option<Vec<String>> {
    if word == "localhost" {
        return Some(vec!["127.0.0.1".to_owned(), "::1".to_owned()]);
    }
    if let Some((address, mask)) = word.split_once('/') {
        return masked(address, mask).map(|network| vec![network]);
    }
    if let Some((before, list)) = word.split_once('{') {
        return factorized(before, list.strip_suffix('}')?);
    }
    match word.parse().ok()? {
        IpAddr::V4(address) => Some(vec![with_wildcards(address)]),
        address @ IpAddr::V6(_) => Some(vec![address.to_string()]),
    }
}

/// `address/bits`, and `address/netmask`. What lies behind the mask does not count.
fn masked(address: &str, mask: &str) -> Option<String> {
    let address: IpAddr = address.parse().ok()?;
    let network = match (mask.parse(), mask.parse::<Ipv4Addr>(), address) {
        (Ok(bits), _, _) => IpNet::new(address, bits).ok()?,
        (Err(_), Ok(mask), IpAddr::V4(address)) => {
            IpNet::V4(Ipv4Net::with_netmask(address, mask).ok()?)
        }
        _ => return None,
    };
    Some(network.trunc().to_string())
}

/// An address in which the zeros at the end stand for anything.
fn with_wildcards(address: Ipv4Addr) -> String {
    let zeros = address.octets().iter().rev().take_while(|&&octet| octet == 0).count();
    match zeros {
        0 => address.to_string(),
        zeros => format!("{address}/{}", 8 * (4 - zeros)),
    }
}

/// `1.2.{3,4}`: each of these at the end of what stands before.
fn factorized(before: &str, list: &str) -> Option<Vec<String>> {
    let mut octets = Vec::new();
    for octet in before.strip_suffix('.')?.split('.') {
        octets.push(octet.parse::<u8>().ok()?);
    }
    let bits = 8 * (octets.len() + 1);
    let network = |last: &str| {
        let mut all = octets.clone();
        all.push(last.parse().ok()?);
        all.resize(4, 0);
        let [a, b, c, d] = all[..] else { return None };
        let address = Ipv4Addr::new(a, b, c, d);
        Some(if bits == 32 { address.to_string() } else { format!("{address}/{bits}") })
    };
    if bits > 32 {
        return None;
    }
    list.split(',').map(network).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_of_xinetd_is_a_list_of_networks() {
        let cases: [(&str, Option<&[&str]>); 18] = [
            ("127.0.0.1", Some(&["127.0.0.1"])),
            ("128.138.12.0", Some(&["128.138.12.0/24"])),
            ("10.0.0.0", Some(&["10.0.0.0/8"])),
            ("0.0.0.0", Some(&["0.0.0.0/0"])),
            ("192.168.1.77/24", Some(&["192.168.1.0/24"])),
            ("192.168.1.0/255.255.255.0", Some(&["192.168.1.0/24"])),
            ("1234::/46", Some(&["1234::/46"])),
            ("::1", Some(&["::1"])),
            ("128.138.{1,2}", Some(&["128.138.1.0/24", "128.138.2.0/24"])),
            ("128.138.12.{6,7}", Some(&["128.138.12.6", "128.138.12.7"])),
            ("localhost", Some(&["127.0.0.1", "::1"])),
            ("host.example", None),
            (".example", None),
            ("128.138", None),
            ("1.2.3.4.{5}", None),
            ("{5}", None),
            ("1.2.3.{400}", None),
            ("1.2.3.4/33", None),
        ];
        for (word, expected) in cases {
            let expected = expected.map(|list| list.iter().map(|it| (*it).to_owned()).collect());
            assert_eq!(networks(word), expected, "{word}");
        }
    }
}
