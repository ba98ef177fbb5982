//! Listeners with real clients: what a worker does to them, and how they end.
#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixSocketAddr, UnixStream};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use tempfile::TempDir;

use super::tcp::socket_address;
use super::*;
use crate::sys::socket::accept;

/// A listener of each kind, and how to connect to it.
struct Case {
    listener: Listener,
    listen: Listen,
    _directory: TempDir,
}

impl Case {
    fn all() -> [Case; 4] {
        let abstract_name = |directory: &TempDir| {
            // As unique as the directory is.
            format!("@preforkd-test{}", directory.path().display())
        };
        [
            Case::new(|_| "127.0.0.1:0".to_owned()),
            Case::new(|_| "[::1]:0".to_owned()),
            Case::new(|directory| directory.path().join("s").display().to_string()),
            Case::new(abstract_name),
        ]
    }

    fn new(address: impl Fn(&TempDir) -> String) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut address: Address = address(&directory).parse().unwrap();
        if let Address::Inet(any) = &mut address {
            // A port that was free a moment ago: with 0 the kernel would choose
            // another one each time the socket listens.
            let free = TcpListener::bind(socket_address(any).unwrap()).unwrap();
            *any = free.local_addr().unwrap().into();
        }
        let listen = Listen::from(address);
        let listener = Listener::bind(&listen).unwrap();
        Case { listener, listen, _directory: directory }
    }

    fn is_internet(&self) -> bool {
        matches!(self.listen.address, Address::Inet(_))
    }

    fn connect(&self) -> io::Result<Client> {
        connect_to(&self.listen.address)
    }

    /// Accepts one client, as a worker does.
    fn accept(&self) -> nix::Result<OwnedFd> {
        accept(self.listener.as_fd()).map(|(connection, _)| connection)
    }

    /// Accepts one client and greets it.
    fn serve(&self, mut client: Client) {
        let connection = self.accept().unwrap();
        nix::unistd::write(&connection, b"hello").unwrap();
        drop(connection);
        assert_eq!(client.rest(), "hello", "{}", self.listen.address);
    }
}

