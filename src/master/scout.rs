//! Reads the files of a reload, in a child and with a time limit.
//!
//! Reading a file, looking up a user, or making a service from its options may never end,
//! or need more memory than there is. So the child does first all that the reload will do.
//! The master gets the bytes of the files and the numbers of users and groups, and only if
//! the child has found no fault.
#![forbid(unsafe_code)]

use std::ffi::CString;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpid, getppid, pipe2};

use crate::accounts::{self, Found};
use crate::config::{self, Gathered, MainFile};
use crate::error::{Code, Error, reason};
use crate::pool::Pool;
use crate::program;
use crate::service::Services;
use crate::sys::clock::Moment;
use crate::sys::descriptor;
use crate::sys::fork::{self, Fork, fork};

use super::plan;

/// The time limit of the child. Looking up a user over the network may need some seconds.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The most bytes of an answer.
const MOST_BYTES: usize = Gathered::MAX_ENCODED + 1024 * 1024;

/// How many bytes of an answer are read in one turn of the loop.
const TURN_BYTES: usize = 4 * 1024 * 1024;

/// The child that reads a configuration, and earlier children that were killed.
#[derive(Debug, Default)]
pub struct Scouts {
    current: Option<Scout>,
    /// All children that are not reaped yet.
    children: Vec<Pid>,
}

/// A child that reads a configuration.
#[derive(Debug)]
struct Scout {
    /// The request that needs the files.
    number: u64,
    pid: Pid,
    answer: File,
    bytes: Vec<u8>,
    until: Moment,
}

/// The child's findings, if there was no fault.
#[derive(Debug)]
pub struct Findings {
    /// The files of the configuration.
    pub gathered: Gathered,
    /// The users and groups that the files name.
    pub accounts: Found,
}

impl Scouts {
    /// Sends a child to read the configuration `file` for the request `number`. An earlier
    /// child is useless now, because the file may have changed since.
    ///
    /// # Errors
    ///
    /// There is no child: fork failed, or there are no descriptors.
    pub fn send(
        &mut self,
        number: u64,
        file: &Path,
        services: &Services,
        running: &[Pool],
        now: Moment,
    ) -> Result<(), Error> {
        self.recall();
        let failed = |error: io::Error| Error::system("start a process for the reload", &error);
        let (ours, its) =
            pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).map_err(|errno| failed(errno.into()))?;
        let master = getpid();
        match fork().map_err(failed)? {
            Fork::Parent(pid) => {
                let (answer, until) = (ours.into(), now + TIMEOUT);
                self.children.push(pid);
                self.current = Some(Scout { number, pid, answer, bytes: Vec::new(), until });
                Ok(())
            }
            Fork::Child => read_for_master(file, services, running, master, its.into()),
        }
    }

    /// Whether a child is reading.
    pub fn is_out(&self) -> bool {
        self.current.is_some()
    }

    /// The request of the present child.
    pub fn request(&self) -> Option<u64> {
        self.current.as_ref().map(|scout| scout.number)
    }

    /// When the time of the present child is over.
    pub fn deadline(&self) -> Option<Moment> {
        self.current.as_ref().map(|scout| scout.until)
    }

    /// The descriptor to wait for.
    pub fn watched(&self) -> Option<BorrowedFd<'_>> {
        self.current.as_ref().map(|scout| scout.answer.as_fd())
    }

    /// Reads from the present child. Gives the number of its request and the answer, once
    /// the answer is whole.
    pub fn hear(&mut self, now: Moment) -> Option<(u64, Result<Findings, Error>)> {
        let scout = self.current.as_mut()?;
        let number = scout.number;
        let answer = scout.hear(now)?;
        self.recall();
        Some((number, answer))
    }

    /// Ends the present child.
    pub fn recall(&mut self) {
        if let Some(scout) = self.current.take()
            && self.children.contains(&scout.pid)
        {
            // The child is not reaped, so no other process has its pid.
            let _ = kill(scout.pid, Signal::SIGKILL);
        }
    }

    /// Whether this child is one of these.
    pub fn has(&self, pid: Pid) -> bool {
        self.children.contains(&pid)
    }

    /// A child has ended. Gives whether it was one of these.
    pub fn note_end(&mut self, pid: Pid) -> bool {
        let before = self.children.len();
        self.children.retain(|&child| child != pid);
        self.children.len() < before
    }
}

