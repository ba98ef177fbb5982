//! The most likely meaning of an impossible entry: a hint for each slip that people make.
//! `tests/hints.rs` has the list of them.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use toml::de::{DeTable, DeValue};

/// The options of services that are written among the keys of a pool.
const OPTIONS: [&str; 2] = ["command", "stderr"];

/// A hint for the unknown key `key`, whose value is `value`. The keys `parent` lead to the
/// table that it stands in, which is `table` where that is the one being read.
pub(super) fn unknown_key(
    parent: &str,
    key: &str,
    value: &DeValue<'_>,
    table: &DeTable<'_>,
) -> Option<String> {
    if key == "include" && !parent.is_empty() {
        return Some("move \"include\" to the top of the file, above the first table".to_owned());
    }
    if parent.is_empty() {
        return pool_table(key, value);
    }
    let is_pool = parent.starts_with("pool.") && !parent[5..].contains('.');
    if is_pool && OPTIONS.contains(&key) {
        let instead = match table.get("service").and_then(|service| service.get_ref().as_str()) {
            Some(name) => format!(" in place of service = {name:?}"),
            None => String::new(),
        };
        return Some(format!("write service.exec.{key}{instead}"));
    }
    None
}

/// A hint for a table at the top of a file that is most likely a pool.
pub(super) fn pool_table(key: &str, value: &DeValue<'_>) -> Option<String> {
    let keys = |table: &DeTable<'_>| ["listen", "service"].iter().any(|it| table.contains_key(*it));
    let is_pool = match value {
        DeValue::Table(table) => keys(table),
        DeValue::Array(items) => {
            items.iter().any(|item| item.get_ref().as_table().is_some_and(keys))
        }
        _ => false,
    };
    is_pool.then(|| format!("a pool begins with [pool.{key}]"))
}

/// A hint for the value of `key` that is not `expected`.
pub(super) fn value(key: &str, expected: &str, value: &DeValue<'_>) -> Option<String> {
    match (expected, value) {
        ("a list", DeValue::String(text)) if key.ends_with(".command") => {
            Some(format!("write {}", command(text, &[])))
        }
        ("a list", DeValue::String(text)) => Some(format!("write [{:?}]", text.as_ref())),
        ("a table", DeValue::Array(items)) if items.iter().all(|it| it.get_ref().is_table()) => {
            match key {
                "pool" => Some("write [pool.NAME], with a name for the pool".to_owned()),
                key => Some(format!("write [{key}], with one pair of brackets")),
            }
        }
        _ => None,
    }
}

/// How a command is written whose first words were written together.
pub fn command(together: &str, rest: &[String]) -> String {
    if rest.is_empty() && together.contains(['|', '&', ';', '<', '>', '$', '*', '"', '\'']) {
        return format!("[\"/bin/sh\", \"-c\", {together:?}]");
    }
    let rest = rest.iter().map(String::as_str);
    format!("{:?}", together.split_whitespace().chain(rest).collect::<Vec<_>>())
}

/// A hint for the name of a service that does not exist.
pub fn service(name: &str, known: &[String]) -> String {
    if name.contains('/') || name.contains(char::is_whitespace) {
        return format!("to run a program, write service.exec.command = {}", command(name, &[]));
    }
    let known_names: Vec<_> = known.iter().map(|known| format!("{known:?}")).collect();
    let list = format!("the services are {}", known_names.join(", "));
    match super::wording::nearest(name, known) {
        Some(nearest) => format!("did you mean {nearest:?}? {list}"),
        None => list,
    }
}

/// A hint for a text that is no address and looks like one with an IP address in it.
pub(super) fn address(text: &str) -> Option<String> {
    let (host, port) = text.rsplit_once(':')?;
    let is_number = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_host = matches!(host, "" | "*") || bracketed.unwrap_or(host).parse::<IpAddr>().is_ok();
    if !is_number || !is_host {
        return None;
    }
    match (port.parse::<u16>(), host.parse::<Ipv6Addr>()) {
        // One digit may as well be the end of the address.
        (Ok(port), Ok(ip)) if port > 9 => {
            Some(format!("write \"{}\"", SocketAddr::new(ip.into(), port)))
        }
        (Err(_), _) => Some("a port is a number from 1 to 65535".to_owned()),
        (Ok(_), _) => None,
    }
}
