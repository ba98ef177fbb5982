//! inetd.conf: a service a line.
#![forbid(unsafe_code)]

use std::net::IpAddr;

use crate::config::{Problem, Source};

use super::draft::{Draft, Entry};
use super::ports::Ports;

/// Every address of the machine, as inetd writes it.
const ANY: &str = "*";

/// A line of the file, as its words.
struct Line<'t> {
    number: usize,
    /// The name of the service, without the addresses.
    service: &'t str,
    /// The addresses, separated by commas.
    hosts: &'t str,
    socket: &'t str,
    protocol: &'t str,
    wait: &'t str,
    user: &'t str,
    program: &'t str,
    /// The name of the program, and its arguments.
    arguments: Vec<&'t str>,
}

/// The entries of a file; adds to `problems` what cannot be understood.
pub fn read(source: &Source, ports: &Ports<'_>, problems: &mut Vec<Problem>) -> Vec<Entry> {
    let (mut entries, mut hosts) = (Vec::new(), ANY);
    for (number, words) in lines(source.text()) {
        // A line with an address alone is for those below it.
        if let ([word], Some(given)) = (&words[..], words[0].strip_suffix(':')) {
            hosts = if word.len() > 1 { given } else { ANY };
            continue;
        }
        match Line::parse(number, &words, hosts) {
            Ok(line) => entries.push(entry(&line, source, ports)),
            Err(message) => {
                let start = offset(source.text(), words[0]);
                problems.push(source.problem("", start..start + words[0].len(), message));
            }
        }
    }
    entries
}

/// The words of each line that is no comment. A line that begins with a blank goes on with
/// the one before.
fn lines(text: &str) -> Vec<(usize, Vec<&str>)> {
    let mut found: Vec<(usize, Vec<&str>)> = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let goes_on = line.starts_with([' ', '\t']);
        let words = line.split_whitespace();
        if line.trim_start().starts_with('#') || line.trim().is_empty() {
            continue;
        }
        match found.last_mut() {
            Some((_, before)) if goes_on => before.extend(words),
            _ => found.push((at + 1, words.collect())),
        }
    }
    found
}

/// Where `part` stands in `text`, of which it is a slice.
fn offset(text: &str, part: &str) -> usize {
    (part.as_ptr() as usize).saturating_sub(text.as_ptr() as usize)
}

impl<'t> Line<'t> {
    fn parse(number: usize, words: &[&'t str], hosts: &'t str) -> Result<Self, String> {
        let [name, socket, protocol, wait, user, program, arguments @ ..] = words else {
            return Err(format!(
                "a service has at least 6 fields, and this line has {}",
                words.len()
            ));
        };
        if !wait.starts_with("wait") && !wait.starts_with("nowait") {
            return Err(format!("the fourth field is {wait:?}, not \"wait\" or \"nowait\""));
        }
        let is_path = protocol.starts_with("unix");
        let (hosts, service) = match name.rsplit_once(':') {
            Some((hosts, service)) if !is_path => (hosts, service),
            _ => (hosts, *name),
        };
        let arguments = arguments.to_vec();
        Ok(Line { number, service, hosts, socket, protocol, wait, user, program, arguments })
    }

    /// Why no pool can do this.
    fn obstacle(&self) -> Option<&'static str> {
        let protocol = self.protocol.split(',').next().unwrap_or_default();
        if protocol.contains("udp") || self.socket != "stream" {
            return Some(
                "It is no stream. A .socket unit with ListenDatagram= and a .service unit of \
                 the same name do this, see systemd.socket(5).",
            );
        }
        if protocol.starts_with("rpc") {
            return Some("It registers with rpcbind. Start the program by a unit of its own.");
        }
        if self.service.starts_with("tcpmux/") {
            return Some("There is no tcpmux. Give the service a port of its own.");
        }
        // The program accepts by itself.
        self.wait.starts_with("wait").then_some(
            "The program accepts for itself. A .socket unit with Accept=no and a .service unit \
             of the same name do this, see systemd.socket(5).",
        )
    }
}

