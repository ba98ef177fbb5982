//! `systemctl stop`: connections in hand are finished.

use std::thread;
use std::time::Duration;

use crate::lab::{Lab, shipped_address};
use support::Client;

on_both_suites!(a_stop_waits_as_long_as_the_configuration_says);

fn a_stop_waits_as_long_as_the_configuration_says(suite: &'static str) {
    let config = "
        [daemon]
        stop_timeout = \"5m\"
        [pool.echo]
        listen = \"127.0.0.1:7007\"
        service = \"echo\"
        workers = 2
    ";
    let Some(lab) = Lab::with_package(suite) else { return };
    lab.configure(config);
    // The daemon asks for more time than the unit gives.
    lab.edit("[Service]\nTimeoutStopSec=10s\n");
    lab.sh("systemctl restart preforkd");
    let address = shipped_address();
    let mut client = lab.inside(|| Client::connect(&address));
    client.ping("before");
    let stopped = format!("_PID={}", lab.show("MainPID"));
    let stop = lab.spawn("systemctl stop preforkd");
    lab.wait_for("ActiveState", |state| state == "deactivating");
    // What must not happen has had its time.
    thread::sleep(Duration::from_secs(11));
    client.ping("still");
    assert!(!stop.is_finished());
    drop(client);
    assert_eq!(stop.join().expect("the stop").code, 0);
    assert_eq!(
        (lab.show("ActiveState"), lab.show("Result")),
        ("inactive".into(), "success".into())
    );
    let entry = lab.wait_for_entry("stopped", &stopped);
    assert_eq!(entry["CAUSE"], "SIGTERM", "{entry}");
}
