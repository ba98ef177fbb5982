//! A whole daemon with a service of its own: it greets each client.
//!
//! `cargo run --example hello -- --config hello.toml`, where the file says
//! `[pool.hello]`, `listen = "127.0.0.1:7008"` and `service.hello.greeting = "hi"`.

use std::io::Write;

use preforkd::{Connection, Context, Options, Outcome, Service, Services};

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
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
    preforkd::main(Services::builtin().with("hello", Options::parse::<Hello>))
}
