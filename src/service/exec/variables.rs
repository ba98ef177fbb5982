//! What a program is told of its connection, in its environment.
#![forbid(unsafe_code)]

use std::ffi::{CString, OsStr};
use std::io;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStringExt;

use crate::service::{Connection, Peer};

/// The environment of this process, which is the one promised to programs.
pub fn inherited() -> io::Result<Vec<CString>> {
    std::env::vars_os().map(|(name, value)| variable(&name, &value)).collect()
}

/// The variables that describe a connection: those of UCSPI
/// (PROTO, TCPLOCALIP, TCPLOCALPORT, TCPREMOTEIP, TCPREMOTEPORT) and those
/// of CGI (REMOTE_ADDR, REMOTE_PORT); on a Unix socket PROTO and who connected.
pub fn of_connection(connection: &Connection) -> io::Result<Vec<CString>> {
    match connection.peer() {
        Peer::Internet(remote) => of_internet(connection.local_address()?, remote),
        Peer::Unix => {
            let client = connection.credentials()?;
            [
                variable("PROTO", "UNIX"),
                variable("UNIXREMOTEPID", client.pid.to_string()),
                variable("UNIXREMOTEEUID", client.uid.to_string()),
                variable("UNIXREMOTEEGID", client.gid.to_string()),
            ]
            .into_iter()
            .collect()
        }
    }
}

fn of_internet(local: Option<SocketAddr>, remote: SocketAddr) -> io::Result<Vec<CString>> {
    let (remote_ip, remote_port) = (remote.ip().to_string(), remote.port().to_string());
    let mut variables = vec![
        variable("PROTO", "TCP")?,
        variable("TCPREMOTEIP", &remote_ip)?,
        variable("TCPREMOTEPORT", &remote_port)?,
        variable("REMOTE_ADDR", &remote_ip)?,
        variable("REMOTE_PORT", &remote_port)?,
    ];
    if let Some(local) = local {
        variables.push(variable("TCPLOCALIP", local.ip().to_string())?);
        variables.push(variable("TCPLOCALPORT", local.port().to_string())?);
    }
    Ok(variables)
}

/// `NAME=value`, as it stands in an environment.
fn variable(name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> io::Result<CString> {
    let mut entry = name.as_ref().to_owned();
    entry.push("=");
    entry.push(value);
    Ok(CString::new(entry.into_vec())?)
}
