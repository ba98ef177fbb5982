//! The reasons why the daemon could not start or go on, each with its exit code.
#![forbid(unsafe_code)]

use std::fmt;
use std::io;

use nix::errno::Errno;

/// The exit codes of the daemon, by kind of fault (sysexits.h).
///
/// systemd prints the codes by name. With `RestartPreventExitStatus=` a unit restarts only
/// after faults that a restart may mend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// The command line, or a command over the control socket, is wrong (EX_USAGE).
    Usage = 64,
    /// The configuration file is missing or cannot be read (EX_NOINPUT).
    NoInput = 66,
    /// Workers could not start, or no daemon answers (EX_UNAVAILABLE).
    Unavailable = 69,
    /// A bug in the daemon or in a service (EX_SOFTWARE).
    Software = 70,
    /// A system call failed (EX_OSERR).
    Os = 71,
    /// A pid file or a socket cannot be created (EX_CANTCREAT).
    CannotCreate = 73,
    /// The permission for something asked for is missing (EX_NOPERM).
    NoPermission = 77,
    /// The configuration is wrong (EX_CONFIG).
    Config = 78,
}

impl Code {
    /// The code of this number.
    pub fn from_number(number: u8) -> Option<Self> {
        use Code::*;
        [Usage, NoInput, Unavailable, Software, Os, CannotCreate, NoPermission, Config]
            .into_iter()
            .find(|code| *code as u8 == number)
    }
}

/// A fault that ends the command, or the reload that met it.
///
/// The text has the form `could not <verb> <kind> "<name>": <reason>`; a hint
/// follows on a line of its own.
#[derive(Clone, Debug)]
pub struct Error {
    code: Code,
    text: String,
    is_logged: bool,
}

impl Error {
    /// A fault of the kind `code` with this text.
    pub fn new(code: Code, text: impl Into<String>) -> Self {
        Error { code, text: text.into(), is_logged: false }
    }

    /// A system call that failed: `could not <what>: <reason>`.
    ///
    /// The code shows whether a permission was missing.
    pub fn system(what: impl fmt::Display, error: &io::Error) -> Self {
        let code = match error.kind() {
            io::ErrorKind::PermissionDenied => Code::NoPermission,
            _ => Code::Os,
        };
        Error::new(code, format!("could not {what}: {}", reason(error)))
    }

    /// The same fault, of another kind.
    pub fn with_code(mut self, code: Code) -> Self {
        self.code = code;
        self
    }

    /// The same fault with a hint on a line of its own.
    pub fn with_hint(mut self, hint: impl fmt::Display) -> Self {
        self.text = format!("{}\nhint: {hint}", self.text);
        self
    }

    /// The same fault, of which the log knows.
    pub fn logged(mut self) -> Self {
        self.is_logged = true;
        self
    }

    /// Whether the log knows of it.
    pub fn is_logged(&self) -> bool {
        self.is_logged
    }

    /// The exit code of a process that ends for this reason.
    pub fn code(&self) -> Code {
        self.code
    }
}

/// The system's text for an error, without Rust's "(os error 2)", and in the form for a
/// place behind a colon.
pub fn reason(error: &io::Error) -> String {
    let text = match error.raw_os_error() {
        Some(number) => Errno::from_raw(number).desc().to_owned(),
        None => error.to_string(),
    };
    let mut letters = text.chars();
    match (letters.next(), letters.next()) {
        // "I/O error" and "RFS specific error" keep their capitals.
        (Some(first), Some(second)) if second.is_lowercase() => {
            first.to_lowercase().chain(text.chars().skip(1)).collect()
        }
        _ => text,
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_stands_behind_a_colon() {
        let told = |errno: Errno| reason(&errno.into());
        assert_eq!(told(Errno::ENOENT), "no such file or directory");
        assert_eq!(told(Errno::EIO), "I/O error");
        assert_eq!(reason(&io::Error::other("Some words of ours")), "some words of ours");
    }
}
