//! The service `exec`: what a program is given, and how its end is told.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::signal::Signal;

use super::{
    assert_no_worker_ended, exec, shell, stop_and_read, the_program, the_worker, wait_for_close,
};
use support::client::ask;
use support::{Address, Client, Daemon, Event, Setup, procfs, provided, until};

/// What the daemon itself has, and no program may get.
const UNWANTED: [(&str, &str); 8] = [
    ("NOTIFY_SOCKET", "/nowhere/notify"),
    ("WATCHDOG_USEC", "100000000"),
    ("WATCHDOG_PID", "1"),
    ("LISTEN_FDS", "1"),
    ("LISTEN_PID", "1"),
    ("LISTEN_FDNAMES", "http"),
    ("SECRET", "token"),
    ("HOME", "/root"),
];

/// The variables that env(1) has printed.
fn variables(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .map(|line| line.split_once('=').unwrap_or((line, "")))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn expected(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Reloads, and waits for the end of the only worker: it may serve another client before
/// it knows.
#[track_caller]
fn renew(daemon: &Daemon, config: &str) {
    let old = the_worker(daemon, "exec");
    daemon.reload(config);
    super::wait_for_end(old);
}

/// A daemon that has variables which are none of a program's business.
fn with_unwanted(config: &str) -> Setup {
    UNWANTED
        .iter()
        .fold(Setup::new().config(config), |setup, (name, value)| setup.variable(name, value))
}

#[test]
fn the_environment_is_exactly_the_promised_one() {
    let address = Address::fresh();
    let config =
        exec(&address, 1, &["/usr/bin/env"], "env = { GREETING = \"good day\", EMPTY = \"\" }");
    let _daemon = with_unwanted(&config)
        .variable("PATH", "/usr/bin:/bin")
        .variable("LANG", "C.UTF-8")
        .variable("TZ", "Asia/Tokyo")
        .start();
    let mut stream = TcpStream::connect(address.tcp()).expect("connect");
    let client = stream.local_addr().expect("the client's address");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("read the environment");
    let (remote_ip, remote_port) = (client.ip().to_string(), client.port().to_string());
    let (local_ip, local_port) = (address.tcp().ip().to_string(), address.tcp().port().to_string());
    assert_eq!(
        variables(&text),
        expected(&[
            ("PATH", "/usr/bin:/bin"),
            ("LANG", "C.UTF-8"),
            ("TZ", "Asia/Tokyo"),
            ("GREETING", "good day"),
            ("EMPTY", ""),
            ("PROTO", "TCP"),
            ("TCPLOCALIP", &local_ip),
            ("TCPLOCALPORT", &local_port),
            ("TCPREMOTEIP", &remote_ip),
            ("TCPREMOTEPORT", &remote_port),
            ("REMOTE_ADDR", &remote_ip),
            ("REMOTE_PORT", &remote_port),
        ])
    );
    // No variable stands there twice: getenv(3) takes the first one.
    assert_eq!(text.lines().count(), variables(&text).len(), "{text}");
}

#[test]
fn a_daemon_without_an_environment_gives_its_programs_a_path() {
    let address = Address::fresh();
    let config = exec(&address, 1, &["env"], "");
    let _daemon = Setup::new().config(&config).wrapper(&["env", "-i"]).start();
    let variables = variables(&ask(&address, ""));
    let names: Vec<_> = variables.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "PATH",
            "PROTO",
            "REMOTE_ADDR",
            "REMOTE_PORT",
            "TCPLOCALIP",
            "TCPLOCALPORT",
            "TCPREMOTEIP",
            "TCPREMOTEPORT",
        ]
    );
    assert_eq!(variables["PATH"], "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
}

#[test]
fn on_a_unix_socket_the_environment_tells_who_connected() {
    let setup = Setup::new();
    let address = Address::unix(&setup.directory().join("env.sock"));
    let config = exec(&address, 1, &["/usr/bin/env"], "");
    let _daemon = setup
        .config(&config)
        .variable("PATH", "/bin")
        .wrapper(&["env", "-u", "LANG", "-u", "TZ"])
        .start();
    let (pid, uid, gid) = (
        std::process::id().to_string(),
        nix::unistd::geteuid().to_string(),
        nix::unistd::getegid().to_string(),
    );
    let mut variables = variables(&ask(&address, ""));
    // It is known only to the program itself, see below.
    assert!(variables.remove("UNIXLOCALPID").is_some());
    assert_eq!(
        variables,
        expected(&[
            ("PATH", "/bin"),
            ("PROTO", "UNIX"),
            ("UNIXLOCALPATH", &address.to_string()),
            // Daemon and client run as the same user here.
            ("UNIXLOCALUID", &uid),
            ("UNIXLOCALGID", &gid),
            ("UNIXREMOTEPID", &pid),
            ("UNIXREMOTEEUID", &uid),
            ("UNIXREMOTEEGID", &gid),
        ])
    );
}

#[test]
fn on_a_unix_socket_a_program_has_its_own_pid_and_the_name_of_the_socket() {
    let setup = Setup::new();
    let path = Address::unix(&setup.directory().join("pid.sock"));
    let name = Address::unnamed();
    for address in [path, name] {
        let script = "echo $UNIXLOCALPID $$; echo $UNIXLOCALPATH";
        let _daemon = Daemon::start(&shell(&address, 1, script, ""));
        for _ in 0..3 {
            let text = ask(&address, "");
            let (pids, path) = text.split_once('\n').expect("two lines");
            let (told, is) = pids.split_once(' ').expect("two pids");
            assert_eq!(told, is);
            assert_eq!(path.trim_end(), address.to_string());
        }
    }
}

#[test]
fn pass_env_and_hostname_add_to_the_environment() {
    let address = Address::fresh();
    let keys = "env = { GIVEN = \"by the pool\" }\n\
                pass_env = [\"PASSED\", \"GIVEN\", \"ABSENT\", \"PATH\"]\nhostname = \"here.example\"";
    let setup = with_unwanted(&exec(&address, 1, &["/usr/bin/env"], keys))
        .variable("PATH", "/usr/bin:/bin")
        .variable("PASSED", "a b\u{e9}")
        .variable("GIVEN", "by the daemon");
    let unix = Address::unix(&setup.directory().join("env.sock"));
    let daemon = setup.start();
    let text = ask(&address, "");
    let told = variables(&text);
    assert_eq!(told["PASSED"], "a b\u{e9}");
    assert_eq!(told["GIVEN"], "by the pool");
    assert_eq!(told["TCPLOCALHOST"], "here.example");
    for absent in ["ABSENT", "SECRET", "HOME", "NOTIFY_SOCKET"] {
        assert!(!told.contains_key(absent), "{absent}");
    }
    assert_eq!(text.lines().count(), told.len(), "{text}");
    // It is no name of a Unix socket.
    renew(&daemon, &exec(&unix, 1, &["/usr/bin/env"], keys));
    let told = variables(&ask(&unix, ""));
    assert_eq!((told.get("TCPLOCALHOST"), told["PASSED"].as_str()), (None, "a b\u{e9}"));
}

#[test]
fn a_pool_with_a_user_tells_its_programs_about_that_user() {
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid());
    let user = user.expect("read the user database").expect("our user");
    let address = Address::fresh();
    let keys = format!("user = {:?}\n", user.name);
    // The look-up of a start, and that of a reload, each in a child.
    let others = exec(&address, 1, &["/usr/bin/env"], "");
    let daemon = with_unwanted(&exec(&address, 1, &["/usr/bin/env"], &keys)).start();
    let shown = |told: &BTreeMap<String, String>| {
        ["HOME", "USER", "LOGNAME", "SHELL"].map(|name| told.get(name).cloned())
    };
    let home = user.dir.display().to_string();
    let shell = user.shell.display().to_string();
    let all = [&home, &user.name, &user.name, &shell].map(|value| Some(value.clone()));
    assert_eq!(shown(&variables(&ask(&address, ""))), all);
    renew(&daemon, &others);
    assert_eq!(shown(&variables(&ask(&address, ""))), [const { None }; 4]);
    renew(&daemon, &exec(&address, 1, &["/usr/bin/env"], &keys));
    assert_eq!(shown(&variables(&ask(&address, ""))), all);
    // What the pool says itself comes first, and stands there once.
    let keys = format!("{keys}env.HOME = \"/srv\"\n");
    renew(&daemon, &exec(&address, 1, &["/usr/bin/env"], &keys));
    let text = ask(&address, "");
    assert_eq!(text.lines().filter(|line| line.starts_with("HOME=")).count(), 1, "{text}");
    assert_eq!(variables(&text)["HOME"], "/srv");
}

