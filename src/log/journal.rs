//! The journal: records as native entries, and streams for standard error.
//!
//! The protocols are those of systemd's "Native Journal Protocol" document and of
//! sd_journal_stream_fd(3). libsystemd's crate speaks the first one, but keeps its socket
//! private. A worker would close that socket, because a worker keeps only descriptors that
//! it knows.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::env;
use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::socket::{
    self, AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, setsockopt, sockopt,
};
use slog::{Drain, KV, Key, Level, Never, OwnedKVList, Record, Serializer};

use crate::program;

use super::{event, losses, patience};

const SOCKET: &str = "/run/systemd/journal/socket";
const STREAM_SOCKET: &str = "/run/systemd/journal/stdout";

/// As much as sd_journal_send(3) asks for: a burst should not be lost.
const SEND_BUFFER_BYTES: usize = 8 * 1024 * 1024;

/// Whether standard error is a stream to the journal (JOURNAL_STREAM of
/// systemd.exec(5) names its device and inode).
pub fn is_standard_error() -> bool {
    let Ok(stream) = env::var("JOURNAL_STREAM") else {
        return false;
    };
    fs::metadata("/proc/self/fd/2")
        .is_ok_and(|file| stream == format!("{}:{}", file.dev(), file.ino()))
}

/// A socket from which entries can be sent. The socket is connected, so that poll(2) says
/// whether the journal has room for an entry. systemd holds the other end for the journal,
/// also while the journal restarts.
pub fn open() -> io::Result<OwnedFd> {
    let journal =
        socket::socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    connect(&journal)?;
    // A smaller buffer is not an error, see socket(7) on SO_SNDBUF.
    let _ = setsockopt(&journal, sockopt::SndBuf, &SEND_BUFFER_BYTES);
    Ok(journal)
}

/// Connects such a socket to the present journal: systemd may have made its own end again.
/// The master and all workers share one socket, so this connects all of them.
pub fn connect(journal: &OwnedFd) -> io::Result<()> {
    Ok(socket::connect(journal.as_raw_fd(), &UnixAddr::new(Path::new(SOCKET))?)?)
}

/// A stream whose lines become entries with this SYSLOG_IDENTIFIER, each with
/// the pid of the process that wrote it.
///
/// # Errors
///
/// There is no journal, or the journal does not accept connections at the moment. This does
/// not wait until it does.
pub fn stream(identifier: &str) -> io::Result<OwnedFd> {
    const PRIORITY: u8 = 6; // info
    // A local socket connects at once, or not at all. If the journal's backlog is full, a
    // blocking connect(2) would wait.
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let stream = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    socket::connect(stream.as_raw_fd(), &UnixAddr::new(Path::new(STREAM_SOCKET))?)?;
    // The header, a line each: identifier, unit, priority, whether a prefix
    // such as <3> sets the priority, and whether to forward to syslog, to the
    // kernel's log and to the console. A new connection has room for it.
    let mut stream = UnixStream::from(stream);
    stream.write_all(format!("{identifier}\n\n{PRIORITY}\n1\n0\n0\n0\n").as_bytes())?;
    // The programs that write to the stream do not expect a write to fail for lack of room.
    stream.set_nonblocking(false)?;
    Ok(stream.into())
}

/// Sends records to the journal.
pub struct Journal {
    target: Arc<OwnedFd>,
    entry: RefCell<Vec<u8>>,
}

impl Journal {
    /// Sends from this socket.
    pub fn new(target: Arc<OwnedFd>) -> Self {
        Journal { target, entry: Default::default() }
    }
}

impl Drain for Journal {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        let mut entry = self.entry.borrow_mut();
        compose(&mut entry, record, values);
        if send(&self.target, &entry).is_err() {
            losses::count();
        }
        Ok(())
    }
}

