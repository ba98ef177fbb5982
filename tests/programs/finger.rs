//! fingerd(8) with finger(1), which knows no port but its own.

use crate::harness::{Task, Under, client, run};
use support::{is_root, provided};

run_under!([Ours, Inetd] a_user_is_found);

fn a_user_is_found(under: Under) {
    if !under.has(&["in.fingerd", "finger"]) || !provided(is_root(), "root") {
        return;
    }
    let command = ["/usr/sbin/in.fingerd"];
    let task = Task { user: Some("nobody"), port: Some(79), ..Task::of(&command) };
    let served = under.serve(&task);
    let ask = |name: &str| run(&mut client(&["finger", &format!("{name}@{}", served.ip())])).out;
    for _ in 0..10 {
        let said = ask("root");
        assert!(said.contains("Login: root"), "{said}");
    }
    assert!(!ask("nobody-of-this-name").contains("Login:"));
}
