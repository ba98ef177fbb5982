//! A command that is run to its end.

use std::fs::{self, File};
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::daemon::program;
use super::{Directory, PATIENCE, until};

/// How a command ended, and what it said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// None if a signal ended it.
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

/// The program under test.
pub fn preforkd() -> Command {
    Command::new(program("preforkd"))
}

/// A copy of the program in `directory`, which is given to the user `id`: the
/// place of the build may be closed to others.
#[track_caller]
pub fn copy_for(directory: &Directory, id: u32) -> PathBuf {
    let copy = directory.join("preforkd");
    // By another process: were this one to hold the copy open for writing, a
    // child that another test forks meanwhile would, too, and a program that
    // somebody can write to cannot be run (ETXTBSY of execve(2)).
    let status = Command::new("cp").arg(program("preforkd")).arg(&copy).status();
    assert!(status.is_ok_and(|status| status.success()), "copy the program");
    chown(directory.path(), Some(id), Some(id)).expect("give the directory away");
    copy
}

/// Runs a command to its end.
///
/// What it says goes to files: a daemon that it leaves behind may hold its
/// output open, and that is not for this function to wait for.
#[track_caller]
pub fn finish(command: &mut Command) -> Finished {
    let directory = Directory::new();
    let (out, err) = (directory.join("out"), directory.join("err"));
    let create = |path: &PathBuf| File::create(path).expect("create a file for the output");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(create(&out))
        .stderr(create(&err))
        .spawn()
        .unwrap_or_else(|error| panic!("could not run {command:?}: {error}"));
    let end = std::time::Instant::now() + PATIENCE;
    let status = until("the command ends", || {
        let status = child.try_wait().expect("wait for the command");
        if status.is_none() && std::time::Instant::now() + PATIENCE / 20 > end {
            let _ = child.kill();
            panic!("{command:?} does not end; it said {:?}", fs::read_to_string(&err));
        }
        status
    });
    let read = |path: &PathBuf| {
        String::from_utf8_lossy(&fs::read(path).expect("read the output")).into_owned()
    };
    Finished { code: status.code(), out: read(&out), err: read(&err) }
}
