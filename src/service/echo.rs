//! The service `echo`: sends back what it receives (RFC 862).
#![forbid(unsafe_code)]

use std::io::{self, Read, Write};

use serde::Deserialize;

use crate::config::{Options, Problems};

use super::{Connection, Context, Outcome, Service};

/// How much is received before it is sent back. Pages of it that no client
/// fills cost a worker no memory.
const BUFFER_BYTES: usize = 16 * 1024;

/// It has no options.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EchoOptions {}

/// Sends back what it receives until the client closes its side.
pub struct Echo {
    buffer: Box<[u8]>,
}

impl Echo {
    /// The service with these options.
    pub fn from_options(options: &Options) -> Result<Self, Problems> {
        let EchoOptions {} = options.parse()?;
        Ok(Echo { buffer: vec![0; BUFFER_BYTES].into() })
    }

    fn echo(&mut self, mut connection: Connection) -> io::Result<()> {
        loop {
            match connection.read(&mut self.buffer)? {
                0 => return Ok(()),
                received => connection.write_all(&self.buffer[..received])?,
            }
        }
    }
}

impl Service for Echo {
    fn serve(&mut self, connection: Connection, _: &Context) -> Outcome {
        self.echo(connection).into()
    }
}
