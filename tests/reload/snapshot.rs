//! What a reload that fails must leave as it is.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use support::{Daemon, procfs, until};

/// All that a reload which fails must leave as it is.
#[derive(Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub workers: Vec<i32>,
    pub descriptors: BTreeMap<i32, String>,
    pub masks: Vec<Vec<(&'static str, String)>>,
    pub directory: Vec<PathBuf>,
}

impl Snapshot {
    #[track_caller]
    pub fn of(daemon: &Daemon) -> Self {
        let master = daemon.pid();
        // It reads files and tries sockets, before it waits again.
        until("the master waits", || procfs::is_in_ppoll(master).then_some(()));
        let workers = daemon.children();
        let processes = [master].into_iter().chain(workers.iter().copied());
        let entries =
            fs::read_dir(daemon.directory().path()).expect("read the directory of the test");
        let mut directory: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        directory.retain(|path| path != daemon.config_path());
        directory.sort();
        Snapshot {
            masks: processes.map(procfs::signal_masks).collect(),
            descriptors: procfs::descriptors(master),
            workers,
            directory,
        }
    }
}
