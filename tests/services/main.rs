//! Services: what a worker does with a connection, whom it serves, for how
//! long, and as whom.

mod access;
mod access_log;
mod echo;
mod embedding;
mod exec;
mod fairness;
mod hello;
mod journal;
mod leftovers;
mod log_file;
mod misbehaviour;
mod orphans;
mod privileges;
mod sockets;
mod stderr;
mod timeouts;

use std::io::{ErrorKind, Read};

use support::log::Mark;
use support::{Address, Client, Daemon, Event, procfs, until};

/// A pool `echo` with further keys.
pub fn echo(address: &Address, workers: usize, keys: &str) -> String {
    format!(
        "[pool.echo]\nlisten = \"{address}\"\nworkers = {workers}\nservice = \"echo\"\n{keys}\n"
    )
}

/// A pool `exec` that runs this program, with further keys.
pub fn exec(address: &Address, workers: usize, command: &[&str], keys: &str) -> String {
    // What Rust writes for these texts is TOML too.
    format!(
        "[pool.exec]\nlisten = \"{address}\"\nworkers = {workers}\n{keys}\n\
         service.exec.command = {command:?}\n"
    )
}

/// The same with a shell script.
pub fn shell(address: &Address, workers: usize, script: &str, keys: &str) -> String {
    exec(address, workers, &["/bin/sh", "-c", script], keys)
}

/// A script that starts this command, waits until it has a session of its own,
/// writes its pid, and ends. No signal to the script's group reaches it; should
/// nobody end it, it ends by itself.
pub fn escape(command: &str) -> String {
    format!(
        "setsid timeout 60 {command} & \
         until [ \"$(cut -d' ' -f6 /proc/$!/stat)\" = $! ]; do sleep 0.01; done; echo $!"
    )
}

/// A process that got away, with its session; it is killed at the end.
pub struct Escaped(i32);

impl Escaped {
    /// From the first number that comes; the process may write before it.
    #[track_caller]
    pub fn from(client: &mut Client) -> Self {
        let mut line = String::new();
        let pid = loop {
            let mut byte = [0];
            client.read_exact(&mut byte).expect("read a process id");
            match (byte[0], line.parse()) {
                (b'\n', Ok(pid)) => break pid,
                (b'\n', Err(_)) => line.clear(),
                (byte, _) => line.push(char::from(byte)),
            }
        };
        let escaped = Escaped(pid);
        assert!(escaped.is_alive(), "it did not get away, so this tests nothing");
        escaped
    }

    /// Whether it is still there.
    pub fn is_alive(&self) -> bool {
        procfs::is_alive(self.0)
    }
}

impl Drop for Escaped {
    fn drop(&mut self) {
        // What one of them forks just now is seen the next time.
        for _ in 0..1_000 {
            let left = procfs::processes(|it| it.session == self.0 && it.is_alive());
            if left.is_empty() {
                return;
            }
            for process in left {
                procfs::send_if_there(process.pid, nix::sys::signal::Signal::SIGKILL);
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }
}

/// A pool `command` of the test service of this name, with further keys.
pub fn command(address: &Address, workers: usize, keys: &str) -> String {
    format!(
        "[pool.command]\nlisten = \"{address}\"\nworkers = {workers}\nservice = \"command\"\n{keys}\n"
    )
}

/// The only worker of a pool.
#[track_caller]
pub fn the_worker(daemon: &Daemon, pool: &str) -> i32 {
    daemon.wait_for_idle(pool, 1)[0]
}

/// The program that a worker runs, once it runs under its own name.
#[track_caller]
pub fn the_program(worker: i32, name: &str) -> i32 {
    until("the program runs", || {
        let children = procfs::children(worker);
        let program = children.iter().find(|child| child.name == name)?;
        Some(program.pid)
    })
}

/// Waits until a process has gone.
#[track_caller]
pub fn wait_for_end(pid: i32) {
    until(&format!("process {pid} ends"), || (!procfs::is_alive(pid)).then_some(()));
}

/// Waits until the processes of a group have gone.
#[track_caller]
pub fn wait_for_end_of_group(group: i32) {
    until(&format!("the process group {group} ends"), || {
        let left = procfs::processes(|process| process.group == group && process.is_alive());
        left.is_empty().then_some(())
    });
}

/// Waits until the daemon has closed the connection, by an end or a reset.
#[track_caller]
pub fn wait_for_close(client: &mut Client) {
    let mut buffer = [0; 4096];
    loop {
        match client.read(&mut buffer) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
            Err(error) => panic!("the daemon did not close the connection: {error}"),
        }
    }
}

/// Stops the daemon, so that all of its log has been read, and gives what it
/// said after `mark` but for what it says of its stop.
#[track_caller]
pub fn stop_and_read(daemon: &Daemon, mark: Mark) -> Vec<Event> {
    assert_eq!(daemon.stop().code(), Some(0));
    let mut told = daemon.log().since(mark);
    told.retain(|event| match event.message() {
        "stopping" | "stopped" | "phase changed" => false,
        "worker exited" => event.text("cause") != Some("stopped"),
        _ => true,
    });
    told
}

/// Checks that no worker ended: nothing that a client did was its end.
#[track_caller]
pub fn assert_no_worker_ended(daemon: &Daemon) {
    let events = daemon.log().events();
    let ends: Vec<_> = events.iter().filter(|event| event.is_end()).map(Event::to_string).collect();
    assert!(ends.is_empty(), "{}", ends.join("\n"));
}
