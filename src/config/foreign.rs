//! Keys of other servers, for those who move over.
#![forbid(unsafe_code)]

/// What xinetd calls a thing, and what it is here.
const OF_XINETD: [(&str, &str); 24] = [
    ("access_times", "there is no counterpart; see preforkd.toml(5)"),
    ("bind", "the address is in \"listen\""),
    ("cps", "it is \"rate\" here, as in \"50/s\""),
    ("disable", "a pool that is not to be is left out"),
    ("flags", "NAMEINARGS is \"service.exec.argv0\" here"),
    ("instances", "it is \"workers\" here"),
    ("interface", "the address is in \"listen\""),
    ("log_on_failure", "it is \"access_log\" here"),
    ("log_on_success", "it is \"access_log\" here"),
    ("no_access", "it is \"deny\" here"),
    ("only_from", "it is \"allow\" here"),
    ("passenv", "it is \"pass_env\" here"),
    ("port", "the port is in \"listen\""),
    ("protocol", "a pool serves streams alone; for UDP see systemd.socket(5)"),
    ("redirect", "for that see systemd-socket-proxyd(8)"),
    ("rlimit_as", "it is \"limits.as\" here"),
    ("rlimit_cpu", "it is \"limits.cpu\" here"),
    ("rlimit_data", "it is \"limits.data\" here"),
    ("rlimit_files", "it is \"limits.nofile\" here"),
    ("rlimit_stack", "it is \"limits.stack\" here"),
    ("server", "it is the first word of \"service.exec.command\" here"),
    ("server_args", "they are the further words of \"service.exec.command\" here"),
    ("socket_type", "a pool serves streams alone; for datagrams see systemd.socket(5)"),
    ("wait", "the worker accepts; for a program that does see systemd.socket(5)"),
];

/// What a key of another server is here.
pub(super) fn hint(key: &str) -> Option<&'static str> {
    OF_XINETD.iter().find(|(name, _)| *name == key).map(|(_, hint)| *hint)
}
