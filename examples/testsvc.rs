//! A daemon whose services misbehave on request, for the tests.
//!
//! `command` reads one line from its client and obeys it. `die_at_start` does
//! as `command`, once its worker got through `start`, where it can be made to
//! die, to fail or to wait.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::PathBuf;
use std::process::{self, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, Flock, FlockArg, OFlag, fcntl};
use nix::libc;
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::socket::{MsgFlags, Shutdown, getsockopt, recv, shutdown, sockopt};
use nix::time::{ClockId, clock_gettime};
use nix::unistd;
use preforkd::{Connection, Context, Options, Outcome, Problems, Service, Services};
use serde::Deserialize;

fn main() -> ExitCode {
    preforkd::main(
        Services::builtin()
            .with("command", Command::from_options)
            .with("die_at_start", DieAtStart::from_options)
            .with("bug", bug)
            .with("stuck", stuck)
            .with("threads", threads),
    )
}

/// A service with a bug in what reads its options, in the master itself.
fn bug(_: &Options) -> Result<Command, Problems> {
    panic!("asked to panic")
}

/// A service that hangs or dies in what reads its options, if they say so.
fn stuck(options: &Options) -> Result<Command, Problems> {
    match options.parse::<Stuck>()?.how.as_str() {
        "hang" => loop {
            thread::sleep(Duration::from_secs(1));
        },
        "die" => process::abort(),
        _ => Ok(Command),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stuck {
    how: String,
}

/// A service that starts a thread in what reads its options.
fn threads(options: &Options) -> Result<Command, Problems> {
    let Threads { joined } = options.parse()?;
    let thread = thread::spawn(move || {
        if !joined {
            thread::sleep(Duration::MAX);
        }
    });
    if joined {
        let _ = thread.join();
    }
    Ok(Command)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Threads {
    /// The thread ends at once.
    #[serde(default)]
    joined: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NoOptions {}

struct Command;

impl Command {
    fn from_options(options: &Options) -> Result<Self, Problems> {
        options.parse::<NoOptions>().map(|_| Command)
    }
}

impl Service for Command {
    fn serve(&mut self, connection: Connection, _: &Context) -> Outcome {
        obey(&connection).into()
    }
}

/// What `start` does before the worker may accept.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DieAtStart {
    /// The ways to die below apply only while this file exists.
    while_exists: Option<PathBuf>,
    /// Exit with this code.
    code: Option<i32>,
    /// Die of this signal.
    signal: Option<i32>,
    /// Panic.
    #[serde(default)]
    panic: bool,
    /// Return an error with this text.
    error: Option<String>,
    /// Say before that the worker accepts, has served, and leaves for it was recycled.
    #[serde(default)]
    lie: bool,
    /// Ignore SIGTERM from here on, whether the worker dies or not.
    #[serde(default)]
    deaf: bool,
    /// Only a worker that gets none of these files locked dies. With one file
    /// fewer than workers, one slot dies over and over, and always the same.
    #[serde(default)]
    seats: Vec<PathBuf>,
    /// Add a line to this file before dying: the time in milliseconds.
    diary: Option<PathBuf>,
    /// Do not get past `start` while this file exists.
    gate: Option<PathBuf>,
    #[serde(skip)]
    seat: Option<Flock<File>>,
}

impl DieAtStart {
    fn from_options(options: &Options) -> Result<Self, Problems> {
        options.parse()
    }

    fn may_die(&mut self) -> io::Result<bool> {
        if self.while_exists.as_ref().is_some_and(|path| !path.exists()) {
            return Ok(false);
        }
        for path in &self.seats {
            match Flock::lock(File::create(path)?, FlockArg::LockExclusiveNonblock) {
                Ok(seat) => {
                    self.seat = Some(seat);
                    return Ok(false);
                }
                Err((_, Errno::EWOULDBLOCK)) => {}
                Err((_, errno)) => return Err(errno.into()),
            }
        }
        Ok(true)
    }
}

impl Service for DieAtStart {
    fn start(&mut self) -> io::Result<()> {
        while self.gate.as_ref().is_some_and(|path| path.exists()) {
            thread::sleep(Duration::from_millis(5));
        }
        if self.deaf {
            // SAFETY: no function of ours is installed, so none can run in a handler.
            unsafe { signal(Signal::SIGTERM, SigHandler::SigIgn) }?;
        }
        if !self.may_die()? {
            return Ok(());
        }
        if self.lie {
            lie()?;
        }
        if let Some(path) = &self.diary {
            let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
            let millis = now.tv_sec() * 1000 + now.tv_nsec() / 1_000_000;
            let mut diary = File::options().append(true).create(true).open(path)?;
            diary.write_all(format!("{millis}\n").as_bytes())?;
        }
        if let Some(code) = self.code {
            process::exit(code);
        }
        if let Some(signal) = self.signal {
            raise(signal);
        }
        assert!(!self.panic, "asked to panic");
        match &self.error {
            Some(text) => Err(io::Error::other(text.clone())),
            None => Ok(()),
        }
    }

    fn serve(&mut self, connection: Connection, _: &Context) -> Outcome {
        obey(&connection).into()
    }
}

/// Reads a line, does what it says, and answers.
fn obey(connection: &Connection) -> io::Result<()> {
    let mut input = BufReader::new(connection);
    let mut output = connection;
    let mut line = String::new();
    input.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let verb = words.next().unwrap_or_default();
    let number = words.next().and_then(|word| word.parse::<i32>().ok());
    match verb {
        "exit" => process::exit(number.unwrap_or(0)),
        "signal" => raise(number.unwrap_or(libc::SIGSEGV)),
        "abort" => process::abort(),
        "panic" => panic!("asked to panic"),
        // It answers first, so that its client knows that it got there.
        "spin" => {
            writeln!(output, "{}", process::id())?;
            loop {
                std::hint::spin_loop();
            }
        }
        // `thread::sleep` goes on after a signal, so this ignores politeness.
        "sleep" => {
            writeln!(output, "{}", process::id())?;
            thread::sleep(number.map_or(Duration::MAX, |s| Duration::from_secs(s as u64)));
        }
        "pid" => writeln!(output, "{}", process::id())?,
        // A line of so many bytes on the standard error, and a short one.
        "complain" => {
            eprintln!("{:0>1$}", "", number.unwrap_or(0) as usize);
            eprintln!("a short line");
            writeln!(output, "{}", process::id())?;
        }
        "env" => {
            let mut text = String::new();
            for (name, value) in std::env::vars_os() {
                let _ = writeln!(text, "{}={}", name.display(), value.display());
            }
            output.write_all(text.as_bytes())?;
        }
        "fds" => output.write_all(descriptors()?.as_bytes())?,
        "ids" => output.write_all(identity()?.as_bytes())?,
        "setuid0" => output.write_all(back_to_root().as_bytes())?,
        "deafen" => {
            writeln!(output, "{}", with_listeners(|it| shutdown(it.as_raw_fd(), Shutdown::Both))?)?;
        }
        // As many programs do with the listener that they inherit.
        "unblock" => {
            let set =
                |it: BorrowedFd<'_>| fcntl(it, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map(drop);
            writeln!(output, "{}", with_listeners(set)?)?;
        }
        "scribble" => scribble(connection, number.map(|s| Duration::from_secs(s as u64)))?,
        "grow" => writeln!(output, "{}", pages_behind_ours()?)?,
        "echo" => {
            let mut buffer = [0; 4096];
            loop {
                match input.read(&mut buffer)? {
                    0 => break,
                    size => output.write_all(&buffer[..size])?,
                }
            }
        }
        // Answers with the reason for which its client's next bytes did not come.
        "wait" => {
            writeln!(output, "{}", process::id())?;
            match input.fill_buf() {
                Ok(_) => writeln!(output, "came")?,
                Err(error) => writeln!(output, "{:?}", error.kind())?,
            }
        }
        // Sends so many bytes, whatever its client sends meanwhile.
        "send" => output.write_all(&vec![b'x'; number.unwrap_or(0) as usize])?,
        unknown => writeln!(output, "unknown command {unknown:?}")?,
    }
    Ok(())
}

/// Dies of a signal, as if nobody handled it: Rust's own handler for SIGSEGV
/// and SIGBUS swallows the first one that no fault has caused.
fn raise(signal: i32) {
    // SAFETY: SIG_DFL is no handler of ours, and kill(2) takes numbers only.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::kill(libc::getpid(), signal);
    }
}

/// A line `NUMBER TARGET` for every open descriptor.
fn descriptors() -> io::Result<String> {
    let mut lines = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        // The descriptor of this very listing is gone again when it is read.
        if let Ok(target) = fs::read_link(entry.path())
            && !target.to_string_lossy().ends_with("/fd")
        {
            lines.push(format!("{} {}\n", entry.file_name().display(), target.display()));
        }
    }
    lines.sort();
    Ok(lines.concat())
}

fn identity() -> io::Result<String> {
    let user = unistd::getresuid()?;
    let group = unistd::getresgid()?;
    let groups: Vec<_> = unistd::getgroups()?.iter().map(|group| group.to_string()).collect();
    Ok(format!(
        "uid {} {} {}\ngid {} {} {}\ngroups {}\n",
        user.real,
        user.effective,
        user.saved,
        group.real,
        group.effective,
        group.saved,
        groups.join(" ")
    ))
}

/// Tries every way back to root; a line `WAY: RESULT` for each.
fn back_to_root() -> String {
    let root = unistd::Uid::from_raw(0);
    let group = unistd::Gid::from_raw(0);
    let ways = [
        ("setuid", unistd::setuid(root)),
        ("seteuid", unistd::seteuid(root)),
        ("setresuid", unistd::setresuid(root, root, root)),
        ("setgid", unistd::setgid(group)),
        ("setresgid", unistd::setresgid(group, group, group)),
        ("setgroups", unistd::setgroups(&[group])),
    ];
    let mut text = String::new();
    for (way, result) in ways {
        let _ =
            writeln!(text, "{way}: {}", result.map_or_else(|e| format!("{e:?}"), |()| "ok".into()));
    }
    text
}

/// The memory that this process shares and may write to: from where to where.
fn shared_areas() -> io::Result<Vec<(usize, usize)>> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let mut areas = Vec::new();
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (Some(range), Some("rw-s")) = (words.next(), words.next()) else {
            continue;
        };
        let hex = |text: &str| usize::from_str_radix(text, 16).ok();
        let Some((from, to)) = range.split_once('-') else {
            continue;
        };
        areas.extend(hex(from).zip(hex(to)));
    }
    Ok(areas)
}

