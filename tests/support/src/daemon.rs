//! One daemon under test, from its start to the proof that nothing is left.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid};

use super::procfs::{self, Process};
use super::{Directory, Event, Log, is_root, until};

/// How a daemon is to be started.
pub struct Setup {
    directory: Directory,
    program: PathBuf,
    wrapper: Vec<String>,
    arguments: Vec<String>,
    variables: Vec<(String, String)>,
    user: Option<u32>,
    stdin: Option<Stdio>,
    stderr: Option<Stdio>,
    config: String,
    additions: Additions,
}

impl Setup {
    /// The daemon itself, in the foreground, with its log where the harness
    /// reads it.
    pub fn new() -> Self {
        Setup {
            directory: Directory::new(),
            program: program("preforkd"),
            wrapper: Vec::new(),
            arguments: Vec::new(),
            variables: Vec::new(),
            user: None,
            stdin: None,
            stderr: None,
            config: String::new(),
            additions: Additions::SocketAndUser,
        }
    }

    /// A daemon of `examples/`.
    #[track_caller]
    pub fn example(name: &str) -> Self {
        Setup { program: example(name), ..Setup::new() }
    }

    /// The private directory.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// The path of the program.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The text of the configuration file. Where it has no table `log` or
    /// `daemon`, one is added at its end that suits the harness.
    pub fn config(mut self, text: &str) -> Self {
        self.config = complete(text, self.directory.path(), self.additions);
        self
    }

    /// Leaves the user of pools without one to the daemon. To be called before
    /// [`config`](Self::config).
    pub fn with_default_user(mut self) -> Self {
        self.additions = Additions::Socket;
        self
    }

