//! One program under one server, and its clients.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::SocketAddrV4;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::libc;
use nix::sys::signal::Signal;
use nix::unistd::{User, geteuid};

use support::command::{Finished, finish};
use support::procfs::{self, Process};
use support::{Address, Daemon, Directory, PATIENCE, provided, until};

/// Who accepts the connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Under {
    Ours,
    /// openbsd-inetd, in the foreground.
    Inetd,
    /// xinetd, in the foreground.
    Xinetd,
    /// tcpserver of ucspi-tcp.
    Tcpserver,
}

/// What is to be run for each connection. `Task::of(&["/bin/cat"])` is a task with four
/// workers that runs as whoever runs the tests.
pub struct Task<'a> {
    /// The program by its path, and its arguments.
    pub command: &'a [&'a str],
    /// What the program has as its own name. Under tcpserver there is none to give.
    pub argv0: Option<&'a str>,
    /// Whom it runs as. Where the tests do not run as root, nobody else can be asked for.
    pub user: Option<&'a str>,
    /// The number of workers under ours. The peers have no bound but their own default.
    pub workers: usize,
    /// The port, where the client knows no other. Only root can have one below 1024.
    pub port: Option<u16>,
    /// Further keys of the pool under ours, such as `kill_timeout = "1s"` and
    /// `service.exec.stderr = "null"`.
    pub keys: &'a str,
    /// Further lines of the service under xinetd, such as `per_source = 3`.
    pub xinetd: &'a str,
}

impl<'a> Task<'a> {
    pub fn of(command: &'a [&'a str]) -> Self {
        Task { command, argv0: None, user: None, workers: 4, port: None, keys: "", xinetd: "" }
    }

    /// The configuration of ours: a pool `program`.
    pub fn config(&self, address: &Address) -> String {
        let user = self.user.map(|name| format!("user = {name:?}\n")).unwrap_or_default();
        let argv0 =
            self.argv0.map(|name| format!("service.exec.argv0 = {name:?}\n")).unwrap_or_default();
        // What Rust writes for these texts is TOML too.
        format!(
            "[pool.program]\nlisten = \"{address}\"\nworkers = {}\n{user}{argv0}{}\n\
             service.exec.command = {:?}\n",
            self.workers, self.keys, self.command
        )
    }
}

/// A server that serves. Dropping it ends the server and all that it has started.
pub struct Served {
    address: Address,
    server: Server,
    config: String,
    round: Cell<u32>,
}

enum Server {
    Ours(Box<Daemon>),
    Peer(Peer),
}

impl Served {
    pub fn address(&self) -> &Address {
        &self.address
    }

    pub fn ip(&self) -> String {
        self.address.tcp().ip().to_string()
    }

    pub fn port(&self) -> String {
        self.address.tcp().port().to_string()
    }

    /// The daemon, under ours.
    pub fn daemon(&self) -> Option<&Daemon> {
        match &self.server {
            Server::Ours(daemon) => Some(daemon),
            Server::Peer(_) => None,
        }
    }

    /// The file in which the task stands, under inetd and xinetd.
    pub fn configuration(&self) -> Option<PathBuf> {
        let Server::Peer(peer) = &self.server else { return None };
        let files = ["inetd.conf", "xinetd.conf"].map(|name| peer.directory.join(name));
        files.into_iter().find(|file| file.is_file())
    }

    /// Under ours, these warnings are part of the case.
    pub fn expect(&self, messages: &[&str]) {
        if let Some(daemon) = self.daemon() {
            daemon.expect(messages);
        }
    }

    /// The process that accepts or, under ours, its master.
    pub fn pid(&self) -> i32 {
        match &self.server {
            Server::Ours(daemon) => daemon.pid(),
            Server::Peer(peer) => peer.child.id() as i32,
        }
    }

