//! A daemon whose clients stay connected: it sends back each line, until its worker is
//! asked to leave. For the tests its service also fails and stops as its options say.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::thread;
use std::time::Duration;

use preforkd::serde::Deserialize;
use preforkd::slog::Level;
use preforkd::{Connection, Context, Daemon, Failure, Options, Outcome, Service, Wake};

fn main() -> ExitCode {
    Daemon::new("lines", "4.5.6").service("lines", Options::parse::<Lines>).main()
}

#[derive(Default, Deserialize)]
#[serde(crate = "preforkd::serde", default, deny_unknown_fields)]
struct Lines {
    /// Where `start` and `stop` leave a line.
    notes: Option<PathBuf>,
    /// How long `stop` takes.
    stop_ms: u64,
    /// Why `stop` fails.
    stop_error: Option<String>,
}

impl Lines {
    fn note(&self, what: &str) -> io::Result<()> {
        let Some(path) = &self.notes else { return Ok(()) };
        writeln!(File::options().append(true).create(true).open(path)?, "{what}")
    }

    fn answer(&self, mut client: &Connection, line: &str, context: &Context) -> io::Result<()> {
        match line.trim_end() {
            "who" => writeln!(client, "{} {}", context.pool(), context.slot()),
            "bye" => Err(io::Error::other("the client said bye")),
            line => writeln!(client, "{line}"),
        }
    }
}

impl Service for Lines {
    fn start(&mut self) -> io::Result<()> {
        self.note("start")
    }

    fn serve(&mut self, connection: Connection, context: &Context) -> Outcome {
        let mut reader = BufReader::new(&connection);
        loop {
            if reader.buffer().is_empty() {
                match connection.wait(context) {
                    Ok(Wake::Input) => {}
                    Ok(Wake::Leave) => return Outcome::Served,
                    Err(error) => return error.into(),
                }
            }
            let mut line = String::new();
            match reader.read_line(&mut line) {
                Ok(0) => return Outcome::Served,
                Ok(_) => {}
                Err(error) => return error.into(),
            }
            if let Some(level) = line.strip_prefix("fail ") {
                let level = Level::from_str(level.trim_end()).unwrap_or(Level::Debug);
                return Outcome::Failed(Failure::new(io::Error::other("as asked")).at(level));
            }
            if let Err(error) = self.answer(&connection, &line, context) {
                return error.into();
            }
        }
    }

    fn stop(&mut self) -> io::Result<()> {
        thread::sleep(Duration::from_millis(self.stop_ms));
        self.note("stop")?;
        self.stop_error.take().map_or(Ok(()), |reason| Err(io::Error::other(reason)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    use preforkd::slog::{Discard, Logger, o};

    #[test]
    fn a_client_that_stays_is_served_until_the_worker_is_asked_to_leave() {
        let log = Logger::root(Discard, o!());
        let context = Context::for_test("kv", 3, &log);
        let (connection, mut client) = Connection::pair().expect("a pair of sockets");
        thread::scope(|scope| {
            let served = scope.spawn(|| Lines::default().serve(connection, &context));
            client.write_all(b"who\nhello\n").expect("ask");
            let mut reply = [0; 11];
            client.read_exact(&mut reply).expect("the reply");
            assert_eq!(&reply, b"kv 3\nhello\n");
            assert!(!context.is_asked_to_leave());
            context.ask_to_leave();
            assert!(matches!(served.join(), Ok(Outcome::Served)));
            assert_eq!(client.read(&mut reply).expect("the end"), 0);
        });
    }

    #[test]
    fn what_has_arrived_comes_before_the_wish_that_the_worker_leave() {
        let log = Logger::root(Discard, o!());
        let context = Context::for_test("kv", 0, &log);
        let (connection, mut client) = Connection::pair().expect("a pair of sockets");
        context.ask_to_leave();
        client.write_all(b"one\n").expect("ask");
        assert!(matches!(connection.wait(&context), Ok(Wake::Input)));
        assert!(matches!(Lines::default().serve(connection, &context), Outcome::Served));
        assert_eq!(io::read_to_string(client).expect("the reply"), "one\n");
    }

    #[test]
    fn a_silent_client_has_its_time() {
        let log = Logger::root(Discard, o!());
        let context = Context::for_test("kv", 0, &log);
        let (connection, _client) = Connection::pair().expect("a pair of sockets");
        let connection = connection.with_idle_timeout(Duration::from_millis(1));
        let told = connection.wait(&context).expect_err("nothing comes");
        assert_eq!(told.kind(), io::ErrorKind::TimedOut);
    }
}
