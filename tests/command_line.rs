//! The command line: its forms, its exit codes, and `--daemonize`.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;

use support::client::{assert_refuses, assert_serves};
use support::command::{Finished, finish, preforkd};
use support::{Address, Daemon, Directory, Event, Setup, log, procfs, until};

/// The private directory of a test that may leave a daemon behind: at its end
/// there is none.
struct Home(Directory);

impl Home {
    fn new() -> Self {
        Home(Directory::new())
    }
}

impl std::ops::Deref for Home {
    type Target = Directory;

    fn deref(&self) -> &Directory {
        &self.0
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        for _ in 0..100 {
            let left = processes_of(self);
            if left.is_empty() {
                break;
            }
            left.into_iter().for_each(|pid| procfs::send_if_there(pid, Signal::SIGKILL));
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A pool `echo` with one worker, and a log that tests can read.
fn echo(directory: &Home, address: &Address) -> String {
    format!(
        "[daemon]\ncontrol = \"{0}/control.sock\"\npid_file = \"{0}/preforkd.pid\"\n\
         [log]\nformat = \"json\"\nfile = \"{0}/log\"\n\
         [pool.echo]\nlisten = \"{address}\"\nworkers = 1\nservice = \"echo\"\n",
        directory.path().display()
    )
}

/// The same pool, of a service that has options, by the program `testsvc`.
fn die_at_start(directory: &Home, address: &Address, options: &str) -> String {
    echo(directory, address)
        .replace("service = \"echo\"", &format!("service.die_at_start = {{ {options} }}"))
}

fn testsvc() -> Command {
    Command::new(Setup::example("testsvc").program())
}

/// Runs this program with this configuration and these further arguments.
#[track_caller]
fn run(mut program: Command, directory: &Home, config: &str, arguments: &[&str]) -> Finished {
    let file = directory.write("preforkd.toml", config);
    finish(program.arg("-c").arg(file).args(arguments))
}

#[test]
fn what_is_no_command_line_exits_with_64() {
    for arguments in [
        &["--no-such-option"][..],
        &["no-such-command"],
        &["run", "check"],
        &["check", "--daemonize"],
        &["--daemonize", "check"],
        &["--daemonize", "reload"],
        &["check", "extra"],
        &["--config"],
        &["-c"],
        &["run", "--no-such-option"],
        &["--config", "a", "--config", "b", "check"],
    ] {
        let ended = finish(preforkd().args(arguments));
        assert_eq!(ended.code, Some(64), "{arguments:?}: {ended:?}");
        assert!(
            ended.out.is_empty() && ended.err.starts_with("error: "),
            "{arguments:?}: {ended:?}"
        );
    }
}

#[test]
fn help_and_version_are_no_errors() {
    for (argument, words) in [
        (
            "--help",
            &[
                "Usage: preforkd",
                "--config",
                "--daemonize",
                "check",
                "run",
                "/etc/preforkd/preforkd.toml",
            ][..],
        ),
        ("-h", &["Usage: preforkd"]),
        ("help", &["Usage: preforkd"]),
        ("--version", &["preforkd ", env!("CARGO_PKG_VERSION")]),
        ("-V", &[env!("CARGO_PKG_VERSION")]),
    ] {
        let ended = finish(preforkd().arg(argument));
        assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{argument}: {ended:?}");
        for word in words {
            assert!(ended.out.contains(word), "{argument}: {word} is not in\n{}", ended.out);
        }
    }
}

#[test]
fn the_configuration_may_be_named_before_or_after_the_command() {
    let directory = Home::new();
    let file = directory.write("preforkd.toml", &echo(&directory, &Address::fresh()));
    let path = file.display().to_string();
    let joined = format!("--config={path}");
    for arguments in [
        &["-c", &path, "check"][..],
        &["check", "-c", &path],
        &["--config", &path, "check"],
        &["check", "--config", &path],
        &[&joined, "check"],
    ] {
        let ended = finish(preforkd().args(arguments));
        assert_eq!(ended.code, Some(0), "{arguments:?}: {ended:?}");
    }
}

#[test]
fn run_is_the_default_and_a_clean_stop_exits_with_0() {
    for arguments in [&[][..], &["run"]] {
        let address = Address::fresh();
        let setup = Setup::new();
        let mut setup = setup.config(&format!(
            "[pool.echo]\nlisten = \"{address}\"\nworkers = 1\nservice = \"echo\"\n"
        ));
        for argument in arguments {
            setup = setup.argument(argument);
        }
        let daemon = setup.start();
        assert_serves(&address);
        assert_eq!(daemon.stop().code(), Some(0));
    }
}

#[test]
fn without_its_file_it_exits_with_66() {
    let directory = Home::new();
    for arguments in [&["check"][..], &["run"], &[], &["--daemonize"]] {
        let ended =
            finish(preforkd().arg("-c").arg(directory.join("missing.toml")).args(arguments));
        assert_eq!(ended.code, Some(66), "{arguments:?}: {ended:?}");
        assert!(ended.err.starts_with("could not read configuration \""), "{ended:?}");
    }
    let default = Path::new("/etc/preforkd/preforkd.toml");
    if !default.exists() {
        let ended = finish(preforkd().arg("check"));
        assert_eq!(ended.code, Some(66), "{ended:?}");
        assert!(ended.err.contains("\"/etc/preforkd/preforkd.toml\""), "{ended:?}");
    }
}

#[test]
fn a_wrong_configuration_exits_with_78() {
    let directory = Home::new();
    for arguments in [&["check"][..], &["run"], &[], &["--daemonize"]] {
        let ended = run(preforkd(), &directory, "[pool.echo]\n", arguments);
        assert_eq!(ended.code, Some(78), "{arguments:?}: {ended:?}");
        assert!(ended.err.contains("preforkd.toml:1:7: missing key \"listen\""), "{ended:?}");
    }
}

#[test]
fn if_no_worker_gets_as_far_as_accepting_it_exits_with_69_and_says_why() {
    for (options, reason) in [
        ("code = 3", "its worker exited with code 3"),
        ("signal = 9", "its worker was killed by SIGKILL"),
        ("error = \"no luck\"", "could not start service: no luck"),
        ("panic = true", "could not go on: asked to panic at "),
    ] {
        let directory = Home::new();
        let address = Address::fresh();
        let config = die_at_start(&directory, &address, options);
        for arguments in [&[][..], &["--daemonize"]] {
            let ended = run(testsvc(), &directory, &config, arguments);
            assert_eq!(ended.code, Some(69), "{options}: {ended:?}");
            assert!(ended.err.starts_with("could not start pool \"echo\": "), "{ended:?}");
            assert!(ended.err.contains(reason), "{ended:?}");
            assert_refuses(&address);
            assert_nothing_left(&directory);
        }
        let events = log::read_file(&directory.join("log"));
        let last = events.iter().rfind(|event| event.level() == "critical").expect("a last word");
        assert!(last.text("reason").unwrap_or_default().contains(reason), "{last}");
    }
}

// A bug of the program, which nobody expects and systemd should not hide.
#[test]
fn a_bug_exits_with_70() {
    let directory = Home::new();
    let config = echo(&directory, &Address::fresh()).replace("\"echo\"", "\"bug\"");
    for arguments in [&["check"][..], &["run"], &["--daemonize"]] {
        let ended = run(testsvc(), &directory, &config, arguments);
        assert_eq!(ended.code, Some(70), "{arguments:?}: {ended:?}");
        let reason = "pool.echo.service: could not make service \"bug\": it panicked: \
                      asked to panic at examples/testsvc.rs:";
        assert!(ended.err.contains(reason), "{arguments:?}: {ended:?}");
        assert!(!ended.err.contains("panicked at"), "{arguments:?}: {ended:?}");
    }
    assert_nothing_left(&directory);
}

// Were it to start, it could fork no worker, and would wait for one for ever.
#[test]
fn a_service_that_leaves_a_thread_in_the_master_exits_with_70() {
    let directory = Home::new();
    let config = echo(&directory, &Address::fresh()).replace("\"echo\"", "\"threads\"");
    for arguments in [&["check"][..], &["run"], &["--daemonize"]] {
        let ended = run(testsvc(), &directory, &config, arguments);
        assert_eq!(ended.code, Some(70), "{arguments:?}: {ended:?}");
        assert_eq!(
            ended.err,
            "could not make services: the process has threads, which a fork would not copy\n\
             hint: a service starts its threads in `Service::start`, in the worker\n"
        );
    }
    assert_nothing_left(&directory);
    // One that has ended is no reason to fail.
    let joined = config.replace("service = \"threads\"", "service.threads.joined = true");
    for _ in 0..20 {
        let ended = run(testsvc(), &directory, &joined, &["check"]);
        assert_eq!(ended.code, Some(0), "{ended:?}");
    }
}

// A panic in a worker ends the worker, with that code, and nothing else.
#[test]
fn a_service_that_panics_ends_its_worker_with_70() {
    let address = Address::fresh();
    let config = format!(
        "[pool.command]\nlisten = \"{address}\"\nworkers = 1\nservice = \"command\"\nmin_uptime = \"0s\"\n"
    );
    let daemon = Daemon::start_example("testsvc", &config);
    daemon.expect(&["worker exited", "service panicked"]);
    for _ in 0..3 {
        let worker = daemon.wait_for_idle("command", 1)[0];
        support::client::ask(&address, "panic\n");
        let end = daemon.log().wait_for("worker exited", |event| event.pid() == worker);
        assert_eq!((end.number("code"), end.text("cause")), (Some(70), Some("crashed")), "{end}");
        assert_eq!(
            end.text("reason"),
            Some("could not serve connection: the service panicked"),
            "{end}"
        );
    }
    let told = daemon.log().wait_for("service panicked", |_| true);
    let reason = told.text("reason").unwrap_or_default();
    assert!(reason.starts_with("asked to panic at ") && reason.contains("testsvc.rs:"), "{told}");
}

#[test]
fn a_system_call_that_fails_exits_with_71() {
    let directory = Home::new();
    // Too few for the log.
    let file = directory.write("preforkd.toml", &echo(&directory, &Address::fresh()));
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 5 && exec \"$0\" \"$@\""]).arg(preforkd().get_program());
    let ended = finish(command.arg("-c").arg(file));
    assert_eq!(ended.code, Some(71), "{ended:?}");
    assert!(ended.err.starts_with("could not open log "), "{ended:?}");
}

#[test]
fn an_address_in_use_exits_with_73() {
    let directory = Home::new();
    let address = Address::fresh();
    let _other = TcpListener::bind(address.tcp()).expect("take the address");
    for arguments in [&[][..], &["--daemonize"]] {
        let ended = run(preforkd(), &directory, &echo(&directory, &address), arguments);
        assert_eq!(ended.code, Some(73), "{ended:?}");
        let expected = format!(
            "pool.echo.listen: could not bind listener \"{address}\": address already in use\n"
        );
        assert!(ended.err.contains(&expected), "{ended:?}");
        assert_nothing_left(&directory);
    }
}

// The listeners that were bound already are not left behind.
#[test]
fn a_start_that_fails_leaves_no_socket_file() {
    let directory = Home::new();
    let address = Address::fresh();
    let _other = TcpListener::bind(address.tcp()).expect("take the address");
    let socket = directory.join("first.sock");
    let config = format!(
        "{}[pool.a]\nlisten = \"{}\"\nworkers = 1\nservice = \"echo\"\n",
        echo(&directory, &address),
        socket.display()
    );
    for arguments in [&[][..], &["--daemonize"]] {
        let ended = run(preforkd(), &directory, &config, arguments);
        assert_eq!(ended.code, Some(73), "{ended:?}");
        // Whoever tries again at once finds none.
        assert!(!directory.join("preforkd.pid").exists(), "the pid file is left");
        // The command may return a moment before what it started has ended.
        assert_nothing_left(&directory);
        assert!(!socket.exists());
    }
}

// An output that is full or gone is no reason to fail, nor to panic.
#[test]
fn an_output_that_cannot_be_written_is_survived() {
    let directory = Home::new();
    let right = directory.write("right.toml", &echo(&directory, &Address::fresh()));
    let wrong = directory.write("wrong.toml", "[pool.echo]\n");
    for redirection in [">/dev/full 2>&1", ">&- 2>&-", "</dev/null >&- 2>&- <&-"] {
        for (file, code) in [(&right, 0), (&wrong, 78)] {
            let script = format!("exec \"$0\" \"$@\" {redirection}");
            let mut command = Command::new("sh");
            command.args(["-c", &script]).arg(preforkd().get_program());
            let ended = finish(command.arg("-c").arg(file).arg("check"));
            assert_eq!(ended.code, Some(code), "{redirection}: {ended:?}");
        }
    }
}

/// The processes whose command line names this directory: a daemon that
/// detached has left the session that it was started in.
fn processes_of(directory: &Home) -> Vec<i32> {
    let name = directory.path().file_name().expect("a name").to_string_lossy() + "/";
    procfs::processes(|process| process.is_alive() && process.pid != std::process::id() as i32)
        .into_iter()
        .map(|process| process.pid)
        .filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&*name)
        })
        .collect()
}