    /// Has the server read its configuration again. Under ours this replaces all workers,
    /// twice, since the environment of the pool changes.
    #[track_caller]
    pub fn renew(&self) {
        match &self.server {
            Server::Ours(daemon) => {
                for _ in 0..2 {
                    self.round.set(self.round.get() + 1);
                    let line = format!("env.ROUND = \"{}\"\n", self.round.get());
                    daemon.reload(&format!("{}{line}", self.config));
                }
            }
            Server::Peer(peer) if peer.under == Under::Inetd => {
                procfs::send(self.pid(), Signal::SIGHUP);
            }
            // The others read nothing again that concerns a connection.
            Server::Peer(_) => {}
        }
    }

    /// All processes that the server has started and their descendants. Whatever loses
    /// its parent becomes a child of the server, under each of them.
    pub fn descendants(&self) -> Vec<Process> {
        descendants(self.pid())
    }
}

impl Under {
    /// True if the server, its program and these others are installed. Otherwise says that
    /// the case is skipped; in CI it fails.
    #[track_caller]
    pub fn has(self, programs: &[&str]) -> bool {
        let server = match self {
            Under::Ours => None,
            Under::Inetd => Some("inetd"),
            Under::Xinetd => Some("xinetd"),
            Under::Tcpserver => Some("tcpserver"),
        };
        server
            .iter()
            .chain(programs)
            .all(|program| provided(find(program).is_some(), &format!("the program {program}")))
    }

    /// Starts the server with this task, at an address that no other test has, and waits
    /// until it listens.
    #[track_caller]
    pub fn serve(self, task: &Task) -> Served {
        let address = match (Address::fresh(), task.port) {
            (Address::Tcp(fresh), Some(port)) => Address::Tcp(SocketAddrV4::new(*fresh.ip(), port)),
            (fresh, _) => fresh,
        };
        let config = task.config(&address);
        let server = match self {
            Under::Ours => {
                let daemon = Daemon::start(&config);
                daemon.wait_for_idle("program", task.workers);
                Server::Ours(Box::new(daemon))
            }
            peer => Server::Peer(Peer::start(peer, task, &address)),
        };
        Served { address, server, config, round: Cell::new(0) }
    }
}

/// A peer that runs, with the folder that has its configuration and what it says.
struct Peer {
    under: Under,
    child: Child,
    directory: Directory,
}

