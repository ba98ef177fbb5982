//! What each attribute of xinetd becomes.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::net::IpAddr;

use toml::Value;

use super::draft::{Draft, Entry};
use super::inetd::internal;
use super::peers::networks;
use super::ports::Ports;
use super::xinetd::{Attribute, Block, Change};

/// The attributes of a service, those of the defaults included.
struct Attributes<'b>(BTreeMap<&'b str, Vec<&'b str>>);

/// What means nothing to us and is missed by nobody.
const OF_NO_MATTER: [&str; 6] = ["mdns", "log_type", "libwrap", "rpc_version", "rpc_number", "id"];

/// What is read elsewhere.
const READ: [&str; 19] = [
    "type",
    "flags",
    "disable",
    "enabled",
    "disabled",
    "socket_type",
    "protocol",
    "wait",
    "server",
    "server_args",
    "port",
    "bind",
    "interface",
    "user",
    "group",
    "instances",
    "only_from",
    "no_access",
    "env",
];

/// The entries of these blocks, with those of the defaults that concern them.
pub fn entries(blocks: &[Block], ports: &Ports<'_>) -> Vec<Entry> {
    let defaults: Vec<&Attribute> = blocks
        .iter()
        .filter(|block| block.service.is_none())
        .flat_map(|block| &block.attributes)
        .collect();
    let services = blocks.iter().filter_map(|block| Some((block.service.as_deref()?, block)));
    services.map(|(name, block)| entry(name, block, &defaults, ports)).collect()
}

impl<'b> Attributes<'b> {
    fn of(block: &'b Block, defaults: &[&'b Attribute]) -> Self {
        let mut all: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for attribute in defaults.iter().copied().chain(&block.attributes) {
            let values = all.entry(&attribute.name).or_default();
            let given = attribute.values.iter().map(String::as_str);
            match attribute.change {
                Change::Set => *values = given.collect(),
                Change::Add => values.extend(given),
                Change::Remove => {
                    let gone: Vec<_> = given.collect();
                    values.retain(|value| !gone.contains(value));
                }
            }
        }
        Attributes(all)
    }

    fn all(&self, name: &str) -> &[&'b str] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    fn first(&self, name: &str) -> Option<&'b str> {
        self.all(name).first().copied()
    }

    fn has(&self, name: &str, value: &str) -> bool {
        self.all(name).iter().any(|it| it.eq_ignore_ascii_case(value))
    }

    /// Why it is off in the original.
    fn off(&self, id: &str) -> Option<&'static str> {
        let is_enabled = !self.0.contains_key("enabled") || self.has("enabled", id);
        let is_disabled =
            self.has("disable", "yes") || self.has("flags", "DISABLE") || self.has("disabled", id);
        (is_disabled || !is_enabled).then_some("It is disabled there.")
    }

    /// Why no pool can do this.
    fn obstacle(&self) -> Option<&'static str> {
        let is_stream = self.first("socket_type").is_none_or(|it| it == "stream");
        if !is_stream || self.first("protocol").is_some_and(|it| it.starts_with("udp")) {
            return Some(
                "It is no stream. A .socket unit with ListenDatagram= and a .service unit of \
                 the same name do this, see systemd.socket(5).",
            );
        }
        if self.has("type", "RPC") {
            return Some("It registers with rpcbind. Start the program by a unit of its own.");
        }
        if self.has("type", "TCPMUX") || self.has("type", "TCPMUXPLUS") {
            return Some("There is no tcpmux. Give the service a port of its own.");
        }
        if self.has("flags", "SENSOR") {
            return Some("There is no sensor that denies whoever touches a port.");
        }
        if self.0.contains_key("redirect") {
            return Some("A redirection is a matter of systemd-socket-proxyd(8).");
        }
        self.has("wait", "yes").then_some(
            "The program accepts for itself. A .socket unit with Accept=no and a .service unit \
             of the same name do this, see systemd.socket(5).",
        )
    }
}

