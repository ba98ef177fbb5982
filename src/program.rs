//! The program that this process is: `preforkd`, or one that embeds it.
//!
//! Its name stands in the default paths, on the command line and in the journal. It is
//! set once, before anything else is done, and never changes: so it is known everywhere
//! and handed on nowhere, as the name in syslog(3) is.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::sync::OnceLock;

/// A program by its name and its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its name, which is fit for a path: see [`is_name`].
    pub name: &'static str,
    /// Its version, as `--version` tells it.
    pub version: &'static str,
}

/// The daemon itself.
pub const PREFORKD: Program = Program { name: "preforkd", version: env!("CARGO_PKG_VERSION") };

static THIS: OnceLock<Program> = OnceLock::new();

impl Program {
    /// Makes it the program of this process. The first one stays.
    pub fn settle(self) {
        THIS.get_or_init(|| self);
    }
}

/// The program of this process.
pub fn this() -> Program {
    THIS.get().copied().unwrap_or(PREFORKD)
}

/// The name of the program of this process.
pub fn name() -> &'static str {
    this().name
}

/// Whether a program can have this name: 1 to 64 characters from A-Z a-z 0-9 _ - and,
/// inside, the dot.
pub fn is_name(name: &str) -> bool {
    let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    (1..=64).contains(&name.len()) && name.bytes().all(is_fit) && !name.starts_with('.')
}

/// Where its configuration is.
pub fn config_file() -> &'static str {
    // clap wants a text that lives for ever.
    static PATH: OnceLock<String> = OnceLock::new();
    PATH.get_or_init(|| format!("/etc/{0}/{0}.toml", name()))
}

/// Where its control socket is.
pub fn control() -> PathBuf {
    PathBuf::from(format!("/run/{}/control.sock", name()))
}

/// Where it keeps its pid when it detaches.
pub fn pid_file() -> PathBuf {
    PathBuf::from(format!("/run/{0}/{0}.pid", name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_fit_for_a_path() {
        for name in ["kv", "a", "my-kv_2", "kv.d"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "a b", "../etc", "a/b", ".kv", "k\0v", "kü", &"a".repeat(65)] {
            assert!(!is_name(name), "{name:?}");
        }
    }

    #[test]
    fn the_paths_have_the_name() {
        assert_eq!(config_file(), "/etc/preforkd/preforkd.toml");
        assert_eq!(control(), PathBuf::from("/run/preforkd/control.sock"));
        assert_eq!(pid_file(), PathBuf::from("/run/preforkd/preforkd.pid"));
    }
}