impl Peer {
    #[track_caller]
    fn start(under: Under, task: &Task, address: &Address) -> Self {
        let directory = Directory::new();
        let words = match under {
            Under::Ours => unreachable!("ours is no peer"),
            Under::Inetd => inetd(task, address, &directory),
            Under::Xinetd => xinetd(task, address, &directory),
            Under::Tcpserver => tcpserver(task, address),
        };
        let log = |name| File::create(directory.join(name)).expect("create a file for the output");
        let mut command = Command::new(find(&words[0]).expect("the peer is installed"));
        command
            .args(&words[1..])
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null())
            .stdout(log("out"))
            .stderr(log("err"));
        // SAFETY: pre_exec wants async-signal-safe calls only: setsid(2) and prctl(2) are
        // system calls, and this option of prctl takes a number.
        unsafe { command.pre_exec(become_reaper) };
        let child =
            command.spawn().unwrap_or_else(|error| panic!("could not run {words:?}: {error}"));
        let mut peer = Peer { under, child, directory };
        until(&format!("{words:?} listens"), || {
            let ended = peer.child.try_wait().expect("wait for the peer");
            assert!(ended.is_none(), "{words:?} has ended: {ended:?}\n{}", peer.story());
            procfs::listener(address.tcp())
        });
        peer
    }

    /// Its configuration, and what it has said.
    fn story(&self) -> String {
        let files = ["inetd.conf", "xinetd.conf", "out", "err", "log"];
        let read = |name| fs::read_to_string(self.directory.join(name)).ok();
        let texts =
            files.into_iter().filter_map(|name| Some(format!("---- {name}\n{}", read(name)?)));
        texts.collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let pid = self.child.id() as i32;
        if std::thread::panicking() {
            eprintln!("{}\n{}", self.story(), procfs::table(&descendants(pid)));
        }
        // Held, it starts nothing new; what its programs start is seen the next time.
        procfs::send_if_there(pid, Signal::SIGSTOP);
        for _ in 0..1_000 {
            let mut left = descendants(pid);
            left.retain(Process::is_alive);
            if left.is_empty() {
                break;
            }
            for process in left {
                procfs::send_if_there(process.pid, Signal::SIGKILL);
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// In the child, before the exec: a session of its own, and what its programs leave
/// running becomes its child, so that the case finds and ends it.
fn become_reaper() -> std::io::Result<()> {
    nix::unistd::setsid()?;
    // SAFETY: prctl(2) with this option takes a number, and touches no memory.
    let done = unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
    nix::errno::Errno::result(done).map(drop)?;
    Ok(())
}

fn descendants(pid: i32) -> Vec<Process> {
    let all = procfs::processes(|_| true);
    let mut found: Vec<Process> = Vec::new();
    let mut parents = vec![pid];
    while let Some(parent) = parents.pop() {
        for process in all.iter().filter(|process| process.parent == parent) {
            parents.push(process.pid);
            found.push(process.clone());
        }
    }
    found
}

/// The command of openbsd-inetd. It takes ADDRESS:PORT as the name of a service, and
/// splits its lines at blanks.
fn inetd(task: &Task, address: &Address, directory: &Directory) -> Vec<String> {
    let command = without_blanks(task, directory);
    let name = task.argv0.unwrap_or_else(|| command[0].rsplit('/').next().unwrap_or_default());
    let line = format!(
        "{address} stream tcp nowait {} {} {name} {}\n",
        user(task),
        command[0],
        command[1..].join(" ")
    );
    let file = directory.write("inetd.conf", &line);
    // -i stays in the foreground, -R 0 is without the limit of 256 connections a minute.
    words(&["inetd", "-i", "-R", "0", &file.display().to_string()])
}

fn xinetd(task: &Task, address: &Address, directory: &Directory) -> Vec<String> {
    let command = without_blanks(task, directory);
    let address = address.tcp();
    let log = directory.join("log").display().to_string();
    let flags = if task.argv0.is_some() { "  flags = NAMEINARGS\n" } else { "" };
    let given = command[1..].iter().map(String::as_str);
    let arguments = task.argv0.into_iter().chain(given).collect::<Vec<_>>().join(" ");
    // An empty value is an error.
    let arguments = match &arguments[..] {
        "" => String::new(),
        some => format!("{flags}  server_args = {some}\n"),
    };
    let text = format!(
        "defaults\n{{\n  log_type = FILE {log}\n  instances = UNLIMITED\n  cps = 0 0\n}}\n\
         service program\n{{\n  type = UNLISTED\n  socket_type = stream\n  protocol = tcp\n  \
         wait = no\n  bind = {}\n  port = {}\n  user = {}\n  server = {}\n{arguments}{}\n}}\n",
        address.ip(),
        address.port(),
        user(task),
        command[0],
        task.xinetd,
    );
    let file = directory.write("xinetd.conf", &text).display().to_string();
    let pid_file = directory.join("pid").display().to_string();
    words(&["xinetd", "-dontfork", "-f", &file, "-pidfile", &pid_file])
}

fn tcpserver(task: &Task, address: &Address) -> Vec<String> {
    let address = address.tcp();
    let (ip, port) = (address.ip().to_string(), address.port().to_string());
    // Without names from DNS or from an ident server, and any number of connections.
    let mut line = words(&["tcpserver", "-H", "-R", "-l", "localhost", "-c", "1000"]);
    if let Some(user) = task.user.map(account) {
        line.extend(words(&["-u", &user.uid.to_string(), "-g", &user.gid.to_string()]));
    }
    line.extend([ip, port]);
    line.extend(task.command.iter().map(|&word| word.to_owned()));
    line
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

fn account(name: &str) -> User {
    let user = User::from_name(name).expect("read the user database");
    user.unwrap_or_else(|| panic!("there is no user {name}"))
}

/// The name of the user that a peer runs the program as.
fn user(task: &Task) -> String {
    task.user.map_or_else(
        || User::from_uid(geteuid()).expect("read the user database").expect("our user").name,
        str::to_owned,
    )
}

/// The command for a server that splits its line at blanks: an argument that has any goes
/// into a script that runs the command.
fn without_blanks(task: &Task, directory: &Directory) -> Vec<String> {
    let has_blanks = |word: &&&str| word.is_empty() || word.contains([' ', '\t', '\n', '#', '"']);
    if task.command.iter().any(|word| has_blanks(&word)) {
        let quoted = |word: &&str| format!("'{}'", word.replace('\'', r"'\''"));
        let line: Vec<_> = task.command.iter().map(quoted).collect();
        let script = directory.write("command", &format!("#!/bin/sh\nexec {}\n", line.join(" ")));
        return words(&["/bin/sh", &script.display().to_string()]);
    }
    words(task.command)
}

/// Where a program is installed.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<_> = std::env::split_paths(&path).collect();
    // Debian keeps servers there, which is not in everybody's PATH.
    places.extend(
        ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/lib/git-core", "/usr/lib/nagios/plugins"]
            .map(PathBuf::from),
    );
    places.into_iter().map(|place| place.join(name)).find(|file| file.is_file())
}

/// A command that is killed when it hangs.
pub fn client(words: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=1", &(PATIENCE.as_secs() * 3 / 4).to_string()]).args(words);
    command.stdin(Stdio::null());
    command
}

/// Runs a client to its end, and expects success of it.
#[track_caller]
pub fn run(command: &mut Command) -> Finished {
    let finished = finish(command);
    assert_eq!(finished.code, Some(0), "{command:?}: {}{}", finished.out, finished.err);
    finished
}

/// Runs a [`client`] that writes a lot to its standard output, and gives what it wrote.
/// `meanwhile` runs when the beginning has come. The rest is read after that, so the client
/// is in the middle of its transfer for as long as it takes.
#[track_caller]
pub fn run_through(mut command: Command, meanwhile: impl FnOnce()) -> Vec<u8> {
    let mut child = command.stdout(Stdio::piped()).spawn().expect("run the client");
    let mut stdout = child.stdout.take().expect("its output");
    let mut output = vec![0; 1024];
    stdout.read_exact(&mut output).expect("read what comes first");
    meanwhile();
    stdout.read_to_end(&mut output).expect("read the rest");
    let status = child.wait().expect("wait for the client");
    assert!(status.success(), "{command:?}: {status}");
    output
}

/// Makes a file of so many bytes that nothing can compress.
#[track_caller]
pub fn random_file(path: &Path, bytes: u64) {
    let mut from = File::open("/dev/urandom").expect("open the random numbers").take(bytes);
    let mut to = File::create(path).expect("create a file");
    std::io::copy(&mut from, &mut to).expect("write the file");
}

/// Runs a [`client`] that talks: each time it has printed a prompt, the answer is typed. At
/// the first prompt `meanwhile` runs before that. Its input stays open until it ends. Gives
/// all that it printed.
#[track_caller]
pub fn run_typing<const N: usize>(
    command: &mut Command,
    talk: [(&str, &str); N],
    meanwhile: impl FnOnce(),
) -> String {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("run the client");
    let mut stdin = child.stdin.take().expect("its input");
    let mut stdout = child.stdout.take().expect("its output");
    let mut output = Vec::new();
    let mut meanwhile = Some(meanwhile);
    for (prompt, answer) in talk {
        while !String::from_utf8_lossy(&output).contains(prompt) {
            let mut byte = [0];
            let said = String::from_utf8_lossy(&output).into_owned();
            stdout.read_exact(&mut byte).unwrap_or_else(|_| panic!("no {prompt:?} in {said:?}"));
            output.push(byte[0]);
        }
        if let Some(meanwhile) = meanwhile.take() {
            meanwhile();
        }
        stdin.write_all(answer.as_bytes()).expect("type the answer");
    }
    stdout.read_to_end(&mut output).expect("read the rest");
    child.wait().expect("wait for the client");
    String::from_utf8_lossy(&output).into_owned()
}