/// Maps what this process shares a second time, and more of it; gives how many
/// pages that were not its own it can read then.
fn pages_behind_ours() -> io::Result<usize> {
    const PAGE: usize = 4096;
    const PAGES: usize = 64;
    let (_reader, writer) = io::pipe()?;
    let mut reached = 0;
    for (from, to) in shared_areas()? {
        // SAFETY: mremap(2) with an old size of 0 makes another mapping of
        // shared memory at an address of the kernel's choice.
        let more = unsafe {
            libc::mremap(from as *mut libc::c_void, 0, PAGES * PAGE, libc::MREMAP_MAYMOVE)
        };
        if more == libc::MAP_FAILED {
            continue;
        }
        for page in (to - from) / PAGE..PAGES {
            // SAFETY: write(2) itself tells an address that cannot be read.
            let written = unsafe { libc::write(writer.as_raw_fd(), more.byte_add(page * PAGE), 1) };
            reached += usize::from(written == 1);
        }
    }
    Ok(reached)
}

/// Does this to every socket of the worker that listens; gives how many.
fn with_listeners(act: impl Fn(BorrowedFd<'_>) -> nix::Result<()>) -> io::Result<usize> {
    let mut done = 0;
    for entry in fs::read_dir("/proc/self/fd")? {
        let name = entry?.file_name();
        let Some(number) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        // SAFETY: the number is that of a descriptor of the worker, or fails.
        let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
        if getsockopt(&descriptor, sockopt::AcceptConn) == Ok(true) {
            act(descriptor)?;
            done += 1;
        }
    }
    Ok(done)
}

/// Writes to the own page what a worker at the end of a good life has there.
fn lie() -> io::Result<()> {
    const ACCEPTING: usize = 0;
    const SERVED: usize = 1;
    const LEAVING: usize = 5;
    for (from, _) in shared_areas()? {
        for (word, value) in [(ACCEPTING, 1), (SERVED, 1000), (LEAVING, 1)] {
            // SAFETY: the page is mapped and may be written to, as /proc/self/maps
            // says; whoever else has it expects anything.
            unsafe { (from as *mut u64).add(word).write_volatile(value) };
        }
    }
    Ok(())
}

/// Writes random bytes over every shared page that the worker has, for the
/// given time or until the client closes its sending side; answers `pages N` before and `done` after.
fn scribble(connection: &Connection, time: Option<Duration>) -> io::Result<()> {
    let mut output = connection;
    let areas = shared_areas()?;
    let pages: usize = areas.iter().map(|(from, to)| (to - from) / 4096).sum();
    writeln!(output, "pages {pages}")?;
    let began = Instant::now();
    let goes_on = || match time {
        Some(time) => began.elapsed() < time,
        None => {
            let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
            recv(connection.as_fd().as_raw_fd(), &mut [0], flags) == Err(Errno::EAGAIN)
        }
    };
    let mut random = u64::from(process::id()) | 1 << 40;
    while goes_on() {
        for &(from, to) in &areas {
            for address in (from..to).step_by(8) {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                // SAFETY: write_volatile(3) wants an aligned address that is
                // mapped for writing: /proc/self/maps said so, pages begin at
                // multiples of 4096, and this process has but one thread that
                // could unmap it.
                unsafe { std::ptr::write_volatile(address as *mut u64, random) };
            }
        }
    }
    writeln!(output, "done")
}
