//! The check as the service would run: what it finds is what a restart would meet.

use crate::lab::{Lab, package, shipped_address};
use support::client::assert_serves;

on_both_suites!(
    it_answers_as_the_service_would,
    it_knows_the_sockets_that_systemd_passes,
    it_leaves_nothing_behind,
    an_upgrade_that_would_fail_keeps_the_old_daemon,
);

const CHECK: &str = "/usr/lib/preforkd/check-as-service";
const ECHO: &str = "[pool.echo]\nlisten = \"127.0.0.1:7007\"\nservice = \"echo\"\nworkers = 2\n";

/// What the unit forbids: a configuration, what is said of it, and its exit code.
fn refused() -> Vec<(String, &'static str, &'static str, i32)> {
    let pool = |lines: &str| format!("{ECHO}{lines}\n");
    vec![
        (
            ECHO.replace("7007", "79"),
            "could not bind listener \"127.0.0.1:79\": permission denied",
            "ports below 1024",
            77,
        ),
        (
            pool("user = \"www-data\""),
            "cannot become user \"www-data\": the daemon does not run as root",
            "pools with a user of their own",
            77,
        ),
        (pool("nice = -5"), "cannot set nice \"-5\"", "a negative nice", 77),
        (
            format!("[log]\nfile = \"/var/log/preforkd.log\"\n{ECHO}"),
            "could not open log \"/var/log/preforkd.log\": ",
            "ProtectSystem=",
            77,
        ),
        (
            ECHO.replace("service = \"echo\"", "service.exec.command = [\"/home/cgi\"]"),
            "could not execute program \"/home/cgi\": permission denied",
            "ProtectHome=",
            78,
        ),
        (
            ECHO.replace("service = \"echo\"", "service.exec.command = [\"/tmp/cgi\"]"),
            "could not execute program \"/tmp/cgi\": no such file or directory",
            "PrivateTmp=",
            78,
        ),
        (
            ECHO.replace("127.0.0.1:7007", "/var/lib/preforkd.sock"),
            "could not bind listener \"/var/lib/preforkd.sock\": ",
            "ProtectSystem=",
            77,
        ),
    ]
}

fn it_answers_as_the_service_would(suite: &'static str) {
    let Some(lab) = Lab::with_package(suite) else { return };
    // Root finds both; the service does not.
    lab.sh("cp /usr/bin/env /home/cgi; cp /usr/bin/env /tmp/cgi");
    let master = lab.master();
    for (config, reason, hint, code) in refused() {
        lab.configure(&config);
        assert_eq!(lab.try_sh("preforkd check").code, 0, "root is refused: {config}");
        let said = lab.try_sh(CHECK);
        assert_eq!(said.code, code, "{config}{said:?}");
        assert!(said.err.contains(reason), "{config}{said:?}");
        let told = said.err.lines().filter(|line| line.starts_with("hint: "));
        let told: Vec<_> = told.filter(|line| line.contains("preforkd(8)")).collect();
        assert!(told.len() == 1 && told[0].contains(hint), "{hint}: {said:?}");
    }
    assert_eq!(lab.master(), master, "the service was touched");

    // With what the drop-ins of the manual give, both accept it.
    let page = include_str!("../../packaging/man/preforkd.8");
    let mut examples = page.split("\n.EX\n").filter_map(|text| text.split("\n.EE").next());
    let dropin = examples.find(|text| text.contains("AmbientCapabilities=CAP_NET_BIND_SERVICE"));
    lab.edit(&format!("{}\n", dropin.expect("the drop-in")));
    lab.configure(&ECHO.replace("7007", "79"));
    let said = lab.try_sh(CHECK);
    assert_eq!((said.code, said.err.as_str()), (0, "/etc/preforkd/preforkd.toml: ok\n"));
    lab.sh("systemctl restart preforkd");
    // The daemon itself tells the same of what it does not have.
    lab.configure(&format!("[log]\nfile = \"/var/log/preforkd.log\"\n{ECHO}"));
    let said = lab.try_sh("preforkd reload");
    assert!(said.code == 77 && said.err.contains("ProtectSystem="), "{said:?}");
}