#[test]
fn argv0_is_the_name_that_a_program_sees() {
    let address = Address::fresh();
    let config = shell(&address, 1, "echo $0", "service.exec.argv0 = \"-in.fingerd\"");
    let daemon = Daemon::start(&config);
    assert_eq!(ask(&address, ""), "-in.fingerd\n");
    // The log has the program, not how it calls itself.
    daemon.expect(&["program exited"]);
    renew(&daemon, &shell(&address, 1, "exit 1", "service.exec.argv0 = \"in.fingerd\""));
    ask(&address, "");
    let end = daemon.log().wait_for("program exited", |_| true);
    assert_eq!(end.text("program"), Some("/bin/sh"), "{end}");
}

#[test]
fn a_client_by_ipv4_on_an_ipv6_listener_is_told_as_ipv4() {
    let Some(port) = super::access::free_ipv6_port() else { return };
    let config = format!(
        "[pool.exec]\nlisten = \"[::]:{port}\"\nworkers = 1\nservice.exec.command = [\"/usr/bin/env\"]\n"
    );
    let _daemon = Daemon::start(&config);
    for (ip, told) in [("127.0.0.1", "127.0.0.1"), ("::1", "::1")] {
        let address = SocketAddr::new(ip.parse().expect("an address"), port);
        let mut stream = TcpStream::connect(address).expect("connect");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("read the environment");
        let variables = variables(&text);
        for name in ["TCPLOCALIP", "TCPREMOTEIP", "REMOTE_ADDR"] {
            assert_eq!(variables[name], told, "{name}");
        }
    }
}

