//! Addresses of which one holds the other: `0.0.0.0:80` and `127.0.0.1:80`.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use toml::Spanned;

use super::address::Address;
use super::diagnostics::Problem;
use super::listen::Listen;
use super::tables::Pool;

/// Addresses that lie in another address of the configuration: only one of the two can be
/// bound. They are looked for within one family, since whether `[::]` holds the addresses
/// of IPv4 is up to the machine.
pub(super) fn overlapping(pools: &[Pool]) -> Vec<Problem> {
    let all =
        || pools.iter().flat_map(|pool| pool.listen.iter().filter_map(move |it| one(pool, it)));
    let wide: HashMap<SocketAddr, &Pool> = all()
        .filter(|(address, ..)| address.ip().is_unspecified())
        .map(|(address, pool, _)| (address, pool))
        .collect();
    all()
        .filter(|(address, ..)| !address.ip().is_unspecified() && address.port() != 0)
        .filter_map(|(address, pool, listen)| {
            let around = SocketAddr::new(
                match address {
                    SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                    SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
                },
                address.port(),
            );
            let first = wide.get(&around)?;
            let message = format!(
                r#"address "{address}" is part of "{around}", which is that of pool {:?} in {}"#,
                first.name,
                first.place()
            );
            let hint = "use another port for one of them";
            Some(pool.problem("listen", listen.span(), message).with_hint(hint))
        })
        .collect()
}

/// An address of a pool, if it is one of IP.
fn one<'p>(
    pool: &'p Pool,
    listen: &'p Spanned<Listen>,
) -> Option<(SocketAddr, &'p Pool, &'p Spanned<Listen>)> {
    match &listen.get_ref().address {
        // Another interface is another address.
        Address::Inet(endpoint) if listen.get_ref().tcp.bind_device.is_none() => {
            Some((endpoint.numbers()?, pool, listen))
        }
        _ => None,
    }
}
