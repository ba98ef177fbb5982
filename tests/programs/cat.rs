//! cat(1): what comes in goes out. The smallest case, to copy from.

use crate::harness::{Task, Under};
use support::client::ask;

run_under!([Ours, Inetd, Xinetd, Tcpserver] what_is_sent_comes_back, an_argument_stays_whole, a_failure_ends_the_connection);

fn what_is_sent_comes_back(under: Under) {
    if !under.has(&["cat"]) {
        return;
    }
    let served = under.serve(&Task::of(&["/bin/cat"]));
    let text = "a line\n".repeat(100_000);
    for _ in 0..5 {
        assert!(ask(served.address(), &text) == text, "not the same came back");
    }
}

fn an_argument_stays_whole(under: Under) {
    if !under.has(&["sh"]) {
        return;
    }
    let task = Task::of(&[
        "/bin/sh",
        "-c",
        "read -r a; echo \"$a, it's 'whole'\"; echo $# $1",
        "sh",
        "a  b",
    ]);
    let served = under.serve(&task);
    assert_eq!(ask(served.address(), "yes\n"), "yes, it's 'whole'\n1 a b\n");
}

fn a_failure_ends_the_connection(under: Under) {
    if !under.has(&["sh"]) {
        return;
    }
    let served = under.serve(&Task::of(&["/bin/sh", "-c", "echo first; exit 3"]));
    served.expect(&["program exited"]);
    assert_eq!(ask(served.address(), ""), "first\n");
    if let Some(daemon) = served.daemon() {
        daemon.log().wait_for("program exited", |event| event.number("code") == Some(3));
    }
}