enum Client {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Client {
    fn rest(&mut self) -> String {
        let mut text = String::new();
        match self {
            Client::Tcp(stream) => stream.read_to_string(&mut text).unwrap(),
            Client::Unix(stream) => stream.read_to_string(&mut text).unwrap(),
        };
        text
    }
}

fn connect_to(address: &Address) -> io::Result<Client> {
    match address {
        // Long enough for a handshake on this machine, and bounded: nobody answers
        // a client whose first segment was dropped.
        Address::Inet(address) => {
            let address = socket_address(address)?;
            TcpStream::connect_timeout(&address, Duration::from_millis(300)).map(Client::Tcp)
        }
        Address::Path(path) => UnixStream::connect(path).map(Client::Unix),
        Address::Abstract(name) => {
            let address = UnixSocketAddr::from_abstract_name(name.as_bytes())?;
            UnixStream::connect_addr(&address).map(Client::Unix)
        }
        Address::Systemd(_) => unreachable!("no case has it"),
    }
}

#[test]
fn a_listener_that_drains_gives_its_queue_and_takes_nobody_in() {
    for case in Case::all() {
        assert_eq!(case.listener.queue(), Queue::Empty, "{}", case.listen.address);
        let waiting: Vec<_> = (0..3).map(|_| case.connect().unwrap()).collect();
        assert_eq!(case.listener.queue(), Queue::Waiting);
        case.listener.begin_drain().unwrap();
        let refused = case.connect().err().unwrap().kind();
        let expected = match case.listen.address {
            Address::Inet(_) => io::ErrorKind::TimedOut,
            Address::Path(_) => io::ErrorKind::NotFound,
            _ => io::ErrorKind::ConnectionRefused,
        };
        assert_eq!(refused, expected, "{}", case.listen.address);
        waiting.into_iter().for_each(|client| case.serve(client));
        let (end, queue) = match case.is_internet() {
            true => (Errno::EAGAIN, Queue::Empty),
            false => (Errno::EINVAL, Queue::Unknown),
        };
        assert_eq!(case.accept().unwrap_err(), end);
        assert_eq!(case.listener.queue(), queue);
        let address = case.listen.address.clone();
        drop(case.listener);
        let refused = connect_to(&address).err().unwrap().kind();
        let gone = [io::ErrorKind::ConnectionRefused, io::ErrorKind::NotFound];
        assert!(gone.contains(&refused), "{address}: {refused}");
    }
}

// A client sends while it waits: its segments must pass the filter.
#[test]
fn a_client_that_waits_while_the_listener_drains_is_heard() {
    let case = Case::new(|_| "127.0.0.1:0".to_owned());
    let mut client = case.connect().unwrap();
    case.listener.begin_drain().unwrap();
    let Client::Tcp(stream) = &mut client else { unreachable!("it is TCP") };
    stream.write_all(&[b'x'; 100_000]).unwrap();
    let mut connection = fs::File::from(case.accept().unwrap());
    let mut text = vec![0; 100_000];
    connection.read_exact(&mut text).unwrap();
    assert!(text.iter().all(|&byte| byte == b'x'));
}

// A path that was looked up before it went leads to the socket still.
#[test]
fn a_socket_file_that_drains_refuses_also_by_another_name() {
    let directory = tempfile::tempdir().unwrap();
    let (path, link) = (directory.path().join("s"), directory.path().join("link"));
    let listen = Listen::from(Address::Path(path.clone()));
    let listener = Listener::bind(&listen).unwrap();
    fs::hard_link(&path, &link).unwrap();
    listener.begin_drain().unwrap();
    assert!(!path.exists());
    let refused = UnixStream::connect(&link).unwrap_err().kind();
    assert_eq!(refused, io::ErrorKind::ConnectionRefused);
}

#[test]
fn what_stays_for_the_next_daemon_does_not_drain() {
    for case in Case::all() {
        case.listener.leave_open();
        case.listener.begin_drain().unwrap();
        case.serve(case.connect().unwrap());
    }
}

#[test]
fn a_listener_that_a_worker_shut_down_is_mended_or_bound_anew() {
    for how in [Shutdown::Read, Shutdown::Both] {
        for mut case in Case::all() {
            let address = case.listen.address.clone();
            assert_eq!(case.listener.mend(&case.listen), Mended::Sound, "{address}");
            shutdown(case.listener.as_fd().as_raw_fd(), how).unwrap();
            assert!(case.connect().is_err(), "{address}");
            let mended = case.listener.mend(&case.listen);
            if case.is_internet() {
                assert_eq!(mended, Mended::ListenedAgain);
            } else {
                assert_eq!(mended, Mended::MustBindAnew);
                case.listener = match address {
                    // Nobody else has its name while the old socket is open.
                    Address::Abstract(_) => {
                        let busy = case.listener.bind_anew(&case.listen).unwrap_err();
                        assert_eq!(busy.kind(), io::ErrorKind::AddrInUse);
                        continue;
                    }
                    _ => case.listener.bind_anew(&case.listen).unwrap(),
                };
            }
            assert_eq!(case.listener.mend(&case.listen), Mended::Sound);
            case.serve(case.connect().unwrap());
        }
    }
}

fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_socket_bound_anew_takes_the_name_and_leaves_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    // The greatest length, which leaves no room for a name next to it.
    let length = 106 - directory.path().as_os_str().len();
    for name in ["s".to_owned(), "x".repeat(length)] {
        let path = directory.path().join(&name);
        let listen = Listen { mode: 0o600, ..Listen::from(Address::Path(path.clone())) };
        let old = Listener::bind(&listen).unwrap();
        shutdown(old.as_fd().as_raw_fd(), Shutdown::Both).unwrap();
        // As from a daemon that was killed before it was done.
        if name == "s" {
            fs::write(directory.path().join(".s.preforkd-new"), "").unwrap();
        }
        fs::write(directory.path().join(format!(".{name}.preforkd-lock")), "").unwrap();
        let new = old.bind_anew(&listen).unwrap();
        assert_eq!(names_in(directory.path()), std::slice::from_ref(&name));
        assert_eq!(std::os::unix::fs::MetadataExt::mode(&path.metadata().unwrap()) & 0o777, 0o600);
        // The old one goes without the file of the new one.
        drop(old);
        assert!(new.is_in_place());
        assert!(UnixStream::connect(&path).is_ok());
        drop(new);
        assert!(names_in(directory.path()).is_empty());
    }
}

