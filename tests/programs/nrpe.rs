//! nrpe(8) with check_nrpe, with TLS and without.

use crate::harness::{Task, Under, client};
use support::command::finish;
use support::{Directory, is_root};

run_under!([Ours, Inetd] checks_are_answered);

fn checks_are_answered(under: Under) {
    if !under.has(&["nrpe", "check_nrpe"]) {
        return;
    }
    let directory = Directory::new();
    let text = "log_facility=daemon\nnrpe_user=nagios\nnrpe_group=nagios\nallowed_hosts=127.0.0.0/8\n\
                command[good]=/bin/echo OK - fine\n\
                command[hot]=/bin/sh -c 'echo WARNING - hot; exit 1'\n\
                command[long]=/usr/bin/seq 1 4000\n";
    let config = directory.write("nrpe.cfg", text).display().to_string();
    let path = "/usr/lib/nagios/plugins/check_nrpe";
    for options in [&[][..], &["-n"]] {
        let command = [&["/usr/sbin/nrpe"], options, &["-c", &config, "--inetd"]].concat();
        let user = is_root().then_some("nagios");
        let served = under.serve(&Task { user, ..Task::of(&command) });
        let (ip, port) = (served.ip(), served.port());
        let ask = |what: &str| {
            let to = ["-t", "25", "-H", &ip, "-p", &port, "-c", what];
            let said = finish(&mut client(&[&[path], options, &to[..]].concat()));
            (said.code, said.out)
        };
        assert_eq!(ask("good"), (Some(0), "OK - fine\n".to_owned()));
        assert_eq!(ask("hot"), (Some(1), "WARNING - hot\n".to_owned()));
        let (code, out) = ask("long");
        assert_eq!((code, out.lines().count()), (Some(0), 4000));
    }
}
