//! Sockets: the files of Unix ones, the abstract ones, and those that systemd passes.

use std::fs;
use std::io::Read as _;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Instant;

use nix::sys::signal::Signal;
use nix::unistd::{Group, User};

use support::client::{ask, assert_serves};
use support::command::finish;
use support::{
    Address, Client, Daemon, Directory, Event, PATIENCE, Setup, has_strace, is_root, procfs,
    provided, until,
};

/// A pool `echo` on the socket file `path`, with further keys of `listen`.
fn on(path: &Path, keys: &str) -> String {
    format!(
        "[pool.echo]\nlisten = {{ address = \"{}\"{keys} }}\nworkers = 2\nservice = \"echo\"\n",
        path.display()
    )
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("look at the socket").permissions().mode() & 0o7777
}

#[test]
fn the_mode_is_the_configured_one_whatever_the_umask() {
    for umask in ["0000", "0077", "0777"] {
        for (keys, expected) in [
            ("", 0o660),
            (", mode = \"0600\"", 0o600),
            (", mode = \"0777\"", 0o777),
            (", mode = \"0000\"", 0),
        ] {
            let setup = Setup::new();
            let path = setup.directory().join("echo.sock");
            let script = format!("umask {umask}; exec \"$@\"");
            let daemon =
                setup.config(&on(&path, keys)).wrapper(&["sh", "-c", &script, "sh"]).start();
            assert_eq!(mode(&path), expected, "with the umask {umask}");
            // And it is the daemon's own again.
            let is_now = procfs::status(daemon.pid(), "Umask");
            assert_eq!(is_now.as_deref(), Some(umask));
            let worker = daemon.workers("echo")[0];
            assert_eq!(procfs::status(worker, "Umask").as_deref(), Some(umask));
        }
    }
}

/// A user and a group that are not root's, and that every system has.
fn other() -> (User, Group) {
    let user = User::from_name("daemon").expect("read the user database").expect("the user daemon");
    let group = Group::from_name("mail").expect("read the group database").expect("the group mail");
    (user, group)
}

#[test]
fn owner_and_group_are_the_configured_ones() {
    if !provided(is_root(), "root") {
        return;
    }
    let (user, group) = other();
    let (uid, gid) = (user.uid.as_raw(), group.gid.as_raw());
    for (keys, expected) in [
        ("", (0, 0)),
        (", owner = \"daemon\"", (uid, 0)),
        (", group = \"mail\"", (0, gid)),
        (", owner = \"daemon\", group = \"mail\", mode = \"0620\"", (uid, gid)),
        // Nobody need have the number.
        (", owner = 54321, group = \"54322\"", (54321, 54322)),
    ] {
        let setup = Setup::new();
        let path = setup.directory().join("echo.sock");
        let _daemon = setup.config(&on(&path, keys)).start();
        let file = fs::symlink_metadata(&path).expect("look at the socket");
        assert_eq!((file.uid(), file.gid()), expected, "{keys}");
        assert_eq!(mode(&path), if keys.contains("0620") { 0o620 } else { 0o660 });
        assert_serves(&Address::unix(&path));
    }
}

// A file without a daemon would only puzzle who finds it.
#[test]
fn a_socket_whose_owner_cannot_be_set_leaves_no_file() {
    let has_setpriv = Command::new("setpriv").arg("--version").output().is_ok();
    if !provided(is_root() && has_setpriv, "root and setpriv") {
        return;
    }
    let setup = Setup::new();
    let path = setup.directory().join("echo.sock");
    // Root without its privilege to give files away.
    let mut daemon = setup
        .config(&on(&path, ", owner = \"daemon\""))
        .wrapper(&["setpriv", "--inh-caps=-chown", "--bounding-set=-chown"])
        .launch();
    daemon.expect_anything();
    daemon.wait_for_code(77);
    assert!(!path.exists());
}