#[track_caller]
fn assert_nothing_left(directory: &Home) {
    until("nothing of the daemon is left", || processes_of(directory).is_empty().then_some(()));
    assert!(!directory.join("preforkd.pid").exists(), "the pid file is left");
}

/// A daemon that detached, from the return of its command to its end.
struct Detached {
    directory: Home,
    pid: i32,
}

impl Detached {
    /// Starts it with a command that has to succeed without a word.
    #[track_caller]
    fn start(directory: Home, config: &str) -> Self {
        let ended = run(preforkd(), &directory, config, &["--daemonize"]);
        let (detached, said) = Detached::after(directory, ended);
        assert_eq!(said, "");
        detached
    }

    /// After its command; gives what that said.
    #[track_caller]
    fn after(directory: Home, ended: Finished) -> (Self, String) {
        // Even if what follows fails, it is not left behind.
        let mut detached = Detached { directory, pid: 0 };
        assert_eq!((ended.code, ended.out.as_str()), (Some(0), ""), "{ended:?}");
        let text = fs::read_to_string(detached.pid_file()).expect("read the pid file");
        detached.pid = text.trim().parse().expect("a process id");
        assert_eq!(text, format!("{}\n", detached.pid));
        (detached, ended.err)
    }

    fn pid_file(&self) -> PathBuf {
        self.directory.join("preforkd.pid")
    }