impl Scout {
    /// Reads the next part of the answer; None while the answer is not whole.
    fn hear(&mut self, now: Moment) -> Option<Result<Findings, Error>> {
        let failed = |reason: &str| {
            let message = format!("could not read configuration: {reason}");
            Some(Err(Error::new(Code::Unavailable, message)))
        };
        let read = (&self.answer).take(TURN_BYTES as u64).read_to_end(&mut self.bytes);
        match read {
            _ if self.bytes.len() > MOST_BYTES => failed("it is too large"),
            Ok(taken) if taken < TURN_BYTES => match parse(&self.bytes) {
                Some(answer) => Some(answer),
                None => failed("the process that read it ended without an answer"),
            },
            Err(error)
                if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                failed(&reason(&error))
            }
            Ok(_) | Err(_) if now >= self.until => {
                failed("it took longer than 10 s; does a file or the user database not answer?")
            }
            Ok(_) | Err(_) => None,
        }
    }
}

/// The child: reads, checks, answers and leaves.
fn read_for_master(
    file: &Path,
    services: &Services,
    running: &[Pool],
    master: Pid,
    mut answer: File,
) -> ! {
    // A process that may hang must not hold the master's descriptors open.
    let prepared = descriptor::close_all_but(&[answer.as_raw_fd()])
        .and_then(|()| Ok(prctl::set_pdeathsig(Signal::SIGKILL)?))
        .and_then(|()| Ok(prctl::set_name(&own_name())?));
    // The master may have died before it could end this process.
    if getppid() != master {
        fork::leave(Code::Unavailable as u8);
    }
    let found = match prepared {
        Ok(()) => find(file, services, running),
        Err(error) => Err(Error::system("read configuration", &error)),
    };
    // The pipe may be full, and the master reads at its own pace.
    let blocking = nix::fcntl::FcntlArg::F_SETFL(OFlag::empty());
    let _ = nix::fcntl::fcntl(&answer, blocking);
    let sent = answer.write_all(&compose(&found));
    fork::leave(if sent.is_ok() { 0 } else { Code::Os as u8 });
}

/// The name of the process in process lists, for which the kernel keeps 15 bytes.
fn own_name() -> CString {
    CString::new(format!("{}-reload", program::name())).unwrap_or_default()
}

fn find(file: &Path, services: &Services, running: &[Pool]) -> Result<Findings, Error> {
    accounts::remember(Found::default());
    let gathered = config::gather(file, MainFile::Regular);
    let mut config = config::parse(gathered.clone())?;
    plan::number_ports(&mut config)?;
    plan::draw_reload(&config, services, running)?;
    Ok(Findings { gathered, accounts: accounts::found() })
}

/// An answer: a code, 0 if there is no fault, and the content.
fn compose(found: &Result<Findings, Error>) -> Vec<u8> {
    match found {
        Ok(Findings { gathered, accounts }) => {
            let accounts = toml::to_string(accounts).unwrap_or_default();
            let length = u32::try_from(accounts.len()).unwrap_or(u32::MAX).to_le_bytes();
            [&[0][..], &length, accounts.as_bytes(), &gathered.to_bytes()].concat()
        }
        Err(error) => [&[error.code() as u8], error.to_string().as_bytes()].concat(),
    }
}

fn parse(bytes: &[u8]) -> Option<Result<Findings, Error>> {
    let (&code, rest) = bytes.split_first()?;
    if code != 0 {
        let message = String::from_utf8_lossy(rest).into_owned();
        return Some(Err(Error::new(Code::from_number(code)?, message)));
    }
    let (length, rest) = rest.split_first_chunk()?;
    let (accounts, gathered) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    let accounts = toml::from_str(str::from_utf8(accounts).ok()?).ok()?;
    Some(Ok(Findings { gathered: Gathered::from_bytes(gathered)?, accounts }))
}
