//! The interpreter of a script. execve(2) says of a missing one that the script is missing.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::error::reason;

/// How much of a script the kernel looks at for its interpreter (BINPRM_BUF_SIZE).
const HEAD_BYTES: u64 = 256;

/// Looks whether the interpreter of a program is there, if the program is a script.
///
/// # Errors
///
/// The interpreter is missing. If the file cannot be read, the start of the program reports
/// that.
pub fn check(program: &Path) -> Result<(), String> {
    let mut head = Vec::new();
    let read = File::open(program).and_then(|file| file.take(HEAD_BYTES).read_to_end(&mut head));
    let Some(interpreter) = read.ok().and_then(|_| named(&head)) else { return Ok(()) };
    match interpreter.metadata() {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("its interpreter {interpreter:?}: {}", reason(&error))),
    }
}

/// The interpreter that the first line of a script names by its whole path.
fn named(head: &[u8]) -> Option<&Path> {
    let line = head.strip_prefix(b"#!")?.split(|&byte| byte == b'\n').next()?;
    let name = line.trim_ascii_start().split(|&byte| byte == b' ' || byte == b'\t').next()?;
    Some(Path::new(OsStr::from_bytes(name))).filter(|path| path.is_absolute())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_names_the_interpreter() {
        let cases: [(&[u8], Option<&str>); 7] = [
            (b"#!/bin/sh\necho", Some("/bin/sh")),
            (b"#! /usr/bin/env  -S x\n", Some("/usr/bin/env")),
            (b"#!/bin/sh\r\necho", Some("/bin/sh\r")),
            (b"#!/bin/sh", Some("/bin/sh")),
            (b"#!sh\n", None),
            (b"#!\n", None),
            (b"\x7fELF", None),
        ];
        for (head, expected) in cases {
            assert_eq!(named(head), expected.map(Path::new), "{head:?}");
        }
    }
}