    fn events(&self) -> Vec<Event> {
        log::read_file(&self.directory.join("log"))
    }

    #[track_caller]
    fn wait_for(&self, message: &str) -> Event {
        until(message, || self.events().into_iter().find(|event| event.message() == message))
    }

    fn workers(&self) -> Vec<i32> {
        procfs::children(self.pid).iter().map(|child| child.pid).collect()
    }

    #[track_caller]
    fn stop(&self, signal: Signal) {
        procfs::send(self.pid, signal);
        until("the daemon ends", || (!procfs::is_alive(self.pid)).then_some(()));
    }
}

impl Drop for Detached {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("---- log:");
            self.events().iter().for_each(|event| eprintln!("{event}"));
        }
    }
}

#[test]
fn daemonize_returns_when_the_pools_accept() {
    for arguments in [&["--daemonize"][..], &["run", "--daemonize"]] {
        let directory = Home::new();
        let address = Address::fresh();
        let ended = run(preforkd(), &directory, &echo(&directory, &address), arguments);
        // At once, without a second try.
        assert_serves(&address);
        let (daemon, said) = Detached::after(directory, ended);
        assert_eq!(said, "");
        daemon.wait_for("ready");
        daemon.stop(Signal::SIGTERM);
        assert_refuses(&address);
        assert_nothing_left(&daemon.directory);
        assert!(daemon.events().iter().any(|event| event.message() == "stopped"));
    }
}

