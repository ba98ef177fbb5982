//! The cores on which a figure is measured.

use std::io;
use std::mem;

use nix::errno::Errno;
use nix::libc;

/// Where the servers and the clients of a figure run.
#[derive(Clone, Copy)]
pub enum Cores {
    /// All of them on one core.
    One,
    /// Wherever the scheduler puts them.
    All,
}

impl Cores {
    /// Moves this thread there, and with it each thread and process that it starts, until
    /// the result is dropped.
    pub fn pin(self) -> io::Result<Pinned> {
        let before = allowed()?;
        if let Cores::One = self {
            // The last one, since the first is where most machines take their interrupts.
            // SAFETY: CPU_ISSET and CPU_SET read and write the set that they are given, at
            // an index below CPU_SETSIZE; all zeroes is the empty set.
            let one = unsafe {
                let mut one = mem::zeroed();
                let last =
                    (0..libc::CPU_SETSIZE as usize).rfind(|cpu| libc::CPU_ISSET(*cpu, &before));
                libc::CPU_SET(last.unwrap_or(0), &mut one);
                one
            };
            allow(&one)?;
        }
        Ok(Pinned(before))
    }
}

/// Where this thread was before; it goes back on drop.
pub struct Pinned(libc::cpu_set_t);

impl Drop for Pinned {
    fn drop(&mut self) {
        // It was allowed before, and is asked for again before the next figure.
        let _ = allow(&self.0);
    }
}

fn allowed() -> io::Result<libc::cpu_set_t> {
    // SAFETY: sched_getaffinity(2) writes at most as many bytes as its argument says, which
    // is the size of the set; all zeroes is a set.
    unsafe {
        let mut set = mem::zeroed();
        Errno::result(libc::sched_getaffinity(0, mem::size_of_val(&set), &raw mut set))?;
        Ok(set)
    }
}

fn allow(set: &libc::cpu_set_t) -> io::Result<()> {
    // SAFETY: sched_setaffinity(2) reads as many bytes as its argument says, which is the
    // size of the set.
    Errno::result(unsafe { libc::sched_setaffinity(0, mem::size_of_val(set), set) })?;
    Ok(())
}