// PEERS: "a Unix socket is open to all between bind and chmod, or for good".
#[test]
fn nobody_can_connect_before_owner_and_mode_are_set() {
    if !provided(is_root(), "root") {
        return;
    }
    let (user, group) = other();
    for _ in 0..10 {
        let setup = Setup::new();
        let path = setup.directory().join("echo.sock");
        let wanted = (user.uid.as_raw(), group.gid.as_raw(), 0o620);
        let client = path.clone();
        let watcher = thread::spawn(move || {
            let end = Instant::now() + PATIENCE;
            while UnixStream::connect(&client).is_err() {
                assert!(Instant::now() < end, "nobody ever listened");
                std::hint::spin_loop();
            }
            let file = fs::symlink_metadata(&client).expect("look at the socket");
            (file.uid(), file.gid(), file.permissions().mode() & 0o7777)
        });
        let daemon = setup
            .config(&on(&path, ", owner = \"daemon\", group = \"mail\", mode = \"0620\""))
            .wrapper(&["sh", "-c", "umask 0; exec \"$@\"", "sh"])
            .start();
        assert_eq!(watcher.join().expect("the watcher"), wanted);
        drop(daemon);
    }
}

// The same by the order of the system calls, which no luck is in.
#[test]
fn owner_and_mode_are_set_before_listen() {
    if !provided(has_strace() && is_root(), "strace and root") {
        return;
    }
    let setup = Setup::new();
    let (path, trace) = (setup.directory().join("echo.sock"), setup.directory().join("trace"));
    let trace_path = trace.display().to_string();
    let calls = "trace=bind,listen,chmod,fchmod,fchmodat,chown,fchown,lchown,fchownat,umask";
    // The children are not followed: what matters happens before them.
    let daemon = setup
        .config(&on(&path, ", owner = \"daemon\", group = \"mail\", mode = \"0620\""))
        .wrapper(&["strace", "-qq", "-o", &trace_path, "-e", calls])
        .start();
    let text = fs::read_to_string(&trace).expect("read the trace");
    drop(daemon);
    // Those of this socket, by its name and by its number.
    let binds = text.lines().find(|line| line.starts_with("bind(") && line.contains("echo.sock"));
    let (call, _) = binds.expect("a bind").split_once(',').expect("its arguments");
    let by_number = call.replace("bind", "") + ",";
    let is_of_socket = |line: &&str| line.contains("echo.sock") || line.contains(&by_number);
    let lines: Vec<_> = text.lines().filter(is_of_socket).collect();
    let bind = lines.iter().position(|line| line.starts_with("bind(")).expect("a bind");
    let listen = lines.iter().position(|line| line.starts_with("listen(")).expect("a listen");
    let chown = lines.iter().rposition(|line| line.contains("chown")).expect("a chown");
    let chmod = lines.iter().rposition(|line| line.contains("chmod")).expect("a chmod");
    assert!(chmod < listen && chown < listen && bind < chown, "{text}");
    // Open to nobody else even before: the file is born with its mode, and its
    // mode is not given by name, when the name may be another file's.
    assert!(chmod < bind && lines[chmod].starts_with("fchmod("), "{text}");
}

#[test]
fn a_stale_socket_is_replaced() {
    let directory = Directory::new();
    let path = directory.join("echo.sock");
    drop(UnixListener::bind(&path).expect("bind"));
    // A child that another test forks meanwhile has the socket until its exec.
    until("nobody listens", || UnixStream::connect(&path).is_err().then_some(()));
    assert!(path.exists(), "a socket file outlives its socket");
    let address = Address::unix(&path);
    let daemon = Daemon::start(&on(&path, ""));
    assert_serves(&address);
    // What a daemon leaves behind that was killed is stale too.
    let workers = daemon.wait_for_idle("echo", 2);
    daemon.signal(Signal::SIGKILL);
    daemon.wait();
    workers.into_iter().for_each(super::wait_for_end);
    assert!(path.exists());
    let _next = Daemon::start(&on(&path, ""));
    assert_serves(&address);
}

/// Runs the daemon where it has to refuse, and gives what it says.
#[track_caller]
fn refused(config: &str) -> String {
    let directory = Directory::new();
    let file = directory.write("preforkd.toml", config);
    let ended = finish(support::command::preforkd().arg("-c").arg(&file));
    assert_eq!(ended.code, Some(73), "{ended:?}");
    ended.err
}