#[test]
fn daemonize_does_not_return_before() {
    let directory = Home::new();
    let address = Address::fresh();
    let gate = directory.write("gate", "");
    let config = die_at_start(&directory, &address, &format!("gate = \"{}\"", gate.display()));
    let file = directory.write("preforkd.toml", &config);
    let mut program = testsvc();
    program.arg("-c").arg(file).arg("--daemonize");
    let command = thread::spawn(move || finish(&mut program));
    // The command, the master, and a worker that waits at the gate.
    until("a worker is on its way", || {
        let worker = |pid: &i32| {
            let parent = procfs::Process::of(*pid).map(|process| process.parent);
            let text = fs::read_to_string(directory.join("preforkd.pid")).unwrap_or_default();
            parent.is_some() && parent == text.trim().parse().ok()
        };
        processes_of(&directory).iter().any(worker).then_some(())
    });
    // Time for a command that does not wait to show itself.
    thread::sleep(Duration::from_millis(300));
    assert!(!command.is_finished(), "the command returned before a worker accepted");
    fs::remove_file(gate).expect("open the gate");
    let ended = command.join().expect("the command");
    let (daemon, _) = Detached::after(directory, ended);
    daemon.wait_for("ready");
}

#[test]
fn a_daemon_has_let_go_of_its_starter() {
    let directory = Home::new();
    let address = Address::fresh();
    let config = echo(&directory, &address);
    let file = directory.write("preforkd.toml", &config);
    let mut command = Command::new("sh");
    let script = "umask 0027; exec \"$0\" \"$@\" 7</etc/passwd";
    command.args(["-c", script]).arg(preforkd().get_program());
    command.arg("-c").arg(&file).arg("--daemonize").current_dir("/tmp");
    let (daemon, _) = Detached::after(directory, finish(&mut command));

    let process = procfs::Process::of(daemon.pid).expect("the daemon");
    let own = procfs::Process::of(std::process::id() as i32).expect("this process");
    assert!(process.session != own.session && process.group != own.group);
    // It can get no terminal: it leads no session (setsid(2), open(2)).
    assert_ne!(process.session, daemon.pid);
    let stat =
        fs::read_to_string(format!("/proc/{}/stat", daemon.pid)).expect("read the process table");
    let terminal = stat.rsplit_once(") ").and_then(|(_, tail)| tail.split(' ').nth(4));
    assert_eq!(terminal, Some("0"));
    assert_eq!(
        fs::read_link(format!("/proc/{}/cwd", daemon.pid)).expect("its directory"),
        Path::new("/")
    );
    assert_eq!(procfs::status(daemon.pid, "Umask").as_deref(), Some("0027"));
    for pid in daemon.workers().into_iter().chain([daemon.pid]) {
        let descriptors = procfs::descriptors(pid);
        for number in 0..=2 {
            assert_eq!(descriptors[&number], "/dev/null", "{pid}: {descriptors:?}");
        }
        let is_of_starter = |target: &String| {
            target == "/etc/passwd" || target.contains("/preforkd-test") && target.ends_with("err")
        };
        assert!(!descriptors.values().any(is_of_starter), "{pid}: {descriptors:?}");
    }
    // The hang-up of the terminal that it was started from is not for it.
    procfs::send(daemon.pid, Signal::SIGHUP);
    daemon.wait_for("reloaded");
    assert_serves(&address);
}