    /// Starts the daemon through this command, which gets its command line as
    /// last arguments.
    pub fn wrapper(mut self, words: &[&str]) -> Self {
        self.wrapper = words.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// One more argument, after `-c FILE`.
    pub fn argument(mut self, text: &str) -> Self {
        self.arguments.push(text.to_owned());
        self
    }

    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts the daemon under this user and group id. Only root can.
    pub fn user(mut self, id: u32) -> Self {
        self.user = Some(id);
        self
    }

    /// Gives the wrapper this as standard input, in place of nothing.
    pub fn stdin(mut self, stdin: impl Into<Stdio>) -> Self {
        self.stdin = Some(stdin.into());
        self
    }

    /// Gives the daemon another stderr; the harness then sees no event.
    pub fn stderr(mut self, stderr: impl Into<Stdio>) -> Self {
        self.stderr = Some(stderr.into());
        self
    }

    /// Starts it and waits for the event `ready`.
    #[track_caller]
    pub fn start(self) -> Daemon {
        let daemon = self.launch();
        daemon.log.wait_for("ready", |_| true);
        daemon
    }

    /// Starts it and waits for nothing.
    #[track_caller]
    pub fn launch(mut self) -> Daemon {
        let config = self.directory.write("preforkd.toml", &self.config);
        if let Some(user) = self.user {
            // The place of the build may be closed to others.
            let copy = self.directory.join("preforkd");
            // By another process: were this one to hold the copy open for writing,
            // a child that another test forks meanwhile would, too (ETXTBSY).
            let copied = Command::new("cp").arg(&self.program).arg(&copy).status();
            assert!(copied.is_ok_and(|status| status.success()), "copy the program");
            self.program = copy;
            std::os::unix::fs::chown(self.directory.path(), Some(user), Some(user))
                .expect("give the directory away");
        }
        // As `/proc/PID/exe` will show it.
        self.program = fs::canonicalize(&self.program).expect("the path of the program");
        let mut words = std::mem::take(&mut self.wrapper);
        words.push(self.program.display().to_string());
        words.push("-c".to_owned());
        words.push(config.display().to_string());
        words.append(&mut self.arguments);
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .envs(self.variables)
            .stdin(self.stdin.unwrap_or_else(Stdio::null))
            .stdout(Stdio::inherit());
        let log = match self.stderr {
            Some(stderr) => {
                command.stderr(stderr);
                Log::none()
            }
            None => {
                let (reader, writer) = roomy_pipe();
                command.stderr(writer);
                Log::follow(reader)
            }
        };
        let user = self.user;
        // SAFETY: pre_exec wants async-signal-safe calls only: setsid(2),
        // setgroups(2), setresgid(2) and setresuid(2) are system calls, and
        // nothing here allocates.
        unsafe { command.pre_exec(move || settle(user)) };
        let child =
            command.spawn().unwrap_or_else(|error| panic!("could not run {words:?}: {error}"));
        // Else this process would hold the log open for writing, too.
        drop(command);
        Daemon {
            session: child.id() as i32,
            child: Mutex::new(child),
            status: OnceLock::new(),
            master: OnceLock::new(),
            directory: self.directory,
            program: self.program,
            config,
            additions: self.additions,
            words,
            log,
            expected: Mutex::default(),
            checks: true,
        }
    }
}

/// A pipe with room for all that a daemon logs while the thread that reads it gets no
/// processor: a daemon waits a moment for its reader, and then drops lines.
fn roomy_pipe() -> (io::PipeReader, io::PipeWriter) {
    let (reader, writer) = io::pipe().expect("make a pipe");
    // As much as the system allows to the user of the tests.
    let _ = [1 << 24, 1 << 20]
        .into_iter()
        .find(|&bytes| fcntl(&writer, FcntlArg::F_SETPIPE_SZ(bytes)).is_ok());
    (reader, writer)
}

/// The path of a program of the package.
#[track_caller]
pub fn program(name: &str) -> PathBuf {
    built(name, "--bins")
}

/// The path of a program of `examples/`.
#[track_caller]
pub fn example(name: &str) -> PathBuf {
    built(&format!("examples/{name}"), "--examples")
}

/// What Cargo has built next to the test that runs. Cargo names its path to the code
/// of a test only, and this is a crate of its own.
#[track_caller]
fn built(path: &str, kind: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the path of the test");
    // target/PROFILE/deps/TEST.
    let profile = test.ancestors().nth(2).expect("the folder of the profile");
    let program = profile.join(path);
    assert!(program.exists(), "there is no {}: run `cargo build {kind}`", program.display());
    program
}

/// In the child, before the exec: a session of its own, which all that the
/// daemon starts belongs to and is found by.
fn settle(user: Option<u32>) -> io::Result<()> {
    nix::unistd::setsid()?;
    if let Some(id) = user {
        let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
        nix::unistd::setgroups(&[])?;
        nix::unistd::setresgid(gid, gid, gid)?;
        nix::unistd::setresuid(uid, uid, uid)?;
    }
    Ok(())
}

/// What the harness adds to the table `daemon`.
#[derive(Clone, Copy)]
enum Additions {
    /// The control socket.
    Socket,
    /// And root as the user of the workers, where the tests run as root: programs of a
    /// test come into its private directory then.
    SocketAndUser,
}

/// `text` with the tables that the harness needs.
fn complete(text: &str, directory: &Path, additions: Additions) -> String {
    let mut text = text.to_owned();
    if !text.contains("[log]") {
        text.push_str("\n[log]\nformat = \"json\"\n");
    }
    // The harness follows each worker.
    if !text.contains("level =") {
        text = text.replacen("[log]\n", "[log]\nlevel = \"debug\"\n", 1);
    }
    let mut lines = String::new();
    if !text.contains("control =") {
        lines.push_str(&format!("control = \"{}\"\n", directory.join("control.sock").display()));
    }
    if matches!(additions, Additions::SocketAndUser) && is_root() {
        lines.push_str("user = \"root\"\n");
    }
    match text.contains("[daemon]\n") {
        true => text.replacen("[daemon]\n", &format!("[daemon]\n{lines}"), 1),
        false => format!("{text}\n[daemon]\n{lines}"),
    }
}

/// Whether a child of a master reads the configuration for a reload.
fn is_reader(child: &Process) -> bool {
    child.name.ends_with("-reload")
}

/// A daemon that runs, or ran.
pub struct Daemon {
    /// The process that the harness started, and with it the session.
    session: i32,
    child: Mutex<Child>,
    status: OnceLock<ExitStatus>,
    master: OnceLock<i32>,
    directory: Directory,
    program: PathBuf,
    config: PathBuf,
    additions: Additions,
    words: Vec<String>,
    log: Log,
    expected: Mutex<Vec<String>>,
    checks: bool,
}

impl Daemon {
    /// Starts the daemon with this configuration and waits until it is ready.
    #[track_caller]
    pub fn start(config: &str) -> Self {
        Setup::new().config(config).start()
    }

    /// The same with a daemon of `examples/`.
    #[track_caller]
    pub fn start_example(name: &str, config: &str) -> Self {
        Setup::example(name).config(config).start()
    }

    /// The process id of the master, as this process sees it.
    #[track_caller]
    pub fn pid(&self) -> i32 {
        *self.master.get_or_init(|| {
            until("the master runs", || {
                // The master is the one that none of the others started.
                procfs::processes(|process| process.session == self.session)
                    .into_iter()
                    .find(|process| self.is_daemon(process.pid) && !self.is_daemon(process.parent))
                    .map(|process| process.pid)
            })
        })
    }