#[test]
fn a_live_socket_is_refused_and_not_harmed() {
    let directory = Directory::new();
    let path = directory.join("echo.sock");
    let daemon = Daemon::start(&on(&path, ""));
    let before = fs::symlink_metadata(&path).expect("the socket").ino();
    let told = refused(&on(&path, ""));
    assert!(told.contains(&format!("could not bind listener \"{}\"", path.display())), "{told}");
    assert!(told.to_lowercase().contains("address already in use"), "{told}");
    assert_eq!(fs::symlink_metadata(&path).expect("the socket").ino(), before);
    assert_serves(&Address::unix(&path));
    // Nor one whose backlog is full, or whose owner does not accept.
    drop(daemon);
    let owner = UnixListener::bind(&path).expect("bind");
    nix::sys::socket::listen(&owner, nix::sys::socket::Backlog::new(0).expect("a backlog"))
        .expect("listen");
    let _waiting: Vec<_> = (0..1).map(|_| UnixStream::connect(&path).expect("connect")).collect();
    refused(&on(&path, ""));
    assert!(path.exists());
    drop(owner);
}

// Its file looks like that of a dead daemon, because a connect is refused.
#[test]
fn a_socket_that_does_not_listen_yet_is_not_taken_for_stale() {
    if !provided(has_strace(), "strace") {
        return;
    }
    let setup = Setup::new();
    let path = setup.directory().join("echo.sock");
    // Long enough for another daemon to start. Where it is not, the other one finds
    // this one listening, and is refused as well. The first listen is the pool's.
    let delay = "inject=listen:delay_enter=5000000:when=1";
    let trace = setup.directory().join("trace").display().to_string();
    let daemon = setup
        .config(&on(&path, ""))
        .wrapper(&["strace", "-qq", "-o", &trace, "-e", "trace=listen", "-e", delay])
        .launch();
    let ino = until("the socket is bound", || fs::symlink_metadata(&path).ok()).ino();
    let told = refused(&on(&path, ""));
    assert!(told.to_lowercase().contains("address already in use"), "{told}");
    daemon.log().wait_for("ready", |_| true);
    assert_eq!(fs::symlink_metadata(&path).expect("the socket").ino(), ino);
    assert_serves(&Address::unix(&path));
    drop(daemon);
}

#[test]
fn of_many_daemons_that_start_on_one_path_one_is_ready() {
    let directory = Directory::new();
    let path = directory.join("echo.sock");
    let delay = "inject=listen:delay_enter=50000";
    for _ in 0..3 {
        drop(UnixListener::bind(&path).expect("leave a stale socket"));
        let start = |_| {
            let setup = Setup::new().config(&on(&path, ""));
            match has_strace() {
                // The longer between bind and listen, the surer they meet there.
                true => setup.wrapper(&["strace", "-qq", "-o", "/dev/null", "-e", delay]).launch(),
                false => setup.launch(),
            }
        };
        let mut daemons: Vec<_> = (0..8).map(start).collect();
        let is_ready = |daemon: &Daemon| {
            until("it is ready or has ended", || match daemon.status() {
                Some(status) => {
                    assert_eq!(status.code(), Some(73));
                    Some(false)
                }
                None => daemon
                    .log()
                    .events()
                    .iter()
                    .any(|event| event.message() == "ready")
                    .then_some(true),
            })
        };
        daemons.iter_mut().for_each(Daemon::expect_anything);
        let ready = daemons.iter().filter(|daemon| is_ready(daemon)).count();
        assert_eq!(ready, 1, "daemons that believe to have the path");
        assert_serves(&Address::unix(&path));
        drop(daemons);
        let names: Vec<_> = files(directory.path());
        assert_eq!(names, Vec::<PathBuf>::new(), "what they left");
    }
}

