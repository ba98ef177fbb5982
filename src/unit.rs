//! The service unit that this process may run in, and what of it may be behind a refusal.
#![forbid(unsafe_code)]

use std::env;
use std::io::{self, ErrorKind};
use std::path::Path;

use nix::unistd::{getpid, getppid};

/// What was refused.
#[derive(Clone, Copy, Debug)]
pub enum Refused<'a> {
    /// To find or to use this file.
    Read(&'a Path),
    /// To write this file, or to make it.
    Write(&'a Path),
    /// To bind this port.
    Port(u16),
    /// What only root may do.
    Privilege,
}

const HOME: &str = "the unit may hide home directories (ProtectHome=); \
                    preforkd(8) has a drop-in that shows them";
const TMP: &str = "the unit may have a /tmp of its own (PrivateTmp=); \
                   preforkd(8) has drop-ins for directories that others see";
const WRITE: &str = "the unit may keep the service from writing there (ProtectSystem=); \
                     preforkd(8) has drop-ins for directories that it may write";
const PORT: &str = "the unit gives no privilege for ports below 1024; preforkd(8) has a \
                    drop-in that does, and preforkd.socket needs none";
const PRIVILEGE: &str = "the unit gives no privilege for it; preforkd(8) has a drop-in for \
                         pools with a user of their own, a negative nice or higher limits";

/// The setting of the unit that may be behind a refusal, and where to find its remedy.
/// Outside of a unit there is none.
pub fn hint(refused: Refused<'_>, error: &io::Error) -> Option<&'static str> {
    likely(refused, error.kind()).filter(|_| is_unit())
}

/// Whether systemd has started this process or its parent (systemd.exec(5)). Others may
/// inherit the variable, with a number that is not theirs.
fn is_unit() -> bool {
    let main = env::var("SYSTEMD_EXEC_PID").ok().and_then(|pid| pid.parse().ok());
    main.is_some_and(|main: i32| [getpid(), getppid()].iter().any(|pid| pid.as_raw() == main))
}

fn likely(refused: Refused<'_>, kind: ErrorKind) -> Option<&'static str> {
    use ErrorKind::{NotFound, PermissionDenied, ReadOnlyFilesystem};
    let is_below =
        |path: &Path, places: &[&str]| places.iter().any(|place| path.starts_with(place));
    match (refused, kind) {
        (Refused::Privilege, _) => Some(PRIVILEGE),
        (Refused::Port(port), PermissionDenied) if port < 1024 => Some(PORT),
        (Refused::Read(path) | Refused::Write(path), NotFound | PermissionDenied)
            if is_below(path, &["/home", "/root", "/run/user"]) =>
        {
            Some(HOME)
        }
        (Refused::Read(path) | Refused::Write(path), NotFound)
            if is_below(path, &["/tmp", "/var/tmp"]) =>
        {
            Some(TMP)
        }
        (Refused::Write(_), PermissionDenied | ReadOnlyFilesystem) => Some(WRITE),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ErrorKind::{AddrInUse, NotFound, PermissionDenied, ReadOnlyFilesystem};
    use Refused::{Port, Privilege, Read, Write};

    #[test]
    fn each_refusal_has_its_setting() {
        let read = |path| Read(Path::new(path));
        let write = |path| Write(Path::new(path));
        for (refused, kind, expected) in [
            (read("/home/me/cgi"), PermissionDenied, Some(HOME)),
            (read("/root/cgi"), NotFound, Some(HOME)),
            (write("/run/user/7/sock"), NotFound, Some(HOME)),
            (read("/homes/cgi"), NotFound, None),
            (read("/tmp/cgi"), NotFound, Some(TMP)),
            (read("/tmp/cgi"), PermissionDenied, None),
            (read("/usr/bin/cgi"), NotFound, None),
            (read("/usr/bin/cgi"), PermissionDenied, None),
            (write("/var/log/x"), ReadOnlyFilesystem, Some(WRITE)),
            (write("/var/log/x"), PermissionDenied, Some(WRITE)),
            (write("/var/log/x"), NotFound, None),
            (Port(79), PermissionDenied, Some(PORT)),
            (Port(79), AddrInUse, None),
            (Port(7007), PermissionDenied, None),
            (Privilege, PermissionDenied, Some(PRIVILEGE)),
        ] {
            assert_eq!(likely(refused, kind), expected, "{refused:?} {kind:?}");
        }
    }
}
