//! The control socket, on the master's side. The master reads and answers requests without
//! ever waiting for a client.
#![forbid(unsafe_code)]

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags};

use crate::config::{Address, Listen};
use crate::error::{Code, Error};
use crate::listener::{self, Listener, could_not_bind};
use crate::log::event::Event;
use crate::program;
use crate::request::{Action, Reply, Request};
use crate::sys::clock::Moment;
use crate::sys::socket::accept;

use super::Master;
use super::condition;

/// How many clients may be connected at once.
const MOST_CLIENTS: usize = 16;

/// The pause after accept has failed. The machine is short of descriptors or memory, and
/// trying more often would not help.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Checks that the control socket can be bound at `path`.
///
/// # Errors
///
/// Those of [`Control::open`], except that the address is in use.
pub fn check(path: &Path) -> Result<(), Error> {
    if may_be_missing(path) {
        return Ok(());
    }
    let listen = socket_at(path);
    listener::check(&listen).map_err(|error| failed(&listen, &error))
}

fn failed(listen: &Listen, error: &io::Error) -> Error {
    let told = could_not_bind("control socket", &listen.address, error);
    let hint = listener::hint(&listen.address, error);
    told.with_hint(hint.unwrap_or("see [daemon].control"))
}

/// The default may fail: a daemon for which nobody has configured a control socket
/// must still start.
fn may_be_missing(path: &Path) -> bool {
    program::is_default_control(path)
}

/// The socket is for root and the daemon's own user. Both could send signals as well.
fn socket_at(path: &Path) -> Listen {
    Listen { mode: 0o600, ..Listen::from(Address::Path(path.to_owned())) }
}

/// The event of a daemon without a directory for its control socket.
fn no_control_socket(path: &Path, directory: &Path) -> Event {
    let reason = format!(
        "there is no directory \"{}\"; {} reload will not work, SIGHUP will",
        directory.display(),
        program::name()
    );
    Event::NoControlSocket { socket: path.display().to_string(), reason }
}

fn bind(path: &Path) -> Result<Listener, Error> {
    let listen = socket_at(path);
    let listener = Listener::bind(&listen).map_err(|error| failed(&listen, &error))?;
    fcntl(&listener, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
        .map_err(|errno| failed(&listen, &errno.into()))?;
    Ok(listener)
}

/// The control socket and its clients.
#[derive(Debug)]
pub struct Control {
    listener: Option<Listener>,
    /// The configuration of this daemon.
    file: PathBuf,
    clients: Vec<Client>,
    pause: Option<Moment>,
}

impl Control {
    /// Listens at `path` for requests to the daemon of the configuration `file`. If the
    /// default path cannot be bound, the daemon goes on without a socket, with an event in
    /// `news`.
    ///
    /// # Errors
    ///
    /// Those of [`could_not_bind`], if `path` is not the default.
    pub fn open(path: &Path, file: &Path, news: &mut Vec<Event>) -> Result<Self, Error> {
        let listener = match bind(path) {
            Ok(listener) => Some(listener),
            Err(error) if may_be_missing(path) => {
                news.push(match path.parent().filter(|directory| !directory.exists()) {
                    Some(directory) => no_control_socket(path, directory),
                    None => Event::CouldNotTakeCommands { reason: error.to_string() },
                });
                None
            }
            Err(error) => return Err(error),
        };
        Ok(Control { listener, file: file.to_owned(), clients: Vec::new(), pause: None })
    }

    /// Accepts no further clients, and lets a successor have the socket.
    pub fn close(&mut self) {
        self.listener = None;
    }

    /// When the socket needs another turn of the loop.
    pub fn deadline(&self) -> Option<Moment> {
        self.pause
    }

    /// The descriptors to wait for.
    pub fn watched(&self) -> impl Iterator<Item = (Caller, PollFd<'_>)> {
        let clients = self.clients.iter().enumerate().map(|(index, client)| {
            // A client that waits for an answer sends nothing, but may hang up.
            let events = match client.state {
                State::Speaking(_) => PollFlags::POLLIN,
                State::Asked(_) | State::Waiting(_) => PollFlags::empty(),
            };
            (Caller::Known(index), PollFd::new(client.stream.as_fd(), events))
        });
        let listener = self.listener.as_ref().filter(|_| self.pause.is_none() && self.has_room());
        let listener = listener
            .map(|listener| (Caller::New, PollFd::new(listener.as_fd(), PollFlags::POLLIN)));
        clients.chain(listener)
    }

    /// Reads from these callers, in the order of [`watched`](Self::watched). Gives whether
    /// one of them wants a reload.
    pub fn hear(&mut self, callers: &[Caller], now: Moment) -> bool {
        if self.pause.is_some_and(|pause| now >= pause) {
            self.pause = None;
        }
        let mut wants_reload = false;
        let mut index = 0;
        let file = &self.file;
        self.clients.retain_mut(|client| {
            let has_called = callers.contains(&Caller::Known(index));
            index += 1;
            let stays = !has_called || client.hear(file);
            wants_reload |=
                has_called && stays && matches!(client.state, State::Asked(Action::Reload));
            stays
        });
        if callers.contains(&Caller::New) {
            self.accept(now);
        }
        wants_reload
    }

    /// Ties every unanswered request to this reload.
    pub fn expect(&mut self, reload: u64) {
        for client in &mut self.clients {
            if let State::Asked(_) = client.state {
                client.state = State::Waiting(reload);
            }
        }
    }

    /// Answers the clients that ask what a reload waits for.
    pub fn tell_awaited(&mut self, text: impl Fn() -> String) {
        self.clients.retain_mut(|client| {
            let is_asked = matches!(client.state, State::Asked(Action::Awaited));
            if is_asked {
                client.answer(&Reply::done(text()));
            }
            !is_asked
        });
    }

    /// Ties the clients of an `earlier`, superseded reload to this one.
    pub fn expect_instead(&mut self, earlier: u64, reload: u64) {
        for client in &mut self.clients {
            if let State::Waiting(number) = &mut client.state
                && *number == earlier
            {
                *number = reload;
            }
        }
    }

    /// Answers the clients whose reload has a result in `ended`.
    pub fn answer(&mut self, ended: impl Fn(u64) -> Option<Reply>) {
        self.clients.retain_mut(|client| {
            let State::Waiting(reload) = client.state else { return true };
            let Some(reply) = ended(reload) else { return true };
            client.answer(&reply);
            false
        });
    }

    /// Whether one more client may connect, if necessary in the place of a silent one.
    fn has_room(&self) -> bool {
        self.clients.len() < MOST_CLIENTS || self.oldest_silent().is_some()
    }

    fn oldest_silent(&self) -> Option<usize> {
        self.clients.iter().position(|client| matches!(client.state, State::Speaking(_)))
    }

    fn accept(&mut self, now: Moment) {
        // The last client may have used the room since the socket was watched.
        let Some(listener) = self.listener.as_ref().filter(|_| self.has_room()) else { return };
        let accepted = accept(listener.as_fd()).map(|(stream, _)| UnixStream::from(stream));
        match accepted {
            // A client that could make the master wait is not served.
            Ok(stream) if stream.set_nonblocking(true).is_err() => {}
            Ok(stream) => {
                if self.clients.len() >= MOST_CLIENTS
                    && let Some(silent) = self.oldest_silent()
                {
                    self.clients.remove(silent);
                }
                self.clients.push(Client { stream, state: State::Speaking(Vec::new()) });
            }
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ECONNABORTED) => {}
            Err(_) => self.pause = Some(now + ACCEPT_PAUSE),
        }
    }
}