fn send(target: &OwnedFd, entry: &[u8]) -> io::Result<()> {
    let send =
        || socket::send(target.as_raw_fd(), entry, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
    let sent = match send() {
        // The other end is gone; there may be a new one.
        Err(Errno::ECONNREFUSED | Errno::ENOTCONN) => {
            connect(target)?;
            send()
        }
        sent => sent,
    };
    match sent {
        Err(Errno::EAGAIN) => {
            patience::await_room(target)?;
            // Another process may have used the room; then the record is lost.
            send()?;
        }
        sent => drop(sent?),
    }
    Ok(())
}

/// Writes the entry of a record. Its MESSAGE contains the fields as well, because
/// `journalctl` shows only the message. A line that a program wrote stands there unchanged.
fn compose(entry: &mut Vec<u8>, record: &Record<'_>, values: &OwnedKVList) {
    entry.clear();
    let message = record.msg().to_string();
    let mut fields = Fields(Vec::new());
    // Neither call can fail, because both write to memory. Both give the last field first.
    let _ = record.kv().serialize(record, &mut fields);
    let _ = values.serialize(record, &mut fields);
    let value_of =
        |wanted| fields.0.iter().find(|(key, _)| *key == wanted).map(|(_, value)| value.as_str());

    let subject = if value_of("program").is_some() { Subject::Program } else { Subject::Worker };
    for (key, value) in &fields.0 {
        put(entry, &native_name(key, subject), value);
    }
    match (message.as_str(), value_of("line")) {
        ("program stderr", Some(line)) => {
            put(entry, "MESSAGE", line);
            put(
                entry,
                "SYSLOG_IDENTIFIER",
                &format!("{}/{}", program::name(), value_of("pool").unwrap_or_default()),
            );
            put(entry, "SYSLOG_PID", value_of("pid").unwrap_or_default());
        }
        _ => {
            let text = fields.0.iter().rev().map(|(key, value)| format!(", {key}: {value}"));
            put(entry, "MESSAGE", &text.fold(message.clone(), |text, field| text + &field));
            put(entry, "SYSLOG_IDENTIFIER", program::name());
        }
    }
    put(entry, "PRIORITY", priority(record.level()));
    if event::is_id(record.tag()) {
        put(entry, "MESSAGE_ID", record.tag());
    }
}

/// One field of an entry; a value of several lines is preceded by its length.
fn put(entry: &mut Vec<u8>, name: &str, value: &str) {
    entry.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        entry.push(b'\n');
        entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend_from_slice(value.as_bytes());
    entry.push(b'\n');
}

/// The fields of a record.
struct Fields(Vec<(String, String)>);

impl Serializer for Fields {
    fn emit_arguments(&mut self, key: Key, value: &fmt::Arguments<'_>) -> slog::Result {
        self.0.push((AsRef::<str>::as_ref(&key).to_owned(), value.to_string()));
        Ok(())
    }
}

/// The subject of a record with a pid: the program if the record has the field `program`.
#[derive(Clone, Copy)]
pub(super) enum Subject {
    Program,
    Worker,
}

/// The journal's name of a field. Some words mean something else there.
pub(super) fn native_name(key: &str, subject: Subject) -> String {
    match (key, subject) {
        ("pid", Subject::Program) => "PROGRAM_PID".to_owned(),
        ("pid", Subject::Worker) => "WORKER_PID".to_owned(),
        ("code", _) => "EXIT_CODE".to_owned(),
        ("signal", _) => "EXIT_SIGNAL".to_owned(),
        _ => key.to_ascii_uppercase(),
    }
}

/// The priority of a level (syslog(3)).
fn priority(level: Level) -> &'static str {
    match level {
        Level::Critical => "2",
        Level::Error => "3",
        Level::Warning => "4",
        Level::Info => "6",
        Level::Debug | Level::Trace => "7",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::event::Event;
    use slog::{Logger, o, warn};

    /// The entry of a record, captured by a drain that composes only.
    struct Capture(std::sync::mpsc::Sender<Vec<u8>>);

    impl Drain for Capture {
        type Ok = ();
        type Err = Never;

        fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
            let mut entry = Vec::new();
            compose(&mut entry, record, values);
            let _ = self.0.send(entry);
            Ok(())
        }
    }

    #[test]
    fn fields_have_the_names_of_the_journal() {
        let (sender, entries) = std::sync::mpsc::channel();
        let log =
            Logger::root(std::sync::Mutex::new(Capture(sender)).ignore_res(), o!("pool" => "web"));
        warn!(log, "of a service"; "pid" => 7, "code" => 3, "reason" => "two\nlines");
        let entry = entries.recv().unwrap();
        let text = String::from_utf8_lossy(&entry);
        for field in [
            "POOL=web\n",
            "WORKER_PID=7\n",
            "EXIT_CODE=3\n",
            "PRIORITY=4\n",
            "SYSLOG_IDENTIFIER=preforkd\n",
        ] {
            assert!(text.contains(field), "{field}: {text}");
        }
        let reason = [b"REASON\n".as_slice(), &9u64.to_le_bytes(), b"two\nlines\n"].concat();
        assert!(entry.windows(reason.len()).any(|window| window == reason), "{text}");
        assert!(!text.contains("MESSAGE_ID="), "{text}");

        Event::ServicePanicked { reason: "a fault".to_owned() }.tell(&log);
        let entry = entries.recv().unwrap();
        let text = String::from_utf8_lossy(&entry);
        assert!(text.contains("MESSAGE_ID=77666e6f258b42858a0e8c111ae03a1c\n"), "{text}");
        assert!(text.contains("MESSAGE=service panicked, pool: web, reason: a fault\n"), "{text}");
    }
}
