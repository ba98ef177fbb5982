//! `preforkd import`, as a command. What it makes of a text has its tests in src/import;
//! that the result serves as the original did, in tests/programs/moving.rs.

use std::fs;

use support::command::{Finished, finish, preforkd};
use support::{Address, Client, Daemon, Directory};

fn import(paths: &[&str]) -> Finished {
    finish(preforkd().arg("import").args(paths))
}

/// A service that is installed everywhere, at an address of its own.
fn service(name: &str, address: &Address) -> String {
    let (ip, port) = (address.tcp().ip(), address.tcp().port());
    format!(
        "service {name}\n{{\n\ttype = UNLISTED\n\tsocket_type = stream\n\twait = no\n\
         \tbind = {ip}\n\tport = {port}\n\tserver = /bin/cat\n}}\n"
    )
}

#[test]
fn what_is_imported_is_accepted_and_serves() {
    let directory = Directory::new();
    let addresses = [Address::fresh(), Address::fresh(), Address::fresh()];
    let folder = directory.join("xinetd.d");
    fs::create_dir(&folder).expect("make a directory");
    for (name, address) in [("b", &addresses[0]), ("a", &addresses[1]), ("old.bak", &addresses[1])]
    {
        fs::write(folder.join(name), service("cat", address)).expect("write a file");
    }
    let included = format!("defaults\n{{\n}}\nincludedir {}\n", folder.display());
    let conf = directory.write("xinetd.conf", &included).display().to_string();
    let line = format!("{} stream tcp nowait {} /bin/cat cat\n", addresses[2], own_user());
    let inetd = directory.write("inetd.conf", &line).display().to_string();

    let made = import(&[&conf, &inetd, &folder.display().to_string()]);
    assert_eq!((made.code, made.err.as_str()), (Some(0), ""));
    // A file that is named twice is read once, and xinetd reads none with a dot.
    assert_eq!(made.out.matches("\n[pool.").count(), 3, "{}", made.out);
    let file = directory.write("made.toml", &made.out).display().to_string();
    let checked = finish(preforkd().args(["-c", &file, "check"]));
    assert_eq!((checked.code, checked.err.as_str()), (Some(0), ""));

    let _daemon = Daemon::start(&made.out);
    for address in &addresses {
        Client::connect(address).ping("hello");
    }
}

fn own_user() -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid());
    user.expect("read the user database").expect("our user").name
}

#[test]
fn a_line_that_is_not_understood_is_told_with_its_place_and_nothing_is_printed() {
    let directory = Directory::new();
    let text = "ftp stream tcp nowait root /bin/cat cat\n\nbroken line\nnor this\n";
    let file = directory.write("inetd.conf", text).display().to_string();
    let told = import(&[&file]);
    assert_eq!((told.code, told.out.as_str()), (Some(78), ""));
    for expected in [format!("{file}:3:1: "), format!("{file}:4:1: ")] {
        assert!(told.err.contains(&expected), "{}", told.err);
    }
    let missing = directory.join("missing").display().to_string();
    let told = import(&[&missing]);
    assert_eq!((told.code, told.out.as_str()), (Some(66), ""));
    assert!(told.err.starts_with("could not read file \""), "{}", told.err);
    assert_eq!(import(&[]).code, Some(64));
}
