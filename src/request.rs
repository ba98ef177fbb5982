//! A request to a running daemon: the protocol of its control socket, and the side that
//! asks.
//!
//! A request is a line: a word, a space, and the configuration file. The answer is the exit
//! code of the command that was run, in decimal, a space, and a text up to the end of the
//! stream.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io::{self, Read, Write};
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Code, Error, reason};

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Reload the configuration, and report the result.
    Reload,
    /// Report the result of the last reload, once it has ended.
    LastResult,
    /// To tell at once what the reload under way waits for.
    Awaited,
}

impl Action {
    fn as_str(self) -> &'static str {
        match self {
            Action::Reload => "reload",
            Action::LastResult => "result",
            Action::Awaited => "awaited",
        }
    }
}

/// A request to the daemon that runs with a certain configuration. Another daemon with the
/// same control socket refuses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What the daemon is to do.
    pub action: Action,
    /// The configuration file, without symbolic links.
    pub file: PathBuf,
}

impl Request {
    /// A request to the daemon of this configuration.
    pub fn new(action: Action, file: &Path) -> Self {
        Request { action, file: resolved(file) }
    }

    /// Whether the request is for the daemon of this configuration. A link may have changed
    /// since the daemon started, so this looks each time.
    pub fn is_for(&self, file: &Path) -> bool {
        self.file == resolved(file)
    }

    /// The most bytes of a request, with the end of its line: a word, and a path
    /// (PATH_MAX).
    pub const MOST_BYTES: usize = 8 + 4096;

    /// The request in this line, if the line is one.
    pub fn parse(line: &[u8]) -> Option<Self> {
        let space = line.iter().position(|&byte| byte == b' ')?;
        let (word, file) = (&line[..space], &line[space + 1..]);
        let mut actions = [Action::Reload, Action::LastResult, Action::Awaited].into_iter();
        let action = actions.find(|action| action.as_str().as_bytes() == word)?;
        Some(Request { action, file: PathBuf::from(OsStr::from_bytes(file)) })
    }

    fn line(&self) -> Vec<u8> {
        [self.action.as_str().as_bytes(), b" ", self.file.as_os_str().as_bytes(), b"\n"].concat()
    }
}

fn resolved(file: &Path) -> PathBuf {
    fs::canonicalize(file).unwrap_or_else(|_| file.to_owned())
}

/// The answer of a daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The exit code of the command.
    pub code: u8,
    /// Its text.
    pub text: String,
}

impl Reply {
    /// The request was done.
    pub fn done(text: impl fmt::Display) -> Self {
        Reply { code: 0, text: text.to_string() }
    }

    fn parse(text: &str) -> Option<Self> {
        let (code, text) = text.split_once(' ')?;
        Some(Reply { code: code.parse().ok()?, text: text.to_owned() })
    }
}

impl From<&Error> for Reply {
    fn from(error: &Error) -> Self {
        Reply { code: error.code() as u8, text: error.to_string() }
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code, self.text)
    }
}

/// How long a client waits before it looks what it waits for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks the daemon whose control socket is at `path`, and waits for its answer. Whenever
/// the patience is over, it does `meanwhile`, and goes on waiting if that says so.
///
/// # Errors
///
/// Code 77 if the permission is missing. Otherwise code 69: no daemon listens there, or the
/// daemon went away before its answer.
pub fn ask(
    path: &Path,
    request: &Request,
    mut meanwhile: impl FnMut() -> ControlFlow<()>,
) -> Result<Reply, Error> {
    let failed = |error: io::Error| {
        let socket = path.display();
        let message = format!("could not ask control socket \"{socket}\": {}", reason(&error));
        match error.kind() {
            io::ErrorKind::PermissionDenied => Error::new(Code::NoPermission, message),
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                let hint = "is the daemon running? [daemon].control names its socket, \
                            and must be what it was when the daemon was started";
                Error::new(Code::Unavailable, message).with_hint(hint)
            }
            _ => Error::new(Code::Unavailable, message),
        }
    };
    let mut stream = UnixStream::connect(path).map_err(failed)?;
    stream.write_all(&request.line()).map_err(failed)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    let mut text = Vec::new();
    loop {
        // What came before a time-out or a signal is in `text` already.
        match stream.read_to_end(&mut text) {
            Ok(_) => break,
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(failed(error)),
            Err(error) => {
                if meanwhile().is_break() {
                    return Err(failed(error));
                }
            }
        }
    }
    Reply::parse(&String::from_utf8_lossy(&text))
        .ok_or_else(|| failed(io::Error::other("the daemon went away without an answer")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_is_understood() {
        for action in [Action::Reload, Action::LastResult, Action::Awaited] {
            let request = Request { action, file: PathBuf::from("/a b/\u{e4}.toml") };
            let line = request.line();
            assert_eq!(Request::parse(line.strip_suffix(b"\n").unwrap()), Some(request));
        }
        for line in ["", "reload", "Reload /a", "stop /a"] {
            assert_eq!(Request::parse(line.as_bytes()), None, "{line:?}");
        }
    }

    #[test]
    fn what_is_answered_is_understood() {
        for reply in [
            Reply::done("reloaded"),
            Reply { code: 78, text: "two\nlines, 1 of them with a number".to_owned() },
        ] {
            assert_eq!(Reply::parse(&reply.to_string()), Some(reply));
        }
        for text in ["", "0", "x reloaded", "300 reloaded"] {
            assert_eq!(Reply::parse(text), None, "{text:?}");
        }
    }
}