/// What the program `sleep` has that a worker of this daemon runs.
struct Seen {
    descriptors: BTreeMap<i32, String>,
    masks: Vec<(&'static str, String)>,
}

/// Looks at a program from outside, and ends it.
#[track_caller]
fn look_at_a_program(daemon: &Daemon, address: &Address) -> Seen {
    let worker = the_worker(daemon, "exec");
    let mut client = Client::connect(address);
    let program = the_program(worker, "sleep");
    // Until then it has files of its own open, those of its locale.
    until("the program sleeps", || {
        let sleeps = [libc::SYS_clock_nanosleep, libc::SYS_nanosleep];
        sleeps.contains(&procfs::system_call(program)?).then_some(())
    });
    let process = procfs::Process::of(program).expect("the program");
    assert_eq!(process.group, program, "a process group of its own");
    let seen =
        Seen { descriptors: procfs::descriptors(program), masks: procfs::signal_masks(program) };
    daemon.expect(&["program killed"]);
    procfs::send(program, Signal::SIGTERM);
    wait_for_close(&mut client);
    assert_eq!(the_worker(daemon, "exec"), worker);
    seen
}

const NO_SIGNAL: &str = "0000000000000000";

#[track_caller]
fn assert_no_signal_is_special(seen: &Seen) {
    let expected = ["SigBlk", "SigIgn", "SigCgt"].map(|key| (key, NO_SIGNAL.to_owned()));
    assert_eq!(seen.masks, expected);
}

#[test]
fn a_program_has_three_descriptors_and_default_signals() {
    let address = Address::fresh();
    let base = exec(&address, 1, &["/bin/sleep", "1000"], "");
    for (stderr, is_it) in [
        ("log", (|target: &str, _: &str| target.starts_with("pipe:")) as fn(&str, &str) -> bool),
        ("socket", |target, socket| target == socket),
        ("null", |target, _| target == "/dev/null"),
    ] {
        let daemon = Daemon::start(&format!("{base}service.exec.stderr = \"{stderr}\"\n"));
        let seen = look_at_a_program(&daemon, &address);
        assert_eq!(
            seen.descriptors.keys().copied().collect::<Vec<_>>(),
            [0, 1, 2],
            "{:?}",
            seen.descriptors
        );
        assert!(seen.descriptors[&0].starts_with("socket:"), "{:?}", seen.descriptors);
        assert_eq!(seen.descriptors[&0], seen.descriptors[&1]);
        assert!(is_it(&seen.descriptors[&2], &seen.descriptors[&0]), "{:?}", seen.descriptors);
        assert_no_signal_is_special(&seen);
    }
}

// What the daemon itself was started with is its own: descriptors without
// close-on-exec, signals that are blocked or ignored (as by nohup and by `&`).
#[test]
fn nothing_that_the_daemon_inherited_reaches_a_program() {
    let tool =
        Command::new("env").args(["--block-signal=USR2", "--ignore-signal=HUP", "true"]).status();
    if !provided(tool.is_ok_and(|status| status.success()), "env of coreutils 8.31") {
        return;
    }
    let address = Address::fresh();
    let daemon = Setup::new()
        .config(&exec(&address, 1, &["/bin/sleep", "1000"], ""))
        .wrapper(&[
            "env",
            "--block-signal=TERM,CHLD,HUP,USR1,USR2,ALRM,WINCH,RTMIN+3",
            "--ignore-signal=HUP,INT,QUIT,PIPE,CHLD,TTOU,TSTP,USR2,WINCH,RTMIN+1",
            "sh",
            "-c",
            "exec \"$@\" 5</dev/null 7<>/dev/null 9</etc/passwd",
            "sh",
        ])
        .start();
    let seen = look_at_a_program(&daemon, &address);
    assert_eq!(
        seen.descriptors.keys().copied().collect::<Vec<_>>(),
        [0, 1, 2],
        "{:?}",
        seen.descriptors
    );
    assert_no_signal_is_special(&seen);
    // The end of that program was no news to a daemon that ignores SIGCHLD, or
    // there would be nothing in the log.
    let end = daemon.log().wait_for("program killed", |_| true);
    assert_eq!(end.text("signal"), Some("SIGTERM"), "{end}");
}

#[test]
fn a_program_gets_its_arguments_as_they_stand() {
    let address = Address::fresh();
    let command = [
        "/usr/bin/printf",
        "%s|",
        "",
        "a b",
        "$HOME `id`",
        "\"quoted\"",
        "-n",
        "\u{e9}\u{4e16}",
        "a\nb",
    ];
    let _daemon = Daemon::start(&exec(&address, 1, &command, ""));
    assert_eq!(ask(&address, ""), "|a b|$HOME `id`|\"quoted\"|-n|\u{e9}\u{4e16}|a\nb|");
}

#[test]
fn a_program_reads_and_writes_the_connection() {
    let setup = Setup::new();
    let unix = Address::unix(&setup.directory().join("cat.sock"));
    for address in [Address::fresh(), unix] {
        let daemon = Daemon::start(&exec(&address, 2, &["cat"], ""));
        for size in [0, 1, 70_000, 5 << 20] {
            let text: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
            let mut receiving = Client::connect(&address);
            let mut sending = match &receiving {
                Client::Tcp(stream) => Client::Tcp(stream.try_clone().expect("another handle")),
                Client::Unix(stream) => Client::Unix(stream.try_clone().expect("another handle")),
            };
            let copy = text.clone();
            let sender = thread::spawn(move || {
                sending.write_all(&copy).expect("send");
                sending.half_close().expect("close one half");
            });
            let mut received = Vec::new();
            receiving.read_to_end(&mut received).expect("receive");
            sender.join().expect("the sender");
            assert!(received == text, "{} of {size} bytes", received.len());
        }
        assert_no_worker_ended(&daemon);
    }
}

/// Checks the fields that the end of every program has.
#[track_caller]
fn assert_told(end: &Event, worker: i32) {
    assert!(end.is_of_pool("exec"), "{end}");
    assert_eq!(end.number("slot"), Some(0), "{end}");
    assert!(end.pid() > 1 && end.pid() != worker, "{end}");
    assert_eq!(end.text("program"), Some("/bin/sh"), "{end}");
    assert!(end.number("elapsed_ms").is_some_and(|millis| millis >= 0), "{end}");
    assert!(end.text("peer").is_some_and(|peer| peer.parse::<SocketAddr>().is_ok()), "{end}");
}

#[test]
fn the_exit_status_of_a_program_is_logged() {
    let address = Address::fresh();
    // The shell itself ends as it is told; its pid is the program's.
    let script = "echo $$; read how number; case $how in exit) exit $number;; kill) kill -s $number $$; sleep 1000;; esac";
    let config =
        format!("[log]\nlevel = \"debug\"\nformat = \"json\"\n{}", shell(&address, 1, script, ""));
    let daemon = Daemon::start(&config);
    daemon.expect(&["program exited", "program killed"]);
    let worker = the_worker(&daemon, "exec");
    for code in [0, 1, 7, 126, 127, 255] {
        let mark = daemon.log().mark();
        let pid: i32 =
            ask(&address, &format!("exit {code}\n")).trim().parse().expect("a process id");
        let end = daemon.log().wait_since(mark, "program exited", |_| true);
        assert_told(&end, worker);
        assert_eq!((end.pid(), end.number("code")), (pid, Some(code)), "{end}");
        assert_eq!(end.level(), if code == 0 { "debug" } else { "warning" }, "{end}");
        assert!(!end.has("signal"), "{end}");
    }
    for signal in ["TERM", "KILL", "HUP", "ABRT", "RTMIN"] {
        let mark = daemon.log().mark();
        let pid: i32 =
            ask(&address, &format!("kill {signal}\n")).trim().parse().expect("a process id");
        let end = daemon.log().wait_since(mark, "program killed", |_| true);
        assert_told(&end, worker);
        let name = if signal == "RTMIN" { "SIGRTMIN+0".to_owned() } else { format!("SIG{signal}") };
        assert_eq!((end.pid(), end.text("signal")), (pid, Some(name.as_str())), "{end}");
        assert_eq!(end.level(), "warning", "{end}");
        assert!(end.flag("core_dumped").is_some() && !end.has("code"), "{end}");
    }
    assert_eq!(the_worker(&daemon, "exec"), worker);
}

#[test]
fn success_names_ends_that_are_no_failure() {
    let script = "read how number; case $how in exit) exit $number;; kill) kill -s $number $$; sleep 1000;; esac";
    for (success, failures) in [
        ("", &["exit 1", "exit 255", "kill TERM"][..]),
        ("success = [0, 255]", &["exit 1", "kill TERM", "kill PIPE"]),
        ("success = [1, \"SIGTERM\", \"SIGPIPE\"]", &["exit 0", "exit 255"]),
        ("success = []", &["exit 0", "exit 1", "exit 255", "kill TERM", "kill PIPE"]),
    ] {
        let address = Address::fresh();
        let config = format!(
            "[log]\nlevel = \"debug\"\nformat = \"json\"\n\
             [pool.exec]\nlisten = \"{address}\"\nworkers = 1\n\
             service.exec = {{ command = [\"/bin/sh\", \"-c\", \"{script}\"], {success} }}\n"
        );
        let daemon = Daemon::start(&config.replace(", }", " }"));
        daemon.expect(&["program exited", "program killed"]);
        for how in ["exit 0", "exit 1", "exit 255", "kill TERM", "kill PIPE"] {
            let mark = daemon.log().mark();
            ask(&address, &format!("{how}\n"));
            let message = if how.starts_with("exit") { "program exited" } else { "program killed" };
            let end = daemon.log().wait_since(mark, message, |_| true);
            let level = if failures.contains(&how) { "warning" } else { "debug" };
            assert_eq!(end.level(), level, "{how} with {success:?}: {end}");
        }
    }
}

// Under inetd nobody hears of it; a warning for each such client would hide the others.
#[test]
fn a_client_that_leaves_its_program_is_no_warning() {
    let address = Address::fresh();
    let config = shell(&address, 1, "while :; do echo words; done", "");
    let daemon = Daemon::start(&format!("[log]\nlevel = \"debug\"\nformat = \"json\"\n{config}"));
    let mut client = Client::connect(&address);
    client.expect("words\n");
    drop(client);
    let end = daemon.log().wait_for("program killed", |_| true);
    assert_eq!((end.text("signal"), end.level()), (Some("SIGPIPE"), "debug"), "{end}");
}

#[test]
fn a_program_that_succeeds_is_not_told_at_info() {
    let address = Address::fresh();
    let config = "[log]\nlevel = \"info\"\nformat = \"json\"\n".to_owned();
    let daemon = Daemon::start(&(config + &exec(&address, 2, &["true"], "")));
    let mark = daemon.log().mark();
    for _ in 0..20 {
        assert_eq!(ask(&address, ""), "");
    }
    let told = stop_and_read(&daemon, mark);
    assert!(told.is_empty(), "{told:?}");
}

// What a client can cause never fills the disk.
#[test]
fn programs_that_fail_in_a_row_are_folded() {
    let address = Address::fresh();
    let config = "[log]\nlevel = \"info\"\nformat = \"json\"\n".to_owned();
    let mut daemon = Daemon::start(&(config + &exec(&address, 1, &["false"], "")));
    let mark = daemon.log().mark();
    let began = Instant::now();
    for _ in 0..400 {
        assert_eq!(ask(&address, ""), "");
    }
    let told = stop_and_read(&daemon, mark);
    // A hundred in each ten seconds.
    let most = 100 * (1 + began.elapsed().as_secs() as usize / 10);
    let whole = told.iter().filter(|event| event.message() == "program exited").count();
    assert!(whole >= 50 && told.len() <= most, "{} lines, {whole} of them ends", told.len());
    daemon.expect_anything();
}

#[test]
fn one_program_after_the_other_leaks_nothing() {
    let address = Address::fresh();
    let daemon = Daemon::start(&shell(&address, 1, "echo words >&2; echo done", ""));
    let worker = the_worker(&daemon, "exec");
    assert_eq!(ask(&address, ""), "done\n");
    the_worker(&daemon, "exec");
    // A pipe is a new one for each program, with other numbers.
    let count = || procfs::descriptors(worker).len();
    let before = count();
    for _ in 0..300 {
        assert_eq!(ask(&address, ""), "done\n");
    }
    assert_eq!(the_worker(&daemon, "exec"), worker);
    until("no program is left", || procfs::children(worker).is_empty().then_some(()));
    assert_eq!(count(), before);
}

/// A client that sends what nobody reads, and reads its reply only when all of it has been
/// written; gives how much it got.
#[track_caller]
fn read_late(address: &Address, request: &str) -> usize {
    let mut client = Client::connect(address);
    client.send(request);
    // All that the kernel has no room for is written only now.
    thread::sleep(Duration::from_millis(300));
    let mut reply = Vec::new();
    client.read_to_end(&mut reply).expect("read to the end");
    reply.len()
}

/// The same by many clients, a few at a time.
#[track_caller]
fn assert_nothing_is_cut(address: &Address, request: &str, bytes: usize) {
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (address, request) = (address.clone(), request.to_owned());
            thread::spawn(move || [(); 3].map(|()| read_late(&address, &request)))
        })
        .collect();
    for client in clients {
        assert_eq!(client.join().expect("a client"), [bytes; 3]);
    }
}

