//! A running server: a master, its workers, and the promise that all of them go.
//!
//! Three things hold that promise. A server leads a process group of its own, which is
//! killed and reaped when the [`Server`] is dropped. The bench adopts orphans, so that it can
//! wait for workers whose master died first, and the next figure does not share the machine
//! with a thousand dying processes. And should the bench itself be killed, the kernel tells
//! the masters.

use std::error::Error;
use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;

use crate::Result;
use crate::daemon::Job;
use crate::watch::Watched;
use crate::{bare, daemon, watch};

/// A server that takes longer than this to start or to stop is broken.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How often the bench looks whether a server has started: short compared with the 100 ms
/// of the fastest start, and long compared with the cost of a look.
const LOOK: Duration = Duration::from_millis(1);

/// A master and its workers.
pub struct Server {
    /// Where it listens.
    pub address: SocketAddrV4,
    master: Pid,
    master_end: Watched,
    begun: Instant,
    workers: usize,
    kind: Kind,
}

/// What runs, and so how it wants to be stopped.
enum Kind {
    Bare,
    Daemon { config: PathBuf },
}

/// Makes this process the parent of whatever its descendants orphan.
pub fn adopt_orphans() -> nix::Result<()> {
    // SAFETY: PR_SET_CHILD_SUBREAPER takes a flag and touches no memory of ours.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) }).map(drop)
}

impl Server {
    /// Starts the bare loop of `job`.
    pub fn bare(job: &Job) -> Result<Server> {
        let address = free_address()?;
        let mut command = bare::command(job, address)?;
        command.stderr(Stdio::null());
        Server::start(command, job, address, Kind::Bare)
    }

    /// Starts the daemon for `job` with the configuration file `config`, which it writes.
    pub fn daemon(job: &Job, config: PathBuf) -> Result<Server> {
        let address = free_address()?;
        daemon::configure(&config, job, address, 0)?;
        let mut command = daemon::command(&config);
        // Should the daemon not get as far as its own log file, its reason is still there.
        command.stderr(File::create(daemon::log_file(&config))?);
        Server::start(command, job, address, Kind::Daemon { config })
    }

    fn start(mut command: Command, job: &Job, address: SocketAddrV4, kind: Kind) -> Result<Server> {
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null());
        // SAFETY: what runs between fork and exec must be async-signal-safe; prctl is a bare
        // system call, and an error made from an errno allocates nothing.
        unsafe {
            command.pre_exec(|| {
                Errno::result(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM))?;
                Ok(())
            });
        }
        let begun = Instant::now();
        // The child's handle is dropped: this file reaps by process group.
        let master = Pid::from_raw(command.spawn()?.id().cast_signed());
        let master_end = Watched::new(master)?;
        Ok(Server { address, master, master_end, begun, workers: job.size(), kind })
    }

    /// The master.
    pub fn master(&self) -> Pid {
        self.master
    }

    /// How many workers it keeps.
    pub fn size(&self) -> usize {
        self.workers
    }

    /// The workers as they are now.
    pub fn workers(&self) -> io::Result<Vec<Pid>> {
        watch::children(self.master)
    }

    /// Master and workers.
    pub fn processes(&self) -> io::Result<Vec<Pid>> {
        let mut processes = self.workers()?;
        processes.push(self.master);
        Ok(processes)
    }

    /// Waits until every worker sleeps in `accept`; tells how long after the start of the
    /// master that was seen.
    pub fn all_accept(&self) -> Result<Duration> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let workers = self.workers().unwrap_or_default();
            // The youngest is asked first, since it is the last to be ready.
            if workers.len() == self.workers
                && workers.iter().rev().all(|worker| watch::accepts(*worker))
            {
                return Ok(self.begun.elapsed());
            }
            if Instant::now() > deadline {
                return Err(self.complaint("did not get its workers to accept"));
            }
            if self.master_end.ends_within(Duration::ZERO)? {
                return Err(self.complaint("ended by itself"));
            }
            sleep(LOOK);
        }
    }

    /// Waits until the pool is at size, and finds a worker that sleeps in `accept`.
    pub fn idle_worker(&self) -> Result<Pid> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let workers = self.workers()?;
            if workers.len() == self.workers
                && let Some(idle) = workers.into_iter().find(|worker| watch::accepts(*worker))
            {
                return Ok(idle);
            }
            sleep(LOOK);
        }
        Err(self.complaint("did not get a worker back to accept"))
    }

    /// Whether this kind of server can change its generation.
    pub fn can_reload(&self) -> bool {
        matches!(self.kind, Kind::Daemon { .. })
    }

    /// Gives the daemon a changed configuration of `job` and tells it to reload.
    pub fn reload(&self, job: &Job, generation: u32) -> Result<()> {
        if let Kind::Daemon { config } = &self.kind {
            daemon::configure(config, job, self.address, generation)?;
            kill(self.master, Signal::SIGHUP)?;
        }
        Ok(())
    }

    /// Stops the server as its kind is stopped: the daemon by SIGTERM, which it must obey
    /// with exit status 0.
    pub fn stop(self) -> Result<()> {
        if let Kind::Daemon { .. } = self.kind {
            kill(self.master, Signal::SIGTERM)?;
            if !self.master_end.ends_within(PATIENCE)? {
                return Err(self.complaint("did not obey SIGTERM"));
            }
            // It is left unreaped, so that its number stays the group's until the drop.
            match waitid(Id::Pid(self.master), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)? {
                WaitStatus::Exited(_, 0) => {}
                status => return Err(self.complaint(&format!("stopped with {status:?}"))),
            }
        }
        Ok(())
    }

    /// An error about this server, with the end of its log.
    fn complaint(&self, what: &str) -> Box<dyn Error> {
        match &self.kind {
            Kind::Bare => format!("the bare loop {what}").into(),
            Kind::Daemon { config } => {
                let log = std::fs::read_to_string(daemon::log_file(config)).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let tail = &lines[lines.len().saturating_sub(20)..];
                format!("preforkd {what}; its log ends:\n{}", tail.join("\n")).into()
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // An error means that the group is empty, which is what is wanted.
        let _ = killpg(self.master, Signal::SIGKILL);
        let group = Pid::from_raw(-self.master.as_raw());
        while matches!(waitpid(group, None), Ok(_) | Err(Errno::EINTR)) {}
    }
}

/// An address on loopback at which nobody listens. Another program may take it first, which
/// then shows as a server that does not start.
fn free_address() -> io::Result<SocketAddrV4> {
    let probe = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(SocketAddrV4::new(Ipv4Addr::LOCALHOST, probe.local_addr()?.port()))
}