// Who mends one address should not find the next one wrong only then.
#[test]
fn all_addresses_that_cannot_be_bound_are_told_at_once() {
    let free = Address::fresh();
    let good = format!("[pool.good]\nlisten = \"{free}\"\nworkers = 1\nservice = \"echo\"\n");
    let taken: Vec<_> =
        (0..2).map(|_| TcpListener::bind("127.0.0.1:0").expect("take an address")).collect();
    let (mut config, mut expected) = (good.clone(), Vec::new());
    for (at, socket) in taken.iter().enumerate() {
        let address = socket.local_addr().expect("its address");
        config += &format!("[pool.p{at}]\nlisten = \"{address}\"\nservice = \"echo\"\n");
        expected.push(format!(
            "pool.p{at}.listen: could not bind listener \"{address}\": address already in use\n"
        ));
    }
    config += "[pool.p2]\nlisten = \"systemd:p2\"\nservice = \"echo\"\n";
    expected.push(
        "pool.p2.listen: could not adopt listener \"systemd:p2\": no such socket was passed\n"
            .to_owned(),
    );
    let told = refused(&config);
    let daemon = Daemon::start(&good);
    daemon.expect(&["reload failed"]);
    daemon.rewrite_config(&config);
    let failed = daemon.fail_to_reload();
    for expected in expected {
        assert!(told.contains(&expected), "{expected}is not in\n{told}");
        let reason = failed.text("reason").unwrap_or_default();
        assert!(reason.contains(&expected), "{expected}is not in\n{reason}");
    }
    // What is wrong besides is told together with what a look finds of an address.
    let nowhere = "[pool.p3]\nlisten = \"/nowhere/s\"\nservice.exec.command = []\n";
    daemon.rewrite_config(&(good + nowhere));
    let failed = daemon.fail_to_reload();
    let reason = failed.text("reason").unwrap_or_default();
    assert!(reason.contains("the command is empty"), "{reason}");
    assert!(reason.contains("could not bind listener \"/nowhere/s\""), "{reason}");
    assert_serves(&free);
}

#[test]
fn what_is_not_a_socket_is_never_removed() {
    let setup = Setup::new();
    let place = |name: &str| setup.directory().join(name);
    fs::write(place("file"), "precious").expect("write");
    fs::write(place("empty"), "").expect("write");
    fs::create_dir(place("directory")).expect("create a directory");
    nix::unistd::mkfifo(&place("fifo"), nix::sys::stat::Mode::S_IRWXU).expect("make a FIFO");
    symlink("file", place("link")).expect("make a link");
    symlink("nowhere", place("dangling")).expect("make a link");
    drop(UnixListener::bind(place("stale")).expect("bind"));
    symlink("stale", place("link_to_socket")).expect("make a link");
    let names = ["file", "empty", "directory", "fifo", "link", "dangling", "link_to_socket"];
    let seen = |name: &str| {
        let file = fs::symlink_metadata(place(name)).expect("it is there");
        (file.ino(), file.len(), file.mode())
    };
    for name in names {
        let before = seen(name);
        let told = refused(&on(&place(name), ""));
        assert!(told.contains("not a socket"), "{told}");
        assert_eq!(seen(name), before, "{name}");
    }
    assert_eq!(fs::read(place("file")).expect("read"), b"precious");
    assert!(fs::symlink_metadata(place("stale")).expect("it is there").file_type().is_socket());
}

#[test]
fn the_file_goes_with_its_daemon_and_with_nobody_else() {
    let setup = Setup::new();
    let path = setup.directory().join("echo.sock");
    let daemon = setup.config(&(on(&path, "") + "min_uptime = \"0s\"\n")).start();
    daemon.expect(&["worker killed"]);
    // Not with a worker, however it ends.
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let victim = daemon.wait_for_idle("echo", 2)[0];
        daemon.expect(&["worker exited"]);
        procfs::send(victim, signal);
        super::wait_for_end(victim);
        daemon.wait_for_idle("echo", 2);
        assert!(path.exists());
    }
    assert_serves(&Address::unix(&path));
    assert_eq!(daemon.stop().code(), Some(0));
    assert!(!path.exists());
}

#[test]
fn a_file_that_took_the_name_of_the_socket_is_not_removed() {
    let setup = Setup::new();
    let path = setup.directory().join("echo.sock");
    let daemon = setup.config(&on(&path, "")).start();
    fs::remove_file(&path).expect("remove the socket");
    let _other = UnixListener::bind(&path).expect("bind");
    let ino = fs::symlink_metadata(&path).expect("the socket").ino();
    assert_eq!(daemon.stop().code(), Some(0));
    assert_eq!(fs::symlink_metadata(&path).expect("the socket of somebody else").ino(), ino);
}

