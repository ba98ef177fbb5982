//! The tests that were skipped in one run of `cargo test`, for its last line.
//!
//! Each test binary is a process of its own. What they have in common, and what two runs at
//! once have not, is their parent: cargo.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;

use nix::libc::O_NOFOLLOW;
use nix::unistd::{Pid, getppid};

const PREFIX: &str = "preforkd-skipped-";

/// Notes that the test of this thread is skipped.
pub fn note(need: &str) {
    let binary = std::env::current_exe().ok();
    let binary = binary.as_deref().and_then(Path::file_stem).unwrap_or_default();
    let test = thread::current().name().unwrap_or_default().to_owned();
    let line = format!("{} {test}\t{need}\n", binary.display());
    let file = File::options()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(O_NOFOLLOW)
        .open(notes_of(getppid()));
    // One write, so that lines of several threads do not mix. Without the file the test is
    // skipped all the same.
    let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
}

/// What the run of this process's parent has to tell, and forgets.
pub fn tell() -> String {
    let path = notes_of(getppid());
    let notes = fs::read_to_string(&path).unwrap_or_default();
    let _ = fs::remove_file(path);
    forget_ended_runs();
    summary(&notes)
}

/// The tests of these notes by what they need, the most first.
pub fn summary(notes: &str) -> String {
    let tests: BTreeSet<(&str, &str)> =
        notes.lines().filter_map(|line| line.split_once('\t')).collect();
    let names: BTreeSet<&str> = tests.iter().map(|(test, _)| *test).collect();
    let mut needs: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, need) in &tests {
        *needs.entry(need).or_default() += 1;
    }
    let mut needs: Vec<_> = needs.into_iter().collect();
    needs.sort_by_key(|(need, count)| (usize::MAX - count, *need));
    let lines = needs.iter().map(|(need, count)| format!("{count:6}  for lack of {need}\n"));
    match names.len() {
        0 => "no test was skipped\n".to_owned(),
        count => format!("skipped tests: {count}\n{}", lines.collect::<String>()),
    }
}

fn notes_of(run: Pid) -> PathBuf {
    // A pid may be that of another process later; together with its start it is not.
    let began = began(run).unwrap_or_default();
    std::env::temp_dir().join(format!("{PREFIX}{run}-{began}"))
}

/// When a process began, in ticks since the machine did (proc_pid_stat(5)).
fn began(pid: Pid) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, tail) = stat.rsplit_once(')')?;
    tail.split_whitespace().nth(19).map(str::to_owned)
}

/// Removes the notes of runs that ended before they could tell them.
fn forget_ended_runs() {
    for entry in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let run = name.strip_prefix(PREFIX).and_then(|name| name.split_once('-'));
        let Some((Ok(pid), start)) = run.map(|(pid, start)| (pid.parse(), start)) else { continue };
        if began(Pid::from_raw(pid)).as_deref() != Some(start) {
            // Those of somebody else stay.
            let _ = fs::remove_file(entry.path());
        }
    }
}
