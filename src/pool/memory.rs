//! Whether the kernel has killed for want of memory.
//!
//! Nothing in the end of a process tells the OOM killer's SIGKILL from that of
//! a person. The kernel counts its own in memory.events of the cgroup (cgroups
//! v2, admin-guide/cgroup-v2).
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};

/// The counter of the daemon's cgroup, as far as it is known.
#[derive(Debug, Default)]
pub struct OomKills {
    events: Option<PathBuf>,
    seen: u64,
}

impl OomKills {
    /// The counter of this process's cgroup; one that never moves, where there
    /// is no memory controller.
    pub fn of_this_process() -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let cgroup = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let events = events_file(&mounts, &cgroup).filter(|path| path.exists());
        let mut kills = OomKills { events, seen: 0 };
        kills.seen = kills.read();
        kills
    }

    /// Whether the kernel has killed a process of the cgroup since the last
    /// call. Each kill is told once.
    pub fn take_one(&mut self) -> bool {
        let now = self.read();
        let killed = now > self.seen;
        self.seen += u64::from(killed);
        killed
    }

    fn read(&self) -> u64 {
        let text = self.events.as_ref().and_then(|path| fs::read_to_string(path).ok());
        text.as_deref().map_or(0, oom_kills)
    }
}

/// The file memory.events of the cgroup v2 that /proc/self/cgroup names, below
/// where /proc/self/mounts says that the hierarchy is.
fn events_file(mounts: &str, cgroup: &str) -> Option<PathBuf> {
    let root = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_, place, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "cgroup2").then_some(place)
    })?;
    let own = cgroup.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(Path::new(root).join(own).join("memory.events"))
}

/// The count `oom_kill` in the text of memory.events.
fn oom_kills(events: &str) -> u64 {
    events.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As recorded under a MemoryMax= that was reached twice.
    const RECORDED: &str = "low 0\nhigh 0\nmax 118\noom 3\noom_kill 2\noom_group_kill 0\n";

    #[test]
    fn the_count_is_read_from_recorded_files() {
        assert_eq!(oom_kills(RECORDED), 2);
        assert_eq!(oom_kills("low 0\nhigh 0\nmax 0\noom 7\n"), 0, "an old kernel");
        assert_eq!(oom_kills(""), 0);
    }

    #[test]
    fn the_file_is_found_in_a_pure_and_in_a_mixed_hierarchy() {
        let pure = "proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n";
        let service = "0::/system.slice/preforkd.service\n";
        let expected = Path::new("/sys/fs/cgroup/system.slice/preforkd.service/memory.events");
        assert_eq!(events_file(pure, service).as_deref(), Some(expected));
        let mixed = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let with_v1 = "4:memory:/a\n0::/b\n";
        let expected = Path::new("/sys/fs/cgroup/unified/b/memory.events");
        assert_eq!(events_file(mixed, with_v1).as_deref(), Some(expected));
        assert_eq!(events_file("", service), None);
    }

    #[test]
    fn each_kill_is_told_once() {
        let directory = tempfile::tempdir().unwrap();
        let events = directory.path().join("memory.events");
        fs::write(&events, "oom_kill 1\n").unwrap();
        let mut kills = OomKills { events: Some(events.clone()), seen: 1 };
        assert!(!kills.take_one());
        fs::write(&events, RECORDED.replace("oom_kill 2", "oom_kill 3")).unwrap();
        assert_eq!([kills.take_one(), kills.take_one(), kills.take_one()], [true, true, false]);
    }
}
