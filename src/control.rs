//! Commands to a daemon that runs: what is said over its control socket, and
//! the side that asks.
//!
//! A command is a line. The answer is the exit code of the command that was
//! run, in decimal, a space, and a text that lasts to the end of the stream.
#![forbid(unsafe_code)]

use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::error::{Code, Error, reason};

/// What a daemon can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// To reload its configuration, and to tell how that ended.
    Reload,
    /// To tell how the last reload ended, once it has.
    Result,
}

impl Request {
    /// The most bytes that a request has, with the end of its line.
    pub const MOST_BYTES: usize = 64;

    /// The request that this line is, if it is one.
    pub fn parse(line: &[u8]) -> Option<Self> {
        [Request::Reload, Request::Result]
            .into_iter()
            .find(|request| request.as_str().as_bytes() == line)
    }

    fn as_str(self) -> &'static str {
        match self {
            Request::Reload => "reload",
            Request::Result => "result",
        }
    }
}

/// What a daemon answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The exit code of the command.
    pub code: u8,
    /// What it says.
    pub text: String,
}

impl Reply {
    /// That it was done.
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

/// Asks the daemon whose control socket is at `path`, and waits for its answer.
///
/// # Errors
///
/// Code 77 if the permission is missing, else 69: no daemon listens there, or
/// it went away before it had answered.
pub fn ask(path: &Path, request: Request) -> Result<Reply, Error> {
    let failed = |error: io::Error| {
        let message = format!("could not ask daemon \"{}\": {}", path.display(), reason(&error));
        match error.kind() {
            io::ErrorKind::PermissionDenied => Error::new(Code::NoPermission, message),
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                let hint = "is it running? [daemon].control names its socket";
                Error::new(Code::Unavailable, message).with_hint(hint)
            }
            _ => Error::new(Code::Unavailable, message),
        }
    };
    let mut stream = UnixStream::connect(path).map_err(failed)?;
    writeln!(stream, "{}", request.as_str()).map_err(failed)?;
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(failed)?;
    Reply::parse(&text).ok_or_else(|| failed(io::Error::other("it went away without an answer")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_is_understood() {
        for request in [Request::Reload, Request::Result] {
            assert_eq!(Request::parse(request.as_str().as_bytes()), Some(request));
            assert!(request.as_str().len() < Request::MOST_BYTES);
        }
        for line in ["", "Reload", "reload ", "stop"] {
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
