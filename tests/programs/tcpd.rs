//! tcpd(8), which runs what its own name says.

use crate::harness::{Task, Under};
use support::client::ask;

run_under!([Ours, Inetd, Xinetd] it_runs_the_program_that_its_name_is);

fn it_runs_the_program_that_its_name_is(under: Under) {
    if !under.has(&["tcpd", "echo"]) {
        return;
    }
    let command = ["/usr/sbin/tcpd", "from", "tcpd"];
    let served = under.serve(&Task { argv0: Some("/bin/echo"), ..Task::of(&command) });
    for _ in 0..3 {
        assert_eq!(ask(served.address(), ""), "from tcpd\n");
    }
}