fn it_knows_the_sockets_that_systemd_passes(suite: &'static str) {
    let Some(lab) = Lab::with_package(suite) else { return };
    lab.sh("systemctl stop preforkd");
    lab.wait_until_free(&shipped_address());
    lab.configure(&ECHO.replace("127.0.0.1:7007", "systemd:echo"));
    let said = lab.try_sh(CHECK);
    assert_eq!(said.code, 73, "{said:?}");
    assert!(said.err.contains("could not adopt listener \"systemd:echo\""), "{said:?}");
    // Who is not in the place of the service cannot know.
    lab.sh("preforkd check");

    lab.sh("systemctl start preforkd.socket");
    lab.sh(CHECK);
    assert_eq!(lab.show("ActiveState"), "inactive", "the check has started the service");
    lab.inside(|| assert_serves(&shipped_address()));
    lab.wait_for("ActiveState", |state| state == "active");
    let master = lab.master();
    lab.sh(CHECK);
    lab.inside(|| assert_serves(&shipped_address()));
    assert_eq!(lab.master(), master);
}

fn it_leaves_nothing_behind(suite: &'static str) {
    let Some(lab) = Lab::with_package(suite) else { return };
    let units = "systemctl list-units --all --no-legend 'preforkd*'; ls -A /run/systemd/system; \
                 ls -d /run/preforkd*; stat --format %i /run/preforkd";
    let before = lab.sh(units);
    for config in [ECHO, "[pool"] {
        lab.configure(config);
        lab.try_sh(CHECK);
        assert_eq!(lab.sh(units), before);
    }
    lab.inside(|| assert_serves(&shipped_address()));
    // Nor the directory of a service that does not run.
    lab.sh("systemctl stop preforkd");
    lab.configure(ECHO);
    lab.sh(CHECK);
    assert!(!lab.has("/run/preforkd"));

    // A command line that may be of something else is not run.
    lab.edit("[Service]\nExecStart=\nExecStart=/bin/sh -c \"touch /run/ran\"\n");
    let said = lab.try_sh(CHECK);
    assert_eq!(said.code, 125, "{said:?}");
    assert!(said.err.contains("its ExecStart= is not understood"), "{said:?}");
    assert!(!lab.has("/run/ran"));
}

fn an_upgrade_that_would_fail_keeps_the_old_daemon(suite: &'static str) {
    let Some(lab) = Lab::with_package(suite) else { return };
    lab.copy(package::second(), "/root");
    lab.sh("cp /usr/bin/env /home/cgi; cp /usr/bin/env /tmp/cgi");
    let master = lab.master();
    let no_socket = (ECHO.replace("127.0.0.1:7007", "systemd:echo"), "no such socket was passed");
    let faults = refused().into_iter().map(|(config, reason, ..)| (config, reason));
    for (config, reason) in faults.chain([no_socket]) {
        lab.configure(&config);
        let said = lab.try_sh("dpkg --install /root/preforkd_0.1.0-2_*.deb");
        assert_eq!(said.code, 0, "{said:?}");
        for told in [reason, "preforkd was not restarted", "The old version continues to serve"] {
            assert!(said.err.contains(told), "{told}: {said:?}");
        }
        assert_eq!((lab.master(), lab.show("ActiveState")), (master, "active".into()));
        lab.inside(|| assert_serves(&shipped_address()));
    }
    lab.configure(ECHO);
    lab.sh("dpkg --install /root/preforkd_0.1.0-2_*.deb");
    assert_ne!(lab.master(), master);
    lab.inside(|| assert_serves(&shipped_address()));

    // A start that fails is told as well.
    lab.sh("systemctl stop preforkd");
    lab.configure("[pool");
    let said = lab.try_sh("dpkg --install /root/preforkd_0.1.0-2_*.deb");
    assert!(said.err.contains("systemctl status preforkd"), "{said:?}");
}
