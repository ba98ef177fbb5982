//! One container with a systemd of its own, and the package to install in it.

use std::fs;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use nix::libc;
use serde_json::Value;

use support::{Address, Client, Directory, procfs, provided, until};

/// The address of the pool in the shipped configuration.
pub fn shipped_address() -> Address {
    Address::Tcp("127.0.0.1:7007".parse().expect("an address"))
}

fn script() -> Command {
    let mut command =
        Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/systemd/lab.sh"));
    command.stdin(Stdio::null());
    command
}

/// What a command said.
#[derive(Clone, Debug)]
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Said {
    fn from(output: Output) -> Self {
        Said {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// A container that runs, and ends with the test.
pub struct Lab {
    name: String,
    /// The host's pid of its PID 1.
    leader: i32,
    pub suite: &'static str,
}

impl Lab {
    /// Boots one, with nothing installed; None if it cannot be had here.
    #[track_caller]
    pub fn boot(suite: &'static str) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let need = Said::from(script().arg("need").output().expect("run lab.sh"));
        let need = need.out.split_whitespace().collect::<Vec<_>>().join(", ");
        if !provided(need.is_empty(), &format!("{need} for a container with systemd"))
            || !provided(package::tool("cargo-deb").is_some(), "cargo-deb")
        {
            return None;
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let pid = std::process::id();
        let name = format!("{suite}-{pid}-{number}");
        let booted = script().args(["boot", suite, &name, &pid.to_string()]).output();
        let booted = Said::from(booted.expect("run lab.sh"));
        assert_eq!(booted.code, 0, "{}", booted.err);
        let leader = Said::from(script().args(["pid", &name]).output().expect("run lab.sh"));
        let leader = leader.out.trim().parse().expect("a pid");
        Some(Lab { name, leader, suite })
    }

    /// Boots one and installs the package, whose service then runs.
    #[track_caller]
    pub fn with_package(suite: &'static str) -> Option<Self> {
        let lab = Lab::boot(suite)?;
        lab.copy(package::first(), "/root");
        lab.sh("dpkg --install /root/preforkd_*.deb && systemctl is-active preforkd");
        Some(lab)
    }

    /// The same, with this configuration.
    #[track_caller]
    pub fn with_pools(suite: &'static str, config: &str) -> Option<Self> {
        let lab = Lab::with_package(suite)?;
        lab.configure(config);
        lab.sh("systemctl restart preforkd");
        Some(lab)
    }

    /// Whether its systemd is one that has Type=notify-reload and what else the
    /// package uses of systemd 254.
    pub fn is_modern(&self) -> bool {
        self.suite != "bookworm"
    }

    /// Runs a script in it, whatever comes of it.
    pub fn try_sh(&self, text: &str) -> Said {
        let mut command = script();
        command.args(["run", &self.name, "--", "sh", "-ec", text]);
        Said::from(command.output().expect("run lab.sh"))
    }

    /// Runs a script in it, and gives what it says.
    #[track_caller]
    pub fn sh(&self, text: &str) -> String {
        let said = self.try_sh(text);
        assert_eq!(said.code, 0, "{text}\n{}{}", said.out, said.err);
        said.out
    }

    /// Starts a script and does not wait for it.
    pub fn spawn(&self, text: &str) -> thread::JoinHandle<Said> {
        let mut command = script();
        command.args(["run", &self.name, "--", "sh", "-ec", text]);
        thread::spawn(move || Said::from(command.output().expect("run lab.sh")))
    }

    /// A path in it, as this process sees it.
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.leader))
    }

    /// Whether there is something at this path, be it a link to nowhere: an
    /// absolute one leads into the host.
    pub fn has(&self, path: &str) -> bool {
        self.path(path).symlink_metadata().is_ok()
    }

    #[track_caller]
    pub fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("make the directory");
        fs::write(path, text).expect("write into the container");
    }

    #[track_caller]
    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).expect("read from the container")
    }

    #[track_caller]
    pub fn copy(&self, file: &Path, directory: &str) {
        let mut command = script();
        command.args(["copy", &self.name]).arg(file).arg(directory);
        assert!(command.status().expect("run lab.sh").success(), "copy {}", file.display());
    }

    /// Writes the configuration of the service.
    #[track_caller]
    pub fn configure(&self, text: &str) {
        self.write("/etc/preforkd/preforkd.toml", text);
    }

    /// Adds to the unit, as `systemctl edit` does.
    #[track_caller]
    pub fn edit(&self, section: &str) {
        self.write("/etc/systemd/system/preforkd.service.d/50-test.conf", section);
        self.sh("systemctl daemon-reload");
    }

    /// Waits until nobody listens at an address: what systemd kept of a service it
    /// closes when it comes to it, after the stop is done.
    #[track_caller]
    pub fn wait_until_free(&self, address: &Address) {
        until(&format!("{address} refuses clients"), || {
            self.inside(|| Client::try_connect(address)).is_err().then_some(())
        });
    }

    /// A property of the service.
    #[track_caller]
    pub fn show(&self, property: &str) -> String {
        self.sh(&format!("systemctl show -P {property} preforkd")).trim_end().to_owned()
    }

    /// Waits until a property of the service is as wanted.
    #[track_caller]
    pub fn wait_for(&self, property: &str, wanted: impl Fn(&str) -> bool) -> String {
        until(&format!("{property} of the service"), || {
            Some(self.show(property)).filter(|value| wanted(value))
        })
    }

    /// The host's pid of the master.
    #[track_caller]
    pub fn master(&self) -> i32 {
        let inner: i32 = self.show("MainPID").parse().expect("a pid");
        assert!(inner > 1, "the service has no process");
        self.host_pid(inner).expect("the master")
    }

    /// The host's pid of a process in it.
    pub fn host_pid(&self, inner: i32) -> Option<i32> {
        let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let ours = namespace(self.leader);
        procfs::processes(|_| true)
            .into_iter()
            .map(|process| process.pid)
            .filter(|&pid| procfs::inner_pid(pid) == Some(inner))
            .find(|&pid| namespace(pid) == ours)
    }

    /// The host's pids of the workers.
    #[track_caller]
    pub fn workers(&self) -> Vec<i32> {
        let children = procfs::children(self.master());
        children.iter().filter(|child| child.is_alive()).map(|child| child.pid).collect()
    }

    /// Waits until there are so many workers and all sleep in accept.
    #[track_caller]
    pub fn wait_for_idle(&self, count: usize) -> Vec<i32> {
        until("the workers are idle", || {
            let workers = self.workers();
            let is_it =
                workers.len() == count && workers.iter().all(|&pid| procfs::is_in_accept(pid));
            is_it.then_some(workers)
        })
    }

    /// Calls `f` where its sockets, and those of the threads that it starts, are
    /// in the container's network.
    pub fn inside<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        let network = File::open(format!("/proc/{}/ns/net", self.leader)).expect("its network");
        thread::scope(|scope| {
            let thread = scope.spawn(move || {
                // SAFETY: setns(2) takes a descriptor of a namespace, which is
                // open, and moves this thread alone, which ends with `f`.
                let entered = unsafe { libc::setns(network.as_raw_fd(), libc::CLONE_NEWNET) };
                assert_eq!(entered, 0, "enter its network: {}", io::Error::last_os_error());
                f()
            });
            match thread.join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// The entries in the journal that have all these fields, as in
    /// `journalctl POOL=echo`. Not those of the unit, since journald does not know
    /// the unit of a process that is gone when it reads what that has left.
    #[track_caller]
    pub fn journal(&self, fields: &str) -> Vec<Value> {
        let command = "journalctl --sync; journalctl --output json --all";
        let lines = self.sh(&format!("{command} {fields}"));
        lines.lines().map(|line| serde_json::from_str(line).expect("an entry")).collect()
    }

    /// Waits for an entry that begins with `message` and has these fields.
    #[track_caller]
    pub fn wait_for_entry(&self, message: &str, fields: &str) -> Value {
        until(&format!("{message:?} {fields} in the journal"), || {
            let mut entries = self.journal(fields);
            entries.retain(|entry| text(entry, "MESSAGE").starts_with(message));
            entries.pop()
        })
    }
}

/// A field of an entry; empty where it is absent.
pub fn text<'a>(entry: &'a Value, field: &str) -> &'a str {
    entry[field].as_str().unwrap_or_default()
}