fn entry(service: &str, block: &Block, defaults: &[&Attribute], ports: &Ports<'_>) -> Entry {
    let attributes = Attributes::of(block, defaults);
    let id = attributes.first("id").unwrap_or(service);
    let nothing = |reason: &str| Entry::Nothing {
        title: format!("{}: {id}", block.place),
        reason: reason.to_owned(),
    };
    if let Some(reason) = attributes.off(id).or_else(|| attributes.obstacle()) {
        return nothing(reason);
    }
    let mut draft = Draft::new(id, &block.place);
    set_address(service, &attributes, ports, &mut draft);
    draft.workers(attributes.first("instances").and_then(|it| it.parse().ok()));
    set_peers(&attributes, &mut draft);
    set_fairness(&attributes, &mut draft);
    set_identity(&attributes, &mut draft);
    set_environment(&attributes, &mut draft);
    set_numbers(&attributes, &mut draft);
    if attributes.has("type", "INTERNAL") {
        if let Err(reason) = internal(service, &mut draft) {
            return nothing(&reason);
        }
    } else {
        set_program(&attributes, &mut draft);
    }
    note_others(&attributes, &mut draft);
    Entry::Pool(draft)
}

fn set_address(service: &str, attributes: &Attributes<'_>, ports: &Ports<'_>, draft: &mut Draft) {
    let port = attributes.first("port").unwrap_or(service);
    let port = ports.find(port).unwrap_or_else(|reason| {
        draft.hold(format!("{reason}."));
        0
    });
    let bound = attributes.first("bind").or_else(|| attributes.first("interface"));
    match (bound, bound.map(str::parse::<IpAddr>)) {
        (Some(_), Some(Ok(IpAddr::V4(ip)))) => draft.listen(format!("{ip}:{port}")),
        (Some(_), Some(Ok(IpAddr::V6(ip)))) => draft.listen(format!("[{ip}]:{port}")),
        (Some(name), _) => {
            draft.listen(format!("{name}:{port}"));
            draft.hold(format!("preforkd looks up no names. Write the address of {name:?}."));
        }
        (None, _) if attributes.has("flags", "IPv6") => draft.listen(format!("[::]:{port}")),
        (None, _) => draft.listen(format!("0.0.0.0:{port}")),
    }
}

/// Who may connect. A word that cannot be said here must open the pool to nobody else.
fn set_peers(attributes: &Attributes<'_>, draft: &mut Draft) {
    for (attribute, key) in [("only_from", "allow"), ("no_access", "deny")] {
        let Some(words) = attributes.0.get(attribute) else { continue };
        let mut list = Vec::new();
        for word in words {
            match networks(word) {
                Some(networks) => list.extend(networks),
                None if key == "allow" => draft.note(format!(
                    "only_from = {word}: preforkd looks up no names, so this one is not admitted. \
                     Write its addresses into allow."
                )),
                None => draft.hold(format!(
                    "no_access = {word}: preforkd looks up no names. Write its addresses into deny."
                )),
            }
        }
        // An empty list would admit everybody. Nobody comes to a port by a Unix socket.
        if list.is_empty() && key == "allow" {
            list.push("unix".to_owned());
            draft.note("Nobody is admitted.");
        }
        draft.set(key, list);
    }
    if attributes.0.contains_key("only_from") && attributes.0.contains_key("no_access") {
        draft.note(
            "In xinetd the narrower of only_from and no_access decides; here deny always does.",
        );
    }
}

fn set_fairness(attributes: &Attributes<'_>, draft: &mut Draft) {
    if let Some(most) = attributes.first("per_source").and_then(|it| it.parse::<i64>().ok()) {
        draft.set("per_source", most);
    }
    match attributes.all("cps") {
        // No limit.
        [] | ["0", ..] => {}
        [rate, ..] => draft.set("rate", format!("{rate}/s")),
    }
    // It has the client, the pid, the duration and the exit, and refusals with a reason.
    let is_logged =
        ["log_on_success", "log_on_failure"].iter().any(|it| !attributes.all(it).is_empty());
    if is_logged {
        draft.set("access_log", true);
    }
}