#[test]
fn a_name_that_another_daemon_has_since_is_not_taken_back() {
    let directory = tempfile::tempdir().unwrap();
    let listen = Listen::from(Address::Path(directory.path().join("s")));
    let ours = Listener::bind(&listen).unwrap();
    shutdown(ours.as_fd().as_raw_fd(), Shutdown::Both).unwrap();
    let theirs = Listener::bind(&listen).unwrap();
    let refused = ours.bind_anew(&listen).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
    assert!(theirs.is_in_place());
}

#[test]
fn while_one_daemon_binds_another_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let listen = Listen::from(Address::Path(path.clone()));
    let held = file::Lock::take(&path).unwrap();
    let refused = Listener::bind(&listen).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
    drop(held);
    assert!(Listener::bind(&listen).is_ok());
}

#[test]
fn connections_have_what_the_configuration_says_of_tcp() {
    use crate::config::{Keepalive, Tcp};
    let mut case = Case::new(|_| "127.0.0.1:0".to_owned());
    let address = case.listen.address.clone();
    let probes = |socket: &OwnedFd| {
        let idle = getsockopt(socket, sockopt::TcpKeepIdle).unwrap();
        let interval = getsockopt(socket, sockopt::TcpKeepInterval).unwrap();
        (idle, interval, getsockopt(socket, sockopt::TcpKeepCount).unwrap())
    };
    let accepted = |case: &Case| {
        let _client = case.connect().unwrap();
        let connection = case.accept().unwrap();
        (probes(&connection), getsockopt(&connection, sockopt::TcpNoDelay).unwrap())
    };
    let by_default = accepted(&case);
    assert!(!by_default.1);
    let keepalive = Keepalive { idle: Some(61), interval: Some(11), count: None };
    let tcp = Tcp { nodelay: true, keepalive, ..Tcp::default() };
    let expected = ((61, 11, by_default.0.2), true);
    // Those that it has from its first connection on, and that a reload gives it.
    drop(case.listener);
    case.listen.tcp = tcp;
    case.listener = Listener::bind(&case.listen).unwrap();
    assert_eq!(accepted(&case), expected);
    case.listen = Listen::from(address);
    case.listener.adjust(&case.listen).unwrap();
    assert_eq!(accepted(&case), by_default);
}

#[test]
fn a_client_that_sends_nothing_waits_where_accept_is_deferred() {
    let mut case = Case::new(|_| "127.0.0.1:0".to_owned());
    case.listen.tcp.defer_accept = Some(60);
    case.listener.adjust(&case.listen).unwrap();
    let mut client = case.connect().unwrap();
    assert_eq!(case.listener.queue(), Queue::Empty);
    let Client::Tcp(stream) = &mut client else { unreachable!("it is TCP") };
    stream.write_all(b"x").unwrap();
    drop(case.accept().unwrap());
}

#[test]
fn an_address_may_be_bound_before_it_is_there_and_to_one_interface() {
    let mut listen = Listen::from("192.0.2.1:0".parse::<Address>().unwrap());
    let refused = Listener::bind(&listen).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::AddrNotAvailable);
    listen.tcp.freebind = true;
    assert!(Listener::bind(&listen).is_ok());
    let mut listen = Listen::from("127.0.0.1:0".parse::<Address>().unwrap());
    listen.tcp.bind_device = Some("lo".to_owned());
    let listener = Listener::bind(&listen).unwrap();
    assert_eq!(listener.bound_otherwise(&listen), None);
    listen.tcp.bind_device = None;
    assert_eq!(listener.bound_otherwise(&listen), Some("bind_device"));
    listen.tcp.bind_device = Some("nothere0".to_owned());
    assert!(Listener::bind(&listen).is_err());
}
