//! A worker that writes rubbish over what it shares with the master.

use std::io::{Read, Write};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::{assert_explained, command};
use support::client::ask;
use support::{Address, Client, Daemon, procfs, until};

// PEERS: "a worker makes the root master act on its scoreboard".
#[test]
fn a_worker_cannot_make_the_master_act_on_its_scoreboard() {
    // With a time-out the master looks at the scoreboard again and again.
    for extra in ["", "request_timeout = \"300ms\"\nkill_timeout = \"300ms\"\n"] {
        let address = Address::fresh();
        let is_timed = !extra.is_empty();
        let mut daemon =
            Daemon::start_example("testsvc", &format!("{}{extra}", command(&address, 4)));
        let pids = daemon.wait_for_idle("command", 4);
        let mark = daemon.log().mark();
        let mut vandal = Client::connect(&address);
        vandal.send(if is_timed { "scribble 3\n" } else { "scribble\n" });
        vandal.expect("pages 1\n");
        if is_timed {
            // Whoever takes too long is cut or killed, by its clock or by what the
            // vandal has written.
            for _ in 0..30 {
                if let Ok(mut client) = Client::try_connect(&address) {
                    let _ = client.write_all(b"pid\n");
                    let _ = client.read_to_string(&mut String::new());
                }
                thread::sleep(Duration::from_millis(50));
            }
            procfs::send_if_there(pids[0], Signal::SIGKILL);
            daemon.log().wait_since(mark, "worker killed", |event| event.pid() == pids[0]);
            let _ = vandal.read_to_string(&mut String::new());
            daemon.wait_for_idle("command", 4);
            assert_eq!(daemon.status(), None);
            daemon.expect_anything();
            continue;
        }
        let busy = until("one worker is busy", || {
            let busy: Vec<_> =
                pids.iter().copied().filter(|&pid| !procfs::is_in_accept(pid)).collect();
            (busy.len() == 1).then_some(busy[0])
        });
        let others: Vec<_> = pids.iter().copied().filter(|&pid| pid != busy).collect();
        for _ in 0..30 {
            let pid: i32 = ask(&address, "pid\n").trim().parse().expect("a process id");
            assert!(others.contains(&pid), "{pid} of {others:?}");
            thread::sleep(Duration::from_millis(50));
        }
        // A death, a birth and a reload in the midst of it.
        procfs::send(others[0], Signal::SIGKILL);
        let end = daemon.log().wait_since(mark, "worker killed", |event| event.pid() == others[0]);
        assert_explained(&end, "command");
        assert!(end.number("served") < Some(31), "{end}");
        daemon.signal(Signal::SIGHUP);
        daemon.log().wait_since(mark, "reloaded", |_| true);
        vandal.half_close().expect("let the vandal end");
        assert_eq!(vandal.rest(), "done\n");
        let now = daemon.wait_for_idle("command", 4);
        assert!(others[1..].iter().all(|pid| now.contains(pid)), "{now:?} after {pids:?}");
        assert!(now.contains(&busy), "the vandal itself is none of the master's business");
        for event in daemon.log().events().iter().filter(|event| event.is_end()) {
            assert_explained(event, "command");
        }
        assert_eq!(daemon.zombies(), [0; 0]);
        daemon.expect_anything();
    }
}