#[test]
fn a_reload_changes_mode_and_group_in_place() {
    // Only root may give a file to any group.
    let (key, gid) = if is_root() {
        (", group = \"mail\"", other().1.gid)
    } else {
        ("", nix::unistd::getegid())
    };
    let setup = Setup::new();
    let path = setup.directory().join("echo.sock");
    let daemon = setup.config(&on(&path, "")).start();
    let before = fs::symlink_metadata(&path).expect("the socket").ino();
    daemon.reload(&on(&path, &format!("{key}, mode = \"0606\", backlog = 7")));
    let file = fs::symlink_metadata(&path).expect("the socket");
    assert_eq!((mode(&path), file.gid(), file.ino()), (0o606, gid.as_raw(), before));
    assert_serves(&Address::unix(&path));
}

#[test]
fn an_abstract_socket_serves_and_leaves_no_file() {
    let setup = Setup::new();
    let name = format!("preforkd-test-{}", std::process::id());
    let config = format!("[pool.echo]\nlisten = \"@{name}\"\nworkers = 2\nservice = \"echo\"\n");
    let before = files(setup.directory().path());
    let daemon = setup.config(&config).start();
    let connect = || {
        let address = SocketAddr::from_abstract_name(name.as_bytes()).expect("a name");
        UnixStream::connect_addr(&address).map(Client::Unix)
    };
    let mut client = connect().expect("connect");
    client.ping("hello");
    client.half_close().expect("close one half");
    assert_eq!(client.rest(), "");
    let told = refused(&config);
    assert!(told.contains(&format!("could not bind listener \"@{name}\"")), "{told}");
    let mut after = files(daemon.directory().path());
    after.retain(|file| !file.ends_with("preforkd.toml") && !file.ends_with("control.sock"));
    assert_eq!(after, before);
    assert_eq!(daemon.stop().code(), Some(0));
    daemon.wait_for_nothing_left();
    assert!(connect().is_err());
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("list the directory");
    let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

// The longest name that fits is one that clients can connect to.
#[test]
fn a_path_of_107_bytes_works() {
    let setup = Setup::new();
    let directory = setup.directory().path().display().to_string();
    let path = PathBuf::from(format!("{directory}/{}", "x".repeat(106 - directory.len())));
    assert_eq!(path.as_os_str().len(), 107);
    let daemon = setup.config(&on(&path, "")).start();
    assert_eq!(ask(&Address::unix(&path), "hello"), "hello");
    let mut rest = Vec::new();
    UnixStream::connect(&path)
        .and_then(|mut stream| {
            stream.shutdown(std::net::Shutdown::Write)?;
            stream.read_to_end(&mut rest)
        })
        .expect("connect, and be let go");
    until("it is idle", || (daemon.wait_for_idle("echo", 2).len() == 2).then_some(()));
}

// A client that vanished would have its worker for ever.
#[test]
fn connections_over_tcp_are_kept_alive() {
    const KEEPALIVE: &str = "02";
    let address = Address::fresh();
    let config = format!("[pool.echo]\nlisten = \"{address}\"\nworkers = 1\nservice = \"echo\"\n");
    let _daemon = Daemon::start(&config);
    let mut client = Client::connect(&address);
    client.ping("hello");
    let Client::Tcp(stream) = &client else { panic!("it is TCP") };
    let own = stream.local_addr().expect("its own address");
    // Until the client has confirmed the answer, another timer runs.
    until("the timer of its keepalive runs", || {
        (procfs::tcp_timer(address.tcp(), own)? == KEEPALIVE).then_some(())
    });
}

/// Listeners that somebody else has bound, over a Unix socket and over TCP.
fn bound(directory: &Directory) -> [(Address, OwnedFd); 2] {
    let path = directory.join("echo.sock");
    let tcp = Address::fresh();
    [
        (Address::unix(&path), UnixListener::bind(&path).expect("bind").into()),
        (tcp.clone(), TcpListener::bind(tcp.tcp()).expect("listen").into()),
    ]
}

/// A daemon that is passed this socket as the one that it has stored.
fn stored(address: &Address, socket: OwnedFd) -> Setup {
    let text = address.to_string();
    let name: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
    let config = format!("[pool.echo]\nlisten = \"{text}\"\nworkers = 1\nservice = \"echo\"\n");
    passed(socket, &[&format!("listener-{name}")]).config(&config)
}

#[test]
fn a_stored_listener_is_adopted_with_the_clients_that_wait() {
    let directory = Directory::new();
    for (address, socket) in bound(&directory) {
        let mut client = Client::connect(&address);
        let _daemon = stored(&address, socket).start();
        client.ping("at last");
        drop(client);
        assert_serves(&address);
    }
}

// As after a fault of ours; the descriptor store would hold it over each restart.
#[test]
fn a_stored_listener_that_was_shut_down_is_bound_anew() {
    let directory = Directory::new();
    for (address, socket) in bound(&directory) {
        nix::sys::socket::shutdown(socket.as_raw_fd(), nix::sys::socket::Shutdown::Both)
            .expect("shut it down");
        let daemon = stored(&address, socket).start();
        daemon.expect(&["could not keep listener"]);
        let told = daemon.log().wait_for("could not keep listener", |_| true);
        assert_eq!(told.text("address"), Some(&*address.to_string()), "{told}");
        assert_serves(&address);
    }
}

/// A daemon that is passed this socket once under each of `names`, as by systemd.
fn passed(socket: impl Into<OwnedFd>, names: &[&str]) -> Setup {
    // The shell gives it the numbers that a service manager would.
    let numbers: String = (3..3 + names.len()).map(|number| format!(" {number}<&0")).collect();
    let script = format!(
        "LISTEN_PID=$$ LISTEN_FDS={} LISTEN_FDNAMES={} exec \"$@\"{numbers} </dev/null",
        names.len(),
        names.join(":")
    );
    Setup::new().stdin(socket.into()).wrapper(&["sh", "-c", &script, "sh"])
}

fn on_passed(name: &str) -> String {
    format!("[pool.echo]\nlisten = \"systemd:{name}\"\nworkers = 1\nservice = \"echo\"\n")
}

const TWO_OF_A_NAME: &str = "pool.echo.listen: could not adopt listener \"systemd:echo\": \
                             systemd passed 2 sockets of this name\n";

// One would be served, and the clients of the other would wait without a word.
#[test]
fn two_passed_sockets_of_one_name_are_refused() {
    let socket = TcpListener::bind(Address::fresh().tcp()).expect("listen");
    let told = tempfile::tempfile().expect("make a file");
    let setup = passed(socket, &["echo", "other", "echo"]).config(&on_passed("echo"));
    let daemon = setup.stderr(told.try_clone().expect("another descriptor")).launch();
    daemon.wait_for_code(73);
    let mut bytes = [0; 1000];
    let length = told.read_at(&mut bytes, 0).expect("read what it said");
    let told = String::from_utf8_lossy(&bytes[..length]);
    assert!(told.contains(TWO_OF_A_NAME), "{told}");
    assert!(told.ends_with("a FileDescriptorName= of its own\n"), "{told}");
}

#[test]
fn passed_sockets_that_nobody_serves_are_told() {
    let address = Address::fresh();
    let socket = TcpListener::bind(address.tcp()).expect("listen");
    let setup = passed(socket, &["echo", "other", "echo"]).config(&on_passed("other"));
    let daemon = setup.start();
    daemon.expect(&["could not serve socket"]);
    let told = daemon.log().wait_for("could not serve socket", |_| true);
    assert_eq!(told.text("socket"), Some("echo"), "{told}");
    assert_eq!(told.text("reason"), Some("no pool listens on \"systemd:echo\""), "{told}");
    assert_serves(&address);
    daemon.rewrite_config(&on_passed("echo"));
    let failed = daemon.fail_to_reload();
    assert!(failed.text("reason").is_some_and(|text| text.contains(TWO_OF_A_NAME)), "{failed}");
    assert_serves(&address);
    let is_it = |event: &Event| event.message() == "could not serve socket";
    assert_eq!(daemon.log().events().iter().filter(|event| is_it(event)).count(), 1);
}
