//! What leaves the house beside the service: the package as lintian sees it, the
//! RPM, and the container.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::lab::package;
use crate::support::{is_root, provided};

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

#[test]
fn the_rpm_has_the_same_files() {
    let tool = package::tool("cargo-generate-rpm");
    if !provided(tool.is_some() && is_installed("rpm"), "cargo-generate-rpm and rpm") {
        return;
    }
    let target = package::target();
    let rpm = target.join("preforkd.rpm");
    let mut generate = Command::new(tool.expect("it is there"));
    generate
        .args(["generate-rpm", "--payload-compress", "gzip", "--target-dir"])
        .arg(target.path());
    run(generate.arg("--output").arg(&rpm));
    let files = run(Command::new("rpm").args(["--query", "--list", "--package"]).arg(&rpm));
    assert_eq!(
        files.lines().collect::<Vec<_>>(),
        [
            "/etc/preforkd/pool.d/README",
            "/etc/preforkd/preforkd.toml",
            "/usr/lib/preforkd/notify-reload.conf",
            "/usr/lib/systemd/catalog/preforkd.catalog",
            "/usr/lib/systemd/system/preforkd.service",
            "/usr/lib/systemd/system/preforkd.socket",
            "/usr/lib/sysusers.d/preforkd.conf",
            "/usr/sbin/preforkd",
            "/usr/share/bash-completion/completions/preforkd",
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