impl Drop for Lab {
    fn drop(&mut self) {
        if thread::panicking() {
            let story = self.try_sh(
                "systemctl status preforkd; cat /etc/preforkd/preforkd.toml; ps axfo pid,user,stat,args
                 journalctl --sync; journalctl --boot --no-pager --lines 80",
            );
            eprintln!("{}{}", story.out, story.err);
        }
        let _ = script().args(["stop", &self.name]).status();
    }
}

/// The package of this build.
pub mod package {
    use super::*;

    /// The package, as it is installed first.
    pub fn first() -> &'static Path {
        static PACKAGE: OnceLock<(Directory, PathBuf)> = OnceLock::new();
        &PACKAGE.get_or_init(|| build("0.1.0-1")).1
    }

    /// The same one with a higher version.
    pub fn second() -> &'static Path {
        static PACKAGE: OnceLock<(Directory, PathBuf)> = OnceLock::new();
        &PACKAGE.get_or_init(|| build("0.1.0-2")).1
    }

    /// A program of cargo, where it is installed.
    pub fn tool(name: &str) -> Option<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
        let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
        let directories = std::env::split_paths(&path).chain(home.map(|home| home.join("bin")));
        directories.map(|directory| directory.join(name)).find(|file| file.exists())
    }

    /// A directory that looks like the one of a release build, but holds the
    /// program under test, without what a debugger would want of it.
    pub fn target() -> Directory {
        let target = Directory::new();
        fs::create_dir(target.join("release")).expect("make the directory");
        let mut strip = Command::new("strip");
        strip.arg("-o").arg(target.join("release/preforkd")).arg(env!("CARGO_BIN_EXE_preforkd"));
        assert!(strip.status().is_ok_and(|status| status.success()), "strip the program");
        target
    }

    fn build(version: &str) -> (Directory, PathBuf) {
        let (target, place) = (target(), Directory::new());
        let output = Command::new(tool("cargo-deb").expect("cargo-deb"))
            .args(["deb", "--no-build", "--fast", "--quiet", "--deb-version", version, "--output"])
            .arg(place.path())
            .env("CARGO_TARGET_DIR", target.path())
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .stdin(Stdio::null())
            .output();
        let said = Said::from(output.expect("run cargo-deb"));
        assert_eq!(said.code, 0, "{}{}", said.out, said.err);
        let file = fs::read_dir(place.path()).expect("the directory").next();
        let file = file.expect("a package").expect("a package").path();
        (place, file)
    }
}