fn set_identity(attributes: &Attributes<'_>, draft: &mut Draft) {
    for key in ["user", "group"] {
        if let Some(name) = attributes.first(key) {
            draft.set(key, name);
        }
    }
    if let Some(mask) = attributes.first("umask") {
        draft.set("umask", format!("0{}", mask.trim_start_matches('0')));
    }
    if let Some(nice) = attributes.first("nice").and_then(|nice| nice.parse::<i64>().ok()) {
        draft.set("nice", nice.clamp(-20, 19));
    }
}

fn set_environment(attributes: &Attributes<'_>, draft: &mut Draft) {
    let pairs = attributes.all("env").iter().filter_map(|pair| pair.split_once('='));
    let table: toml::Table =
        pairs.map(|(name, value)| (name.to_owned(), Value::from(value))).collect();
    if !table.is_empty() {
        draft.set("env", table);
    }
    let passed = attributes.all("passenv");
    if !passed.is_empty() {
        draft.set("pass_env", passed.to_vec());
    }
}

/// Limits of resources.
fn set_numbers(attributes: &Attributes<'_>, draft: &mut Draft) {
    let limits = [
        ("rlimit_as", "limits.as"),
        ("rlimit_data", "limits.data"),
        ("rlimit_stack", "limits.stack"),
        ("rlimit_files", "limits.nofile"),
        ("rlimit_cpu", "limits.cpu"),
    ];
    for (attribute, key) in limits {
        let Some(given) = attributes.first(attribute) else { continue };
        if given.eq_ignore_ascii_case("UNLIMITED") {
            draft.set(key, "unlimited");
            continue;
        }
        let (digits, unit) = match given.strip_suffix(['K', 'k', 'M', 'm']) {
            Some(digits) if given.ends_with(['K', 'k']) => (digits, 1 << 10),
            Some(digits) => (digits, 1 << 20),
            None => (given, 1),
        };
        match digits.parse::<i64>().ok().and_then(|number| number.checked_mul(unit)) {
            Some(seconds) if key == "limits.cpu" => draft.set(key, format!("{seconds}s")),
            // A worker itself needs some.
            Some(files) if key == "limits.nofile" => draft.set(key, files.max(16)),
            Some(bytes) => draft.set(key, bytes),
            None => draft.note(format!("{attribute} = {given} is no number.")),
        }
    }
}

fn set_program(attributes: &Attributes<'_>, draft: &mut Draft) {
    let Some(server) = attributes.first("server") else {
        draft.hold("no server is named.");
        draft.command("/bin/false", None, &[]);
        return;
    };
    let arguments = attributes.all("server_args");
    match arguments {
        [name, arguments @ ..] if attributes.has("flags", "NAMEINARGS") => {
            draft.server(server, Some(name), arguments);
        }
        _ => draft.server(server, None, arguments),
    }
}

/// What has no counterpart, or one that depends.
fn note_others(attributes: &Attributes<'_>, draft: &mut Draft) {
    if attributes.has("flags", "NODELAY") {
        draft.note("flags = NODELAY: write listen as a table with nodelay = true.");
    }
    for (name, values) in &attributes.0 {
        let is_known = READ.contains(name)
            || OF_NO_MATTER.contains(name)
            || [
                "umask",
                "nice",
                "passenv",
                "per_source",
                "cps",
                "log_on_success",
                "log_on_failure",
            ]
            .contains(name)
            || (name.starts_with("rlimit_") && *name != "rlimit_rss");
        if !is_known {
            draft.note(format!("{name} = {}: no counterpart.", values.join(" ")));
        }
    }
}
