//! What leaves the house beside the service: the package as lintian sees it, the
//! RPM, and the container.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::lab::{Lab, package, shipped_address};
use support::client::assert_serves;
use support::{Client, Directory, is_root, provided};

on_both_suites!(the_scripts_of_the_rpm_install_upgrade_and_remove);

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).exists())
}

/// Runs a command, and gives what it says when it succeeds.
#[track_caller]
fn run(command: &mut Command) -> String {
    let output = command
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}:\n{out}{err}");
    out
}

#[test]
fn lintian_has_nothing_to_say() {
    let can = is_installed("lintian") && package::tool("cargo-deb").is_some();
    if !provided(can, "lintian and cargo-deb") {
        return;
    }
    let mut lintian = Command::new("lintian");
    lintian.args(["--allow-root", "--fail-on", "error,warning"]).arg(package::first());
    assert_eq!(run(&mut lintian), "");
}

// On a bare Debian there is no dpkg-shlibdeps, which would tell what the program needs.
#[test]
fn the_package_depends_on_the_c_library_whoever_builds_it() {
    let can = is_installed("objdump") && package::tool("cargo-deb").is_some();
    if !provided(can, "binutils and cargo-deb") {
        return;
    }
    let place = Directory::new();
    let tools = place.join("bin");
    std::fs::create_dir(&tools).expect("make a directory");
    let path = std::env::var_os("PATH").unwrap_or_default();
    for directory in std::env::split_paths(&path) {
        for file in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let name = file.file_name();
            if !name.to_string_lossy().starts_with("dpkg-shlib") {
                // The first one of a name is the one that a shell would take.
                let _ = std::os::unix::fs::symlink(file.path(), tools.join(name));
            }
        }
    }
    let (target, deb) = (package::target(), place.join("preforkd.deb"));
    let mut build = Command::new(package::tool("cargo-deb").expect("cargo-deb"));
    build.args(["deb", "--no-build", "--fast", "--output"]).arg(&deb);
    run(build.env("PATH", &tools).env("CARGO_TARGET_DIR", target.path()));
    let depends = run(Command::new("dpkg-deb").arg("--field").arg(&deb).arg("Depends"));
    assert!(depends.contains("libc6 (>= 2.34)") && depends.contains("libgcc-s1"), "{depends}");

    // That is what the program needs, and all of it.
    let program = env!("CARGO_BIN_EXE_preforkd");
    let needed = run(Command::new("objdump").args(["-p", program]));
    let libraries = needed.lines().filter_map(|line| line.trim().strip_prefix("NEEDED"));
    for library in libraries.map(str::trim) {
        let is_known = ["libc.so.", "libm.so.", "libgcc_s.so.", "ld-linux"];
        assert!(is_known.iter().any(|known| library.starts_with(known)), "{library}");
    }
    let symbols = run(Command::new("objdump").args(["-T", program]));
    let versions = symbols.split("GLIBC_2.").skip(1).filter_map(|rest| {
        rest.split(|c: char| !c.is_ascii_digit()).next().and_then(|minor| minor.parse().ok())
    });
    assert!(versions.max().is_some_and(|newest: u32| newest <= 34), "{symbols}");
}

/// The RPM of this build, in a directory that goes with it; None if it cannot be
/// built here.
#[track_caller]
fn rpm() -> Option<(Directory, PathBuf)> {
    let tool = package::tool("cargo-generate-rpm");
    if !provided(tool.is_some() && is_installed("rpm"), "cargo-generate-rpm and rpm") {
        return None;
    }
    let target = package::target();
    let rpm = target.join("preforkd.rpm");
    let mut generate = Command::new(tool?);
    generate
        .args(["generate-rpm", "--payload-compress", "gzip", "--target-dir"])
        .arg(target.path());
    run(generate.arg("--output").arg(&rpm));
    Some((target, rpm))
}