// As `-c <(...)` of a shell passes it.
#[test]
fn the_configuration_may_come_through_a_descriptor() {
    let directory = Home::new();
    let address = Address::fresh();
    let file = directory.write("preforkd.toml", &echo(&directory, &address));
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$0\" -c /dev/fd/8 --daemonize 8<\"$1\""]);
    let ended = finish(command.arg(preforkd().get_program()).arg(file));
    let (daemon, _) = Detached::after(directory, ended);
    assert_serves(&address);
    daemon.stop(Signal::SIGTERM);
}

// The daemon works in another directory than the user did.
#[test]
fn a_daemon_finds_its_file_again_that_was_named_from_elsewhere() {
    let directory = Home::new();
    let address = Address::fresh();
    fs::create_dir(directory.join("pool.d")).expect("create a directory");
    let config = format!("include = [\"pool.d/*.toml\"]\n{}", echo(&directory, &address));
    directory.write("preforkd.toml", &config);
    let (parent, name) = (directory.path().parent(), directory.path().file_name());
    let relative = Path::new(name.expect("a name")).join("preforkd.toml");
    let mut command = preforkd();
    command.current_dir(parent.expect("a parent"));
    command.arg("-c").arg(relative).arg("--daemonize");
    let ended = finish(&mut command);
    let (daemon, _) = Detached::after(directory, ended);
    let new = Address::fresh();
    let added = format!("[pool.new]\nlisten = \"{new}\"\nworkers = 1\nservice = \"echo\"\n");
    daemon.directory.write("pool.d/new.toml", &added);
    procfs::send(daemon.pid, Signal::SIGHUP);
    let event = daemon.wait_for("reloaded");
    assert_eq!(event.text("added"), Some("new"), "{event}");
    assert_serves(&new);
    daemon.stop(Signal::SIGTERM);
}

#[test]
fn a_pool_that_cannot_start_is_told_while_the_others_serve() {
    let directory = Home::new();
    let (good, bad) = (Address::fresh(), Address::fresh());
    let config = format!(
        "{}[pool.bad]\nlisten = \"{bad}\"\nworkers = 1\nservice.die_at_start = {{ code = 3 }}\n",
        echo(&directory, &good)
    );
    let ended = run(testsvc(), &directory, &config, &["--daemonize"]);
    assert_serves(&good);
    let (_daemon, said) = Detached::after(directory, ended);
    assert_eq!(said, "could not start pool \"bad\": its worker exited with code 3\n");
}

