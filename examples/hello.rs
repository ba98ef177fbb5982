//! A whole daemon with a service of its own: it greets each client.
//!
//! `cargo run --example hello -- --config hello.toml`, where the file says
//! `[pool.hello]`, `listen = "127.0.0.1:7008"` and `service.hello.greeting = "hi"`.

use std::io::Write;

use preforkd::serde::Deserialize;
use preforkd::{Connection, Context, Daemon, Options, Outcome, Service};

#[derive(Deserialize)]
#[serde(crate = "preforkd::serde", deny_unknown_fields)]
struct Hello {
    greeting: String,
}

impl Service for Hello {
    fn serve(&mut self, mut connection: Connection, _: &Context) -> Outcome {
        let peer = connection.peer();
        writeln!(connection, "{}, {peer}", self.greeting).into()
    }
}

fn main() -> std::process::ExitCode {
    let daemon = Daemon::new("hello", env!("CARGO_PKG_VERSION"));
    daemon.service("hello", Options::parse::<Hello>).main()
}

#[cfg(test)]
mod tests {
    use super::*;
    use preforkd::slog::{Discard, Logger, o};

    #[test]
    fn a_client_is_greeted() {
        let log = Logger::root(Discard, o!());
        let context = Context::for_test("hello", 0, &log);
        let (connection, client) = Connection::pair().expect("a pair of sockets");
        let outcome = Hello { greeting: "hi".to_owned() }.serve(connection, &context);
        assert!(matches!(outcome, Outcome::Served));
        assert_eq!(std::io::read_to_string(client).expect("the reply"), "hi, unix\n");
    }
}
