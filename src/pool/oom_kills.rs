//! The OOM kills: whether the kernel has killed a process because memory was short.
//!
//! The end of a process does not show whether the OOM killer or a person sent the SIGKILL.
//! The kernel counts its own kills in memory.events of the cgroup, and a poll of that file
//! wakes up when the count changes (cgroups v2, admin-guide/cgroup-v2).
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::sys::clock::Moment;

/// How long a kill waits for the worker that it ended. The cgroup contains the programs of
/// workers, too. A kill of a program must not explain the end of a worker that a person
/// kills an hour later.
const FRESH: Duration = Duration::from_secs(10);

/// The pause after a look that found no kill: when memory is short, the file changes a
/// hundred times a second.
const PAUSE: Duration = Duration::from_secs(1);

/// The counter of the daemon's cgroup, as last read.
#[derive(Debug, Default)]
pub struct OomKills {
    events: Option<File>,
    /// When the next look is useful.
    next_look: Moment,
    seen: u64,
    /// Kills that no worker matches yet, and when the last one was seen.
    unclaimed: u64,
    last_kill: Moment,
}

impl OomKills {
    /// The counter of this process's cgroup. Without a memory controller, the counter never
    /// moves.
    pub fn of_this_process() -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let cgroup = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        OomKills::of(events_file(&mounts, &cgroup).and_then(|path| File::open(path).ok()))
    }

    /// The counter in this file, from now on.
    fn of(events: Option<File>) -> Self {
        let mut kills = OomKills { events, ..OomKills::default() };
        kills.count(Moment::default());
        kills.unclaimed = 0;
        kills
    }

    /// The descriptor to wait for (POLLPRI of poll(2)): the counter may have moved.
    pub fn watched(&self, now: Moment) -> Option<BorrowedFd<'_>> {
        self.events.as_ref().filter(|_| now >= self.next_look).map(|file| file.as_fd())
    }

    /// When the descriptor is to be waited for again.
    pub fn deadline(&self, now: Moment) -> Option<Moment> {
        (self.events.is_some() && now < self.next_look).then_some(self.next_look)
    }

    /// Reads the counter after a wake-up.
    pub fn look(&mut self, now: Moment) {
        let before = self.seen;
        self.count(now);
        if self.seen == before {
            self.next_look = now + PAUSE;
        }
    }

    fn count(&mut self, now: Moment) {
        if now.since(self.last_kill) > FRESH {
            self.unclaimed = 0;
        }
        let Some(events) = &self.events else { return };
        match read(events) {
            Ok(count) if count > self.seen => {
                self.unclaimed += count - self.seen;
                self.last_kill = now;
                self.seen = count;
            }
            Ok(_) => {}
            // A file that cannot be read would wake the poll again and again.
            Err(_) => self.events = None,
        }
    }

    /// Whether the kernel has just killed a process of the cgroup that explains no death
    /// yet.
    pub fn take_one(&mut self, now: Moment) -> bool {
        self.count(now);
        let killed = self.unclaimed > 0;
        self.unclaimed -= u64::from(killed);
        killed
    }
}

/// The count of kills. The poll waits for the next change from here on.
fn read(events: &File) -> io::Result<u64> {
    let mut bytes = [0; 1024];
    let length = events.read_at(&mut bytes, 0)?;
    Ok(oom_kills(&String::from_utf8_lossy(&bytes[..length])))
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

    /// A counter in a file, and what sets it.
    fn counter(directory: &Path) -> (OomKills, impl Fn(u64)) {
        let path = directory.join("memory.events");
        let set = move |count| {
            let recorded = RECORDED.replace("oom_kill 2", &format!("oom_kill {count}"));
            fs::write(&path, recorded).unwrap();
        };
        set(5);
        let file = File::open(directory.join("memory.events")).unwrap();
        (OomKills::of(Some(file)), set)
    }

    #[test]
    fn each_kill_is_told_once() {
        let directory = tempfile::tempdir().unwrap();
        let (mut kills, set) = counter(directory.path());
        let now = Moment::from_nanos(1 << 40);
        assert!(!kills.take_one(now), "what was before the start");
        set(7);
        assert_eq!([(); 3].map(|()| kills.take_one(now)), [true, true, false]);
    }

    #[test]
    fn a_kill_explains_no_end_that_comes_much_later() {
        let directory = tempfile::tempdir().unwrap();
        let (mut kills, set) = counter(directory.path());
        let now = Moment::from_nanos(1 << 40);
        // For example a kill of a worker's program, which ends no worker.
        set(6);
        kills.look(now);
        assert!(!kills.take_one(now + FRESH + Duration::from_nanos(1)));
        // A worker may need time to end.
        set(7);
        kills.look(now + FRESH * 3);
        assert!(kills.take_one(now + FRESH * 4));
        // The next kill does not bring an old one back either.
        set(8);
        kills.look(now + FRESH * 5);
        set(9);
        kills.look(now + FRESH * 7);
        assert_eq!([(); 2].map(|()| kills.take_one(now + FRESH * 7)), [true, false]);
        // The first look at a kill may come at the end of its worker.
        set(10);
        assert!(kills.take_one(now + FRESH * 9));
    }

    #[test]
    fn other_events_are_looked_at_once_a_second() {
        let directory = tempfile::tempdir().unwrap();
        let (mut kills, set) = counter(directory.path());
        let now = Moment::from_nanos(1 << 40);
        assert!(kills.watched(now).is_some() && kills.deadline(now).is_none());
        // Something was written to the file, and the count has not moved.
        kills.look(now);
        assert!(kills.watched(now).is_none());
        assert_eq!(kills.deadline(now), Some(now + PAUSE));
        assert!(kills.watched(now + PAUSE).is_some() && kills.deadline(now + PAUSE).is_none());
        set(6);
        kills.look(now + PAUSE);
        assert!(kills.watched(now + PAUSE).is_some(), "a kill may not be the only one");
    }

    #[test]
    fn without_a_counter_nothing_is_known() {
        let now = Moment::now();
        let mut kills = OomKills::of(None);
        assert!(!kills.take_one(now));
        assert!(kills.watched(now).is_none() && kills.deadline(now).is_none());
    }
}