#[test]
fn daemonize_fails_on_the_terminal_with_the_code_of_its_fault() {
    let address = Address::fresh();
    for (change, code, reason) in [
        (("\nfile = \"", "\nfile = \"/nowhere"), 71, "could not open log \"/nowhere"),
        (("\nfile = \"", "\nfile = \"/nowhere"), 71, "\nhint: see [log].file\n"),
        (("workers = 1", "workers = 1\nuser = \"nobody-of-this-name\""), 78, "could not find user"),
        (("listen = \"", "listen = \"/nowhere/"), 73, "could not bind listener"),
        (
            ("pid_file = \"", "pid_file = \"/dev/null/"),
            73,
            "could not create pid file \"/dev/null/",
        ),
        (("/preforkd.pid\"", "\""), 73, "could not create pid file \""),
    ] {
        let directory = Home::new();
        let config = echo(&directory, &address).replacen(change.0, change.1, 1);
        let ended = run(preforkd(), &directory, &config, &["--daemonize"]);
        assert_eq!(ended.code, Some(code), "{config}\n{ended:?}");
        assert!(ended.err.contains(reason), "{ended:?}");
        assert!(ended.out.is_empty() && !ended.err.contains("errno"), "{ended:?}");
        assert_nothing_left(&directory);
    }
}

#[test]
fn a_daemon_without_a_log_warns_on_the_terminal() {
    for (log, warns) in [("", true), ("format = \"json\"", true), ("file = \"LOG\"", false)] {
        let directory = Home::new();
        let config = echo(&directory, &Address::fresh());
        let (before, after) = config.split_once("[log]").expect("a table");
        let (_, pools) = after.split_once("[pool").expect("a pool");
        let log = log.replace("LOG", &directory.join("log").display().to_string());
        let config = format!("{before}[log]\n{log}\n[pool{pools}");
        // As where the command is called by a service: its journal is not the daemon's.
        let mut program = preforkd();
        program.env("JOURNAL_STREAM", "1:1");
        let ended = run(program, &directory, &config, &["--daemonize"]);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let warning = "warning: the log goes to /dev/null, for a daemon has no standard error; \
                       set \"file\" in [log]\n";
        assert_eq!(ended.err, if warns { warning } else { "" }, "{config}");
    }
}

#[test]
fn the_pid_file_is_locked_and_removed_at_the_end() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let directory = Home::new();
        let config = echo(&directory, &Address::fresh());
        let daemon = Detached::start(directory, &config);
        let file = File::open(daemon.pid_file()).expect("open the pid file");
        let locked = Flock::lock(file, FlockArg::LockExclusiveNonblock);
        assert!(matches!(locked, Err((_, Errno::EWOULDBLOCK))), "somebody else could lock it");
        daemon.stop(signal);
        assert!(!daemon.pid_file().exists());
    }
}

#[test]
fn a_second_start_with_the_same_pid_file_is_refused() {
    let directory = Home::new();
    let address = Address::fresh();
    let config = echo(&directory, &address);
    let daemon = Detached::start(directory, &config);
    let second = config.replace(&address.to_string(), &Address::fresh().to_string());
    for _ in 0..3 {
        let ended = run(preforkd(), &daemon.directory, &second, &["--daemonize"]);
        assert_eq!(ended.code, Some(73), "{ended:?}");
        let expected = format!(
            "could not create pid file \"{}\": a daemon with pid {} holds it\n",
            daemon.pid_file().display(),
            daemon.pid
        );
        assert_eq!(ended.err, expected);
        assert!(ended.out.is_empty());
    }
    // The first one is what it was, its pid file included.
    assert_serves(&address);
    let text = fs::read_to_string(daemon.pid_file()).expect("read the pid file");
    assert_eq!(text, format!("{}\n", daemon.pid));
    until("only the first is left", || (processes_of(&daemon.directory).len() == 2).then_some(()));
}

