//! The files of a configuration as they were read, with nothing of them understood.
//!
//! They can cross a pipe: reading may block, so a daemon that runs has a child read
//! them. Nothing that the other end could send makes this end panic, loop, or allocate
//! more than it was sent.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::ops::Range;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use crate::error::Code;

/// The files of a configuration, or why one of them could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gathered {
    pub(super) main: File,
    pub(super) included: Vec<Included>,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct File {
    pub path: PathBuf,
    pub content: Result<Vec<u8>, Unread>,
}

/// A file that another one includes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Included {
    /// Where the main file says so.
    pub include: Range<usize>,
    pub file: File,
}

/// Why a file could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unread {
    /// It is not there, or the system does not give it away.
    Missing(String),
    /// It cannot be a configuration.
    Wrong(String),
}

impl Unread {
    pub fn message(&self) -> &str {
        let (Unread::Missing(message) | Unread::Wrong(message)) = self;
        message
    }

    pub fn code(&self) -> Code {
        match self {
            Unread::Missing(_) => Code::NoInput,
            Unread::Wrong(_) => Code::Config,
        }
    }
}

/// A configuration is written by hand; what is larger is another file.
pub(super) const MAX_BYTES: usize = 1024 * 1024;
/// The most that all files hold together.
pub(super) const MAX_TOTAL: usize = 32 * MAX_BYTES;
/// The most files that are included; one more is a problem.
pub(super) const MAX_FILES: usize = 8192;

// What stands before the content of a file.
const CONTENT: u8 = 0;
const MISSING: u8 = 1;
const WRONG: u8 = 2;

impl Gathered {
    /// The most bytes that [`Gathered::to_bytes`] gives. The reader of a pipe may stop
    /// after one more. A path has 4096 bytes at most, and a message holds one.
    pub const MAX_ENCODED: usize = MAX_TOTAL + (MAX_FILES + 2) * 16 * 1024;

    /// The same in bytes. Each number is 32 bits, little endian; each text has its
    /// length before it. The main file comes first.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        put_file(&mut bytes, &self.main);
        put_number(&mut bytes, self.included.len());
        for Included { include, file } in &self.included {
            put_number(&mut bytes, include.start);
            put_number(&mut bytes, include.end);
            put_file(&mut bytes, file);
        }
        bytes
    }

    /// What [`Gathered::to_bytes`] gave; `None` for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        let main = take_file(&mut rest)?;
        let count = take_number(&mut rest).filter(|&count| count <= MAX_FILES + 1)?;
        let included = (0..count).map(|_| {
            let include = take_number(&mut rest)?..take_number(&mut rest)?;
            Some(Included { include, file: take_file(&mut rest)? })
        });
        let included = included.collect::<Option<_>>()?;
        rest.is_empty().then_some(Gathered { main, included })
    }
}

fn put_number(bytes: &mut Vec<u8>, number: usize) {
    // All that is counted here is bounded far below.
    let number = u32::try_from(number).unwrap_or(u32::MAX);
    bytes.extend(number.to_le_bytes());
}

fn put_text(bytes: &mut Vec<u8>, text: &[u8]) {
    put_number(bytes, text.len());
    bytes.extend(text);
}

fn put_file(bytes: &mut Vec<u8>, file: &File) {
    put_text(bytes, file.path.as_os_str().as_bytes());
    let (kind, text) = match &file.content {
        Ok(content) => (CONTENT, content.as_slice()),
        Err(Unread::Missing(message)) => (MISSING, message.as_bytes()),
        Err(Unread::Wrong(message)) => (WRONG, message.as_bytes()),
    };
    bytes.push(kind);
    put_text(bytes, text);
}

fn take_number(rest: &mut &[u8]) -> Option<usize> {
    let (number, after) = rest.split_first_chunk()?;
    *rest = after;
    usize::try_from(u32::from_le_bytes(*number)).ok()
}

fn take_text(rest: &mut &[u8]) -> Option<Vec<u8>> {
    let length = take_number(rest)?;
    // Before anything is allocated for it.
    let (text, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(text.to_vec())
}

fn take_file(rest: &mut &[u8]) -> Option<File> {
    let path = take_text(rest)?;
    let (&kind, after) = rest.split_first()?;
    *rest = after;
    let text = take_text(rest)?;
    let message = |text| String::from_utf8(text).ok();
    let content = match kind {
        CONTENT => Ok(text),
        MISSING => Err(Unread::Missing(message(text)?)),
        WRONG => Err(Unread::Wrong(message(text)?)),
        _ => return None,
    };
    Some(File { path: PathBuf::from(OsString::from_vec(path)), content })
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    fn gathered() -> Gathered {
        let file =
            |path: &[u8], content| File { path: PathBuf::from(OsStr::from_bytes(path)), content };
        let included = |include, file| Included { include, file };
        Gathered {
            main: file(b"/etc/main.toml", Ok(b"include = [\"*\"]\n".to_vec())),
            included: vec![
                included(11..14, file(b"/etc/\xff", Ok(vec![0, 255, b'\n']))),
                included(11..14, file(b"x", Err(Unread::Missing("could not".to_owned())))),
                included(0..0, file(b"", Err(Unread::Wrong(String::new())))),
                included(7..7, file(b"y", Ok(Vec::new()))),
            ],
        }
    }

    #[test]
    fn what_crosses_a_pipe_arrives_as_it_was() {
        let gathered = gathered();
        assert_eq!(Gathered::from_bytes(&gathered.to_bytes()), Some(gathered));
    }

    #[test]
    fn nothing_else_is_taken_for_it() {
        let bytes = gathered().to_bytes();
        for length in 0..bytes.len() {
            assert_eq!(Gathered::from_bytes(&bytes[..length]), None, "{length}");
        }
        let more = [&bytes[..], &[0]].concat();
        assert_eq!(Gathered::from_bytes(&more), None);
        // Whatever is broken in it: an answer, and one that can be sent again.
        for at in 0..bytes.len() {
            for flip in [1, 2, 4, 0x40, 0x80, 0xff] {
                let mut broken = bytes.clone();
                broken[at] ^= flip;
                if let Some(read) = Gathered::from_bytes(&broken) {
                    assert_eq!(read.to_bytes(), broken);
                }
            }
        }
    }
}
