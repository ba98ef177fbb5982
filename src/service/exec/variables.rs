//! The variables by which a program learns of its connection.
#![forbid(unsafe_code)]

use std::ffi::{CString, OsStr};
use std::io;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStringExt;

use nix::unistd::{getgid, getuid};

use crate::service::{Connection, LOCAL_HOST, Peer};

/// The environment of this process, which is the one promised to programs, in two parts:
/// all variables except the one for TCP connections only, and that one.
pub fn inherited() -> io::Result<(Vec<CString>, Option<CString>)> {
    let variables = std::env::vars_os().filter(|(name, _)| name != LOCAL_HOST);
    let hostname = std::env::var_os(LOCAL_HOST).map(|name| variable(LOCAL_HOST, name));
    let variables = variables.map(|(name, value)| variable(&name, &value));
    Ok((variables.collect::<io::Result<_>>()?, hostname.transpose()?))
}

/// The variables that describe a connection: those of UCSPI
/// (PROTO, TCPLOCALIP, TCPLOCALPORT, TCPREMOTEIP, TCPREMOTEPORT) and those
/// of CGI (REMOTE_ADDR, REMOTE_PORT); on a Unix socket those of ucspi-unix, without the
/// pid of the program.
pub fn of_connection(connection: &Connection) -> io::Result<Vec<CString>> {
    match connection.peer() {
        Peer::Internet(remote) => {
            let mut variables = of_internet(connection.local_address()?, remote)?;
            if let Some(count) = connection.count() {
                variables.push(variable("TCPCONNNUM", count.to_string())?);
            }
            Ok(variables)
        }
        Peer::Unix => of_unix(connection),
    }
}

fn of_unix(connection: &Connection) -> io::Result<Vec<CString>> {
    let client = connection.credentials()?;
    let mut variables = vec![
        variable("PROTO", "UNIX")?,
        variable("UNIXREMOTEPID", client.pid.to_string())?,
        variable("UNIXREMOTEEUID", client.uid.to_string())?,
        variable("UNIXREMOTEEGID", client.gid.to_string())?,
        variable("UNIXLOCALUID", getuid().to_string())?,
        variable("UNIXLOCALGID", getgid().to_string())?,
    ];
    if let Some(path) = connection.local_path()? {
        variables.push(variable("UNIXLOCALPATH", path)?);
    }
    Ok(variables)
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

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::config::OF_CONNECTIONS;

    /// What nobody may set is what is set here, or elsewhere for a connection.
    #[test]
    fn every_variable_of_a_connection_is_reserved() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, peer) = listener.accept().unwrap();
        let tcp =
            Connection::new(OwnedFd::from(server), Peer::Internet(peer), None).with_count(Some(1));
        let (server, _other) = UnixStream::pair().unwrap();
        let unix = Connection::new(OwnedFd::from(server), Peer::Unix, None);
        let entries = [tcp, unix].map(|connection| of_connection(&connection).unwrap()).concat();
        drop(client);
        let name = |entry: &CString| entry.to_str().unwrap().split('=').next().unwrap().to_owned();
        let mut names: Vec<_> = entries.iter().map(name).collect();
        // An unbound socket has no path. The others are set by the profile and by the program
        // itself.
        names.extend(["UNIXLOCALPATH", LOCAL_HOST, "UNIXLOCALPID"].map(str::to_owned));
        names.sort();
        names.dedup();
        assert_eq!(names, OF_CONNECTIONS);
    }
}
