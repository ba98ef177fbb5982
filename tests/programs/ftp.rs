//! vsftpd(8), which needs root and puts itself into a chroot, with curl(1).

use std::fs;
use std::process::Command;

use crate::harness::{Task, Under, client, random_file, run, run_through};
use support::{Directory, is_root, provided};

run_under!([Ours, Inetd] files_go_there_and_back);

fn files_go_there_and_back(under: Under) {
    if !under.has(&["vsftpd", "curl"]) || !provided(is_root(), "root") {
        return;
    }
    let directory = Directory::new();
    let path = |name: &str| directory.join(name).display().to_string();
    for name in ["empty", "root", "root/up"] {
        fs::create_dir(directory.join(name)).expect("make a directory");
    }
    run(Command::new("chown").args(["ftp", &path("root/up")]));
    random_file(&directory.join("root/large"), 30 << 20);
    let text = format!(
        "listen=NO\nlisten_ipv6=NO\nbackground=NO\nanonymous_enable=YES\nlocal_enable=NO\n\
         write_enable=YES\nanon_upload_enable=YES\nxferlog_enable=NO\nanon_root={}\n\
         secure_chroot_dir={}\n",
        path("root"),
        path("empty")
    );
    let config = directory.write("vsftpd.conf", &text).display().to_string();
    let command = ["/usr/sbin/vsftpd", &config];
    // The program ends with 2 when its client does not wait for the last word, as under inetd.
    let keys = "service.exec.success = [0, 2]\n";
    let served = under.serve(&Task { user: Some("root"), keys, ..Task::of(&command) });
    let url = |name: &str| format!("ftp://{}/{name}", served.address());

    let down = client(&["curl", "-sS", &url("large")]);
    let came = run_through(down, || served.renew());
    assert!(came == fs::read(path("root/large")).expect("read it"), "not the same came");
    run(&mut client(&["curl", "-sS", "-T", &path("root/large"), &url("up/")]));
    run(Command::new("cmp").args([path("root/large"), path("root/up/large")]));
    let list = run(&mut client(&["curl", "-sS", "-l", &url("")])).out;
    assert_eq!(list.lines().collect::<Vec<_>>(), ["large", "up"]);
}