#[test]
fn the_pid_file_of_a_daemon_that_was_killed_is_taken_over() {
    let directory = Home::new();
    let address = Address::fresh();
    let config = echo(&directory, &address);
    let first = Detached::start(directory, &config);
    let (pid, workers) = (first.pid, first.workers());
    first.stop(Signal::SIGKILL);
    assert!(first.pid_file().exists());
    until("its workers leave", || {
        (!workers.iter().any(|&pid| procfs::is_alive(pid))).then_some(())
    });
    let ended = run(preforkd(), &first.directory, &config, &["--daemonize"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let text = fs::read_to_string(first.pid_file()).expect("read the pid file");
    let second: i32 = text.trim().parse().expect("a process id");
    assert!(second != pid && procfs::is_alive(second));
    assert_serves(&address);
    procfs::send(second, Signal::SIGTERM);
    until("the second one ends", || (!procfs::is_alive(second)).then_some(()));
    assert!(!first.pid_file().exists());
}

// /run is empty after a boot, and the pid file tells whom to kill.
#[test]
fn the_directory_of_the_pid_file_is_made_and_the_file_is_nobody_elses() {
    let directory = Home::new();
    let address = Address::fresh();
    let config = echo(&directory, &address).replace("/preforkd.pid", "/run/preforkd/preforkd.pid");
    let file = directory.write("preforkd.toml", &config);
    let mut command = Command::new("sh");
    command.args(["-c", "umask 0; exec \"$0\" \"$@\""]).arg(preforkd().get_program());
    let ended = finish(command.arg("-c").arg(file).arg("--daemonize"));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let guard = Detached { directory, pid: 0 };
    let made = guard.directory.join("run/preforkd/preforkd.pid");
    let mode = fs::metadata(&made).expect("the pid file").permissions().mode();
    assert_eq!(mode & 0o022, 0, "{mode:o}");
    let mode = fs::metadata(made.parent().expect("its directory")).expect("the directory");
    assert_eq!(mode.permissions().mode() & 0o7777, 0o755);
    let pid: i32 =
        fs::read_to_string(&made).expect("read it").trim().parse().expect("a process id");
    // The umask of the daemon is its starter's all the same.
    assert_eq!(procfs::status(pid, "Umask").as_deref(), Some("0000"));
}

#[test]
fn a_pid_file_is_no_link_to_another_file() {
    let directory = Home::new();
    let victim = directory.write("victim", "precious\n");
    symlink(&victim, directory.join("preforkd.pid")).expect("plant a link");
    let config = echo(&directory, &Address::fresh());
    let ended = run(preforkd(), &directory, &config, &["--daemonize"]);
    assert_eq!(ended.code, Some(73), "{ended:?}");
    assert!(ended.err.contains("preforkd.pid\": it is a symbolic link\nhint: "), "{ended:?}");
    assert_eq!(fs::read_to_string(&victim).expect("read the file"), "precious\n");
    fs::remove_file(directory.join("preforkd.pid")).expect("remove the link");
    assert_nothing_left(&directory);
}

// A successor may have been given the name before this one has ended.
#[test]
fn a_pid_file_that_is_not_its_own_is_left_at_the_end() {
    let directory = Home::new();
    let config = echo(&directory, &Address::fresh());
    let daemon = Detached::start(directory, &config);
    let other = daemon.directory.write("other.pid", "1\n");
    fs::rename(other, daemon.pid_file()).expect("take its name");
    daemon.stop(Signal::SIGTERM);
    assert_eq!(fs::read_to_string(daemon.pid_file()).expect("read the file"), "1\n");
}

// Files that it opens early must not get the numbers of what is missing.
#[test]
fn daemonize_works_without_any_standard_stream() {
    for redirection in [">&- 2>&- <&-", "<&-", "2>&-", ">&-"] {
        let directory = Home::new();
        let address = Address::fresh();
        let file = directory.write("preforkd.toml", &echo(&directory, &address));
        let script = format!("exec \"$0\" \"$@\" {redirection}");
        let mut command = Command::new("sh");
        command.args(["-c", &script]).arg(preforkd().get_program());
        let ended = finish(command.arg("-c").arg(file).arg("--daemonize"));
        assert_serves(&address);
        let (daemon, _) = Detached::after(directory, ended);
        for pid in daemon.workers().into_iter().chain([daemon.pid]) {
            let descriptors = procfs::descriptors(pid);
            for number in 0..=2 {
                assert_eq!(descriptors[&number], "/dev/null", "{redirection}: {descriptors:?}");
            }
        }
        daemon.stop(Signal::SIGTERM);
        assert_nothing_left(&daemon.directory);
    }
}

/// Starts a daemon in the background whose worker never accepts, and sends it this.
/// Gives how the command ended.
fn signal_before_ready(signal: Signal) -> Finished {
    let directory = Home::new();
    let gate = directory.write("gate", "");
    let config =
        die_at_start(&directory, &Address::fresh(), &format!("gate = \"{}\"", gate.display()));
    let file = directory.write("preforkd.toml", &config);
    let mut program = testsvc();
    program.arg("-c").arg(file).arg("--daemonize");
    let command = thread::spawn(move || finish(&mut program));
    let pid: i32 = until("the master has a worker", || {
        let text = fs::read_to_string(directory.join("preforkd.pid")).ok()?;
        let pid = text.trim().parse().ok()?;
        (!procfs::children(pid).is_empty()).then_some(pid)
    });
    procfs::send(pid, signal);
    let ended = command.join().expect("the command");
    fs::remove_file(gate).expect("open the gate");
    until("its worker leaves", || processes_of(&directory).is_empty().then_some(()));
    ended
}

// Nobody has to guess why there is no daemon.
#[test]
fn a_daemon_that_dies_before_its_report_is_told_with_70() {
    let ended = signal_before_ready(Signal::SIGKILL);
    assert_eq!(ended.code, Some(70), "{ended:?}");
    assert_eq!(ended.err, "could not start daemon: it ended without a word\n");
}

#[test]
fn a_daemon_that_is_stopped_before_it_is_ready_is_told_with_69() {
    let ended = signal_before_ready(Signal::SIGTERM);
    assert_eq!(ended.code, Some(69), "{ended:?}");
    assert_eq!(ended.err, "could not start daemon: it was stopped before it was ready\n");
}

// Its starter's end is not its own, and what it has to say goes to the log.
#[test]
fn the_daemon_outlives_the_session_that_it_was_started_in() {
    let directory = Home::new();
    let address = Address::fresh();
    let file = directory.write("preforkd.toml", &echo(&directory, &address));
    let mut shell = Command::new("setsid");
    shell.args(["--wait", "sh", "-c", "\"$0\" -c \"$1\" --daemonize && kill -9 0"]);
    shell.arg(preforkd().get_program()).arg(&file);
    let status = shell.stdin(Stdio::null()).status().expect("run a shell");
    assert!(!status.success(), "the session was to be killed");
    let ended = Finished { code: Some(0), out: String::new(), err: String::new() };
    let (daemon, _) = Detached::after(directory, ended);
    assert_serves(&address);
    daemon.stop(Signal::SIGTERM);
    assert_nothing_left(&daemon.directory);
}

/// Every exit code of the daemon has a test in this file. The list is that of
/// the manual: a code that is added there is to be tested here.
#[test]
fn every_exit_code_is_tested() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/error.rs");
    let text = fs::read_to_string(path).expect("read the source");
    let enumeration = text
        .split("pub enum Code {")
        .nth(1)
        .and_then(|text| text.split('}').next())
        .expect("the codes");
    let codes: Vec<i32> = enumeration
        .lines()
        .filter_map(|line| line.split_once(" = ")?.1.trim_end_matches(',').parse().ok())
        .collect();
    assert_eq!(codes, [64, 66, 69, 70, 71, 73, 77, 78]);
    let tests =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/services/privileges.rs"))
            .expect("read the tests")
            + include_str!("command_line.rs");
    for code in codes {
        assert!(tests.contains(&format!("Some({code})")), "exit code {code} has no test");
    }
}

// A service manager passes the listeners that it keeps for us. A start that fails
// must leave them as they are: the next one is given them again.
#[test]
fn a_start_that_fails_leaves_a_stored_listener_open() {
    let directory = Home::new();
    let stored = std::net::TcpListener::bind("127.0.0.1:0").expect("listen");
    let busy = std::net::TcpListener::bind("127.0.0.1:0").expect("listen");
    let address = |listener: &std::net::TcpListener| listener.local_addr().expect("bound");
    let pool = |name: &str, listener: &std::net::TcpListener| {
        let address = address(listener);
        format!("[pool.{name}]\nlisten = \"{address}\"\nservice = \"echo\"\nworkers = 1\n")
    };
    let file = directory.write("preforkd.toml", &(pool("a", &stored) + &pool("b", &busy)));
    let name: String =
        address(&stored).to_string().bytes().map(|byte| format!("{byte:02x}")).collect();
    // The shell gives it the number that a service manager would.
    let script = format!(
        "LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=listener-{name} exec \"$0\" \"$@\" 3<&0 </dev/null"
    );
    let socket = std::os::fd::OwnedFd::from(stored.try_clone().expect("another descriptor"));
    let ended = Command::new("sh")
        .args(["-c", &script])
        .arg(preforkd().get_program())
        .arg("-c")
        .arg(file)
        .stdin(socket)
        .output()
        .expect("run the daemon");
    assert_eq!(ended.status.code(), Some(73), "{ended:?}");
    std::net::TcpStream::connect(address(&stored)).expect("connect to the stored listener");
}