impl Master<'_> {
    /// Reads from the control socket.
    pub(super) fn hear(&mut self, callers: &[Caller], now: Moment) {
        let wants_reload = self.control.hear(callers, now);
        let Master { control, scouts, rollout, pools, .. } = self;
        control.tell_awaited(|| match (&rollout, scouts.is_out()) {
            (_, true) => "waiting until the configuration is read".to_owned(),
            (Some(_), false) => condition::awaited(pools).collect::<Vec<_>>().join("\n"),
            (None, false) => String::new(),
        });
        if wants_reload && !self.phase.is_stopping() {
            self.reload(now);
        }
        self.control.expect(self.answers.last());
    }

    /// Answers the clients whose reload has ended.
    pub(super) fn answer(&mut self) {
        if self.phase.is_stopping() {
            let error = Error::new(Code::Unavailable, "could not reload: the daemon is stopping");
            self.control.answer(|_| Some(Reply::from(&error)));
        } else {
            self.control.answer(|number| self.answers.of(number));
        }
    }
}

/// The source of an event on the control socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A connected client, by its place in the list.
    Known(usize),
    /// A new client.
    New,
}

/// A client that is connected.
#[derive(Debug)]
struct Client {
    stream: UnixStream,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The client has sent this part of its request.
    Speaking(Vec<u8>),
    /// The client has sent this request.
    Asked(Action),
    /// The client waits for the end of the reload with this number.
    Waiting(u64),
}

impl Client {
    /// Reads the next bytes; `file` is the configuration of this daemon. Gives whether the
    /// client stays.
    fn hear(&mut self, file: &Path) -> bool {
        let State::Speaking(said) = &mut self.state else {
            // The client has hung up.
            return false;
        };
        // This reads all that there is. Closing a stream with unread bytes sends a reset,
        // and the client would lose its answer.
        let mut bytes = [0; Request::MOST_BYTES];
        match self.stream.read(&mut bytes) {
            Ok(0) => return false,
            Ok(count) => said.extend_from_slice(&bytes[..count]),
            Err(error) => {
                return matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted);
            }
        }
        let line = said.iter().position(|&byte| byte == b'\n');
        if line.is_none() && said.len() < Request::MOST_BYTES {
            return true;
        }
        match read(&said[..line.unwrap_or(said.len())], file) {
            Ok(action) => {
                self.state = State::Asked(action);
                true
            }
            Err(error) => {
                self.answer(&Reply::from(&error));
                false
            }
        }
    }

    /// One write: a client that does not read loses the rest.
    fn answer(&mut self, reply: &Reply) {
        let _ = self.stream.write(reply.to_string().as_bytes());
        // A worker that has just been forked may hold the stream for a moment.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// The action that this line requests from the daemon of the configuration `file`.
fn read(line: &[u8], file: &Path) -> Result<Action, Error> {
    let Some(request) = Request::parse(line) else {
        let word: String = String::from_utf8_lossy(line).chars().take(20).collect();
        let message = format!("could not obey command {word:?}: there is no such command");
        return Err(Error::new(Code::Usage, message));
    };
    if !request.is_for(file) {
        let (asked, own) = (request.file.display(), file.display());
        let message =
            format!("could not reload configuration \"{asked}\": the daemon runs with \"{own}\"");
        let hint = "each daemon needs a [daemon].control of its own";
        return Err(Error::new(Code::Unavailable, message).with_hint(hint));
    }
    Ok(request.action)
}