// To close a socket with unread data is to reset it, and what the client has not got of
// its reply is lost.
#[test]
fn a_reply_is_whole_although_what_the_client_sent_was_not_read() {
    const BYTES: usize = 1 << 20;
    let unread = "unread ".repeat(2_000);
    let setup = Setup::new();
    let unix = Address::unix(&setup.directory().join("exec.sock"));
    for address in [Address::fresh(), unix] {
        let program = ["head", "-c", "1048576", "/dev/zero"];
        let daemon = Daemon::start(&exec(&address, 4, &program, ""));
        assert_nothing_is_cut(&address, &unread, BYTES);
        assert_no_worker_ended(&daemon);
    }
    let address = Address::fresh();
    let daemon = Daemon::start_example("testsvc", &super::command(&address, 4, ""));
    assert_nothing_is_cut(&address, &format!("send {BYTES}\n{unread}"), BYTES);
    assert_no_worker_ended(&daemon);
}

// A client that has sent what nobody read, and does not close, keeps its worker for a
// bounded time.
#[test]
fn a_client_that_does_not_close_keeps_no_worker() {
    // The shell reads no further than the line.
    let script = "read line; echo done";
    for (keys, is_late) in [
        ("idle_timeout = \"300ms\"", false),
        ("request_timeout = \"300ms\"\nkill_timeout = \"1m\"", true),
    ] {
        let address = Address::fresh();
        let daemon = Daemon::start(&shell(&address, 1, script, keys));
        daemon.expect(&["worker timed out"]);
        let worker = the_worker(&daemon, "exec");
        let mut client = Client::connect(&address);
        client.send("read\nunread");
        client.expect("done\n");
        if is_late {
            daemon.log().wait_for("worker timed out", |event| event.pid() == worker);
        }
        assert_eq!(the_worker(&daemon, "exec"), worker);
        drop(client);
    }
    // A stop at once does not wait for it.
    let address = Address::fresh();
    let daemon = Daemon::start(&shell(&address, 1, script, "kill_timeout = \"10m\""));
    let worker = the_worker(&daemon, "exec");
    let mut client = Client::connect(&address);
    client.send("read\nunread");
    client.expect("done\n");
    until("the worker waits for its client", || procfs::is_in_ppoll(worker).then_some(()));
    daemon.expect(&["connection cut"]);
    daemon.signal(Signal::SIGINT);
    daemon.wait_for_code(0);
}