#[test]
fn the_rpm_has_the_same_files() {
    let Some((_target, rpm)) = rpm() else { return };
    let files = run(Command::new("rpm").args(["--query", "--list", "--package"]).arg(&rpm));
    assert_eq!(
        files.lines().collect::<Vec<_>>(),
        [
            "/etc/logrotate.d/preforkd",
            "/etc/preforkd/pool.d/README",
            "/etc/preforkd/preforkd.toml",
            "/usr/lib/preforkd/check-as-service",
            "/usr/lib/preforkd/notify-reload.conf",
            "/usr/lib/preforkd/notify-reload@.conf",
            "/usr/lib/systemd/catalog/preforkd.catalog",
            "/usr/lib/systemd/system/preforkd.service",
            "/usr/lib/systemd/system/preforkd.socket",
            "/usr/lib/systemd/system/preforkd@.service",
            "/usr/lib/sysusers.d/preforkd.conf",
            "/usr/sbin/preforkd",
            "/usr/share/bash-completion/completions/preforkd",
            "/usr/share/doc/preforkd/embedding.md",
            "/usr/share/doc/preforkd/examples/full.toml",
            "/usr/share/doc/preforkd/from-inetd.md",
            "/usr/share/doc/preforkd/operating.md",
            "/usr/share/doc/preforkd/performance.md",
            "/usr/share/doc/preforkd/tour.md",
            "/usr/share/fish/vendor_completions.d/preforkd.fish",
            "/usr/share/licenses/preforkd/LICENSE-APACHE",
            "/usr/share/licenses/preforkd/LICENSE-MIT",
            "/usr/share/man/man5/preforkd.toml.5",
            "/usr/share/man/man8/preforkd.8",
            "/usr/share/zsh/site-functions/_preforkd",
        ]
    );
    let configuration =
        run(Command::new("rpm").args(["-q", "--configfiles", "--package"]).arg(&rpm));
    assert!(configuration.contains("/etc/preforkd/preforkd.toml"), "{configuration}");
}

// What rpm(8) would do with it, by hand, on what has systemd and no RPM: its files,
// and its scripts with the number of packages that will be there.
fn the_scripts_of_the_rpm_install_upgrade_and_remove(suite: &'static str) {
    let Some(lab) = Lab::boot(suite) else { return };
    let Some((target, rpm)) = rpm() else { return };
    run(Command::new("rpm2archive").arg(&rpm));
    lab.copy(&target.join("preforkd.rpm.tgz"), "/root");
    for (name, tag) in [("post", "POSTIN"), ("preun", "PREUN"), ("postun", "POSTUN")] {
        let query = format!("%{{{tag}}}");
        let mut query_script = Command::new("rpm");
        query_script.args(["--query", "--queryformat", &query, "--package"]).arg(&rpm);
        lab.write(&format!("/root/{name}"), &run(&mut query_script));
    }
    let unpack = "tar --extract --gzip --directory / --file /root/preforkd.rpm.tgz";
    let dropin = "/usr/lib/systemd/system/preforkd.service.d/10-notify-reload.conf";

    lab.sh(&format!("{unpack}; sh -e /root/post 1"));
    lab.sh("getent passwd preforkd; journalctl --list-catalog | grep preforkd:");
    assert_eq!(lab.show("ActiveState"), "inactive", "an RPM starts nothing");
    assert_eq!(lab.has(dropin), lab.is_modern());
    lab.sh("systemctl start preforkd");
    let kind = if lab.is_modern() { "notify-reload" } else { "notify" };
    assert_eq!(lab.show("Type"), kind);
    lab.inside(|| assert_serves(&shipped_address()));

    let master = lab.master();
    let mut client = lab.inside(|| Client::connect(&shipped_address()));
    client.ping("before the upgrade");
    let upgrade =
        format!("{unpack}; sh -e /root/post 2; sh -e /root/preun 1; sh -e /root/postun 1");
    let upgrade = lab.spawn(&upgrade);
    lab.wait_for("ActiveState", |state| state == "deactivating");
    client.ping("during the upgrade");
    drop(client);
    assert_eq!(upgrade.join().expect("the upgrade").code, 0);
    assert_ne!(lab.master(), master);
    lab.inside(|| assert_serves(&shipped_address()));

    lab.sh("sh -e /root/preun 0; rm /usr/lib/systemd/system/preforkd.*; sh -e /root/postun 0");
    assert_eq!(lab.show("ActiveState"), "inactive");
    assert!(!lab.has(dropin));
}

#[test]
fn the_container_drains_as_pid_1_and_not_as_root() {
    let can = is_root() && is_installed("mmdebstrap") && package::tool("cargo-deb").is_some();
    if !provided(can, "root, mmdebstrap and cargo-deb") {
        return;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/container/try.sh");
    let told = run(Command::new(script).arg(package::first()));
    assert_eq!(told.lines().count(), 2, "{told}");
}