    fn is_daemon(&self, pid: i32) -> bool {
        match fs::read_link(format!("/proc/{pid}/exe")) {
            Ok(path) => path == self.program,
            // Only root may see that of the master and of workers. A name has 15 bytes.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let name = self.program.file_name().unwrap_or_default().as_encoded_bytes();
                let name = &name[..name.len().min(15)];
                Process::of(pid).is_some_and(|process| process.name.as_bytes() == name)
            }
            Err(_) => false,
        }
    }

    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    pub fn log(&self) -> &Log {
        &self.log
    }

    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        procfs::send(self.pid(), signal);
    }

    /// Warnings with this message are part of the test.
    pub fn expect(&self, messages: &[&str]) {
        let mut expected = self.expected.lock().expect("one thread at a time");
        expected.extend(messages.iter().map(|&message| message.to_owned()));
    }

    /// Whatever the log holds is part of the test.
    pub fn expect_anything(&mut self) {
        self.checks = false;
    }

    /// All children of the master that live.
    #[track_caller]
    pub fn children(&self) -> Vec<i32> {
        let children = procfs::children(self.pid());
        // Not the one that reads the configuration for a reload.
        let is_one = |child: &&Process| child.is_alive() && !is_reader(child);
        children.iter().filter(is_one).map(|child| child.pid).collect()
    }

    /// The children that ended and were not reaped.
    #[track_caller]
    pub fn zombies(&self) -> Vec<i32> {
        // The one that has read the configuration for a reload may just have ended.
        let children = until("who read for a reload is reaped", || {
            let children = procfs::children(self.pid());
            (!children.iter().any(is_reader)).then_some(children)
        });
        children.iter().filter(|child| child.is_zombie()).map(|child| child.pid).collect()
    }

    /// The workers of a pool that live, by what the log said at their start.
    #[track_caller]
    pub fn workers(&self, pool: &str) -> Vec<i32> {
        let events = self.log.events();
        let is_of_pool = |pid: i32| {
            let pid = procfs::inner_pid(pid).unwrap_or(pid);
            // A process id may come twice; the latest start counts.
            let start =
                events.iter().rev().find(|e| e.message() == "worker started" && e.pid() == pid);
            start.is_some_and(|event| event.is_of_pool(pool))
        };
        self.children().into_iter().filter(|&pid| is_of_pool(pid)).collect()
    }

    /// Waits until the pool has exactly `count` workers, all idle.
    #[track_caller]
    pub fn wait_for_idle(&self, pool: &str, count: usize) -> Vec<i32> {
        let mut seen = Vec::new();
        until(&format!("pool {pool} has {count} idle workers"), || {
            seen = self.workers(pool);
            let is_it = seen.len() == count && seen.iter().all(|&pid| procfs::is_in_accept(pid));
            is_it.then(|| seen.clone())
        })
    }

    /// The same for a daemon with one pool, without a look at its log.
    #[track_caller]
    pub fn wait_for_children(&self, count: usize) -> Vec<i32> {
        until(&format!("the master has {count} idle children"), || {
            let children = procfs::all_children(self.pid());
            let is_it = children.len() == count
                && children.iter().all(|&child| procfs::is_in_accept(child));
            is_it.then_some(children)
        })
    }

    /// Stops the master, as a debugger would, until SIGCONT.
    #[track_caller]
    pub fn hold(&self) {
        self.signal(Signal::SIGSTOP);
        let is_held = || Process::of(self.pid()).is_some_and(|process| process.state == 'T');
        until("the master is held", || is_held().then_some(()));
    }

    /// Waits until the signals that were sent to the master are obeyed, and the files of a
    /// reload are read.
    #[track_caller]
    pub fn wait_until_obeyed(&self) {
        until("the signals are obeyed", || {
            let pending = procfs::status(self.pid(), "ShdPnd")?;
            let are_taken = pending.chars().all(|digit| digit == '0');
            let is_idle = procfs::is_in_ppoll(self.pid()) && !procfs::reads_a_pipe(self.pid());
            (are_taken && is_idle).then_some(())
        });
    }

    /// Writes another configuration; a reload reads it.
    pub fn rewrite_config(&self, text: &str) {
        // Written next to the old file and renamed, so that no reload sees half of it.
        let new = self
            .directory
            .write("preforkd.toml.new", &complete(text, self.directory.path(), self.additions));
        fs::rename(new, &self.config).expect("replace the configuration");
    }

    /// Writes these very bytes as configuration.
    pub fn rewrite_config_raw(&self, text: &str) {
        fs::write(&self.config, text).expect("write the configuration");
    }

    pub fn config_path(&self) -> &Path {
        &self.config
    }

    /// Reloads another configuration and waits until that is done.
    ///
    /// # Panics
    ///
    /// At once, if the reload fails.
    #[track_caller]
    pub fn reload(&self, text: &str) -> Event {
        let mark = self.log.mark();
        self.rewrite_config(text);
        self.signal(Signal::SIGHUP);
        let is_end = |event: &Event| matches!(event.message(), "reloaded" | "reload failed");
        let end = self.log.wait_count(mark, 1, "the end of the reload", is_end).swap_remove(0);
        assert_eq!(end.message(), "reloaded", "{end}");
        end
    }

    /// Reloads what has to fail, and gives the event that says so.
    #[track_caller]
    pub fn fail_to_reload(&self) -> Event {
        self.expect(&["reload failed"]);
        let mark = self.log.mark();
        self.signal(Signal::SIGHUP);
        self.log.wait_since(mark, "reload failed", |_| true)
    }

    /// How it ended, if it has.
    pub fn status(&self) -> Option<ExitStatus> {
        if let Some(status) = self.status.get() {
            return Some(*status);
        }
        let status = self
            .child
            .lock()
            .expect("one thread at a time")
            .try_wait()
            .expect("wait for the daemon")?;
        Some(*self.status.get_or_init(|| status))
    }

    /// Waits until it has ended.
    #[track_caller]
    pub fn wait(&self) -> ExitStatus {
        until("the daemon ends", || self.status())
    }

    /// Waits until it has ended, and checks its exit code.
    #[track_caller]
    pub fn wait_for_code(&self, code: i32) {
        let status = self.wait();
        assert_eq!(status.code(), Some(code), "the daemon ended with {status}");
    }

    /// Stops it with SIGTERM. All of its log has been read then.
    #[track_caller]
    pub fn stop(&self) -> ExitStatus {
        if self.status().is_none() {
            self.signal(Signal::SIGTERM);
        }
        let status = self.wait();
        self.wait_for_nothing_left();
        status
    }

    /// What runs in its session: itself, its workers, their programs. A zombie
    /// counts as long as it is the daemon's business.
    pub fn processes(&self) -> Vec<Process> {
        let orphaned = |process: &Process| process.is_zombie() && process.parent <= 1;
        procfs::processes(|process| process.session == self.session && !orphaned(process))
    }

    /// Waits until nothing of it is left, and all of its log has been read.
    #[track_caller]
    pub fn wait_for_nothing_left(&self) {
        until("nothing of the daemon is left", || {
            (self.processes().is_empty() && self.log.is_closed()).then_some(())
        });
    }

    /// The log lines that a test has to announce, and did not.
    pub fn complaints(&self) -> Vec<Event> {
        let expected = self.expected.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut events = self.log.events();
        events.retain(|event| {
            event.is_bad() && !expected.iter().any(|message| message == event.message())
        });
        events
    }

    /// The end of every test: the daemon stops cleanly, nothing is left, and
    /// the log holds nothing unexpected.
    fn finish(&self) {
        if self.status().is_none() {
            let status = self.stop();
            assert_eq!(status.code(), Some(0), "at SIGTERM the daemon ended with {status}");
        }
        self.wait_for_nothing_left();
        let complaints = if self.checks { self.complaints() } else { Vec::new() };
        let lines: Vec<_> = complaints.iter().map(Event::to_string).collect();
        assert!(lines.is_empty(), "unexpected in the log:\n{}", lines.join("\n"));
    }

    fn describe(&self) -> String {
        let log: Vec<_> = self.log.events().iter().map(Event::to_string).collect();
        let skipped = log.len().saturating_sub(300);
        format!(
            "---- command: {}\n---- configuration:\n{}\n---- log, without its first {skipped} lines:\n{}\n\
             ---- processes:\n{}----",
            self.words.join(" "),
            fs::read_to_string(&self.config).unwrap_or_default().trim_end(),
            log[skipped..].join("\n"),
            procfs::table(&self.processes()),
        )
    }

    fn kill(&self) {
        for _ in 0..100 {
            let left = self.processes();
            for process in left.iter().filter(|process| process.is_alive()) {
                procfs::send_if_there(process.pid, Signal::SIGKILL);
            }
            // Reaps it, if it is what is left.
            let _ = self.child.lock().map(|mut child| child.try_wait());
            if left.is_empty() {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if !thread::panicking() {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.finish()));
            let Err(cause) = result else {
                return;
            };
            eprintln!("{}", self.describe());
            self.kill();
            std::panic::resume_unwind(cause);
        }
        eprintln!("{}", self.describe());
        self.kill();
    }
}