fn entry(line: &Line<'_>, source: &Source, ports: &Ports<'_>) -> Entry {
    let place = format!("{}:{}", source.path().display(), line.number);
    if let Some(reason) = line.obstacle() {
        let title = format!("{place}: {} over {}", line.service, line.protocol);
        return Entry::Nothing { title, reason: reason.to_owned() };
    }
    let mut draft = Draft::new(line.service, &place);
    set_addresses(line, ports, &mut draft);
    draft.workers(None);
    if line.program == "internal" {
        return match internal(line.service, &mut draft) {
            Ok(()) => Entry::Pool(draft),
            Err(reason) => {
                let title = format!("{place}: {} of inetd itself", line.service);
                Entry::Nothing { title, reason }
            }
        };
    }
    set_user(line.user, &mut draft);
    let (name, arguments) = match &line.arguments[..] {
        [name, arguments @ ..] => (Some(*name), arguments),
        [] => (None, &[][..]),
    };
    draft.server(line.program, name, arguments);
    if let Some(most) = line.wait.split_once(['.', ':', '/']).map(|(_, most)| most) {
        set_rate(most, &mut draft);
    }
    if let Some((_, buffers)) = line.protocol.split_once(',') {
        draft.note(format!("{buffers}: preforkd leaves the size of the buffers to the kernel."));
    }
    Entry::Pool(draft)
}

/// What inetd and xinetd do themselves.
///
/// # Errors
///
/// Nothing here does it, for this reason.
pub fn internal(service: &str, draft: &mut Draft) -> Result<(), String> {
    match service {
        "echo" => draft.set("service", "echo"),
        "discard" => draft.command("/bin/sh", None, &["-c", "exec cat >/dev/null"]),
        "daytime" => draft.command("/bin/date", None, &[]),
        "chargen" => {
            let script = "while printf '%s\\r\\n' 'the quick brown fox'; do :; done";
            draft.command("/bin/sh", None, &["-c", script]);
            draft.note("The lines are others than those of RFC 864.");
        }
        _ => return Err("No service of preforkd and no usual program does this.".to_owned()),
    }
    Ok(())
}

fn set_addresses(line: &Line<'_>, ports: &Ports<'_>, draft: &mut Draft) {
    if line.protocol.starts_with("unix") {
        draft.listen(line.service.to_owned());
        if !line.service.starts_with('/') {
            draft.hold("the path of the socket is not absolute.");
        }
        return;
    }
    let port = ports.find(line.service).unwrap_or_else(|reason| {
        draft.hold(format!("{reason}."));
        0
    });
    let protocol = line.protocol.split(',').next().unwrap_or_default();
    for host in line.hosts.split(',') {
        match (host, host.trim_matches(['[', ']']).parse::<IpAddr>()) {
            (ANY | "", _) => draft.listen(match protocol {
                "tcp4" => format!("0.0.0.0:{port}"),
                _ => format!("[::]:{port}"),
            }),
            (_, Ok(IpAddr::V4(ip))) => draft.listen(format!("{ip}:{port}")),
            (_, Ok(IpAddr::V6(ip))) => draft.listen(format!("[{ip}]:{port}")),
            (name, Err(_)) => {
                draft.listen(format!("{name}:{port}"));
                draft.hold(format!("preforkd looks up no names. Write the address of {name:?}."));
            }
        }
    }
    if protocol == "tcp6" {
        draft.note(
            "The original accepts IPv6 alone; this accepts IPv4, too, unless listen has ipv6_only.",
        );
    }
}

/// How often a service may be started in a minute, and behind that what only FreeBSD has.
fn set_rate(most: &str, draft: &mut Draft) {
    let (most, others) = most.split_once(['.', ':', '/']).unwrap_or((most, ""));
    match most.parse::<u32>() {
        Ok(0) => {}
        Ok(most) => draft.set("rate", format!("{most}/m")),
        Err(_) => draft.note(format!("{most:?} is no number of starts in a minute.")),
    }
    if !others.is_empty() {
        draft.note(format!("{others}: see per_source."));
    }
}

/// `user`, `user:group`, `user.group`, and behind a slash a login class, which Linux has not.
fn set_user(field: &str, draft: &mut Draft) {
    let names = field.split('/').next().unwrap_or_default();
    let (user, group) = match names.split_once(':').or_else(|| names.split_once('.')) {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (names, None),
    };
    if user.is_empty() {
        draft.hold("no user is named.");
    }
    draft.set("user", user);
    if let Some(group) = group {
        draft.set("group", group);
    }
}
