//! The program that this process is: `preforkd`, or one that embeds it.
//!
//! The name of the program stands in the default paths, on the command line and in the
//! journal. The name is set once, before anything else, and never changes. So any code may
//! ask for it, and no function passes it on, as with the name in syslog(3).
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// A program by its name and its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its name, which can stand in a path: see [`is_name`].
    pub name: &'static str,
    /// Its version, as in `--version`.
    pub version: &'static str,
}

/// The daemon itself.
pub const PREFORKD: Program = Program { name: "preforkd", version: env!("CARGO_PKG_VERSION") };

static THIS: OnceLock<Program> = OnceLock::new();

impl Program {
    /// Makes this the program of the process. The first program stays.
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

/// The default path of its configuration.
pub fn config_file() -> &'static str {
    // clap needs a 'static text.
    static PATH: OnceLock<String> = OnceLock::new();
    PATH.get_or_init(|| format!("/etc/{0}/{0}.toml", name()))
}

/// Where the control socket of a daemon is, by the file of its configuration: in the runtime
/// directory of preforkd@NAME.service for /etc/preforkd/NAME.toml, else of preforkd.service.
pub fn control(file: &Path) -> PathBuf {
    let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let folder = format!("/etc/{}", name());
    let instance = file.strip_prefix(folder).ok().and_then(Path::to_str);
    let instance = instance.and_then(|file| file.strip_suffix(".toml"));
    match instance.filter(|instance| *instance != name() && !instance.contains('/')) {
        Some(instance) => PathBuf::from(format!("/run/{}-{instance}/control.sock", name())),
        None => PathBuf::from(format!("/run/{}/control.sock", name())),
    }
}

/// Whether a control socket is at such a place. The directory is made by the service.
pub fn is_default_control(path: &Path) -> bool {
    let directory = path.strip_prefix("/run").ok().and_then(Path::parent).and_then(Path::to_str);
    let rest = directory.and_then(|directory| directory.strip_prefix(name()));
    let is_ours = |rest: &str| rest.is_empty() || rest.starts_with('-') && !rest.contains('/');
    path.ends_with("control.sock") && rest.is_some_and(is_ours)
}

/// The default path of its pid file.
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
        assert_eq!(pid_file(), PathBuf::from("/run/preforkd/preforkd.pid"));
    }

    #[test]
    fn each_configuration_in_the_folder_has_a_control_socket() {
        for (file, socket) in [
            ("/etc/preforkd/preforkd.toml", "/run/preforkd/control.sock"),
            ("/etc/preforkd/web.toml", "/run/preforkd-web/control.sock"),
            ("/etc/preforkd/./a.b.toml", "/run/preforkd-a.b/control.sock"),
            ("/etc/preforkd/pool.d/web.toml", "/run/preforkd/control.sock"),
            ("/etc/preforkd/web.conf", "/run/preforkd/control.sock"),
            ("/home/user/web.toml", "/run/preforkd/control.sock"),
            ("web.toml", "/run/preforkd/control.sock"),
        ] {
            let path = control(Path::new(file));
            assert_eq!(path, PathBuf::from(socket), "{file}");
            assert!(is_default_control(&path), "{file}");
        }
        for other in [
            "/run/control.sock",
            "/run/preforkd/other.sock",
            "/run/preforkd2/control.sock",
            "/run/preforkd-a/b/control.sock",
            "/tmp/run/preforkd/control.sock",
        ] {
            assert!(!is_default_control(Path::new(other)), "{other}");
        }
    }
}
