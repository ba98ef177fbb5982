//! What deny.toml says of dependencies, held without the tool.
//!
//! `cargo deny` takes minutes to build and its advisories come from a network,
//! so the gate holds here what the lock file and the manifests can tell:
//! licences, sources, what is banned, and that a recorded advisory is still
//! about something that we use. `cargo deny check` itself is for releases.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use spdx::{Expression, Licensee, ParseMode};

/// Every package that a Linux build takes, development included.
fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--locked", "--offline"])
        // Cargo has not fetched what other systems need.
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("run cargo metadata");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let mut metadata: Value = serde_json::from_slice(&output.stdout).expect("read cargo metadata");
    match metadata["packages"].take() {
        Value::Array(packages) => packages,
        other => panic!("packages are {other}"),
    }
}

fn text<'a>(package: &'a Value, key: &str) -> &'a str {
    package[key].as_str().unwrap_or_default()
}

/// deny.toml.
fn rules() -> toml::Table {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deny.toml");
    let rules = fs::read_to_string(path).expect("read deny.toml");
    rules.parse().expect("parse deny.toml")
}

/// The entries of a list in deny.toml.
fn list(rules: &toml::Table, table: &str, key: &str) -> Vec<toml::Value> {
    let list = rules[table][key].as_array().expect("a list");
    assert!(!list.is_empty(), "{table}.{key} is empty");
    list.clone()
}

/// The licence of a package.
fn licence(package: &Value) -> Expression {
    // Lax: the registry still takes an old way to write OR.
    Expression::parse_mode(text(package, "license"), ParseMode::LAX)
        .unwrap_or_else(|error| panic!("{} has no licence that is one: {error}", package["id"]))
}

/// Whether these licences are enough to use what has that one.
fn is_satisfied(licence: &Expression, allowed: &[&Licensee]) -> bool {
    licence.evaluate(|required| allowed.iter().any(|one| one.satisfies(required)))
}

#[test]
fn every_licence_is_one_that_we_allow() {
    let names = list(&rules(), "licenses", "allow");
    let allowed: Vec<_> = names
        .iter()
        .map(|name| Licensee::parse(name.as_str().unwrap_or_default()).expect("a licence"))
        .collect();
    let packages = packages();
    assert!(packages.len() > 50, "only {} packages", packages.len());
    let all: Vec<_> = allowed.iter().collect();
    for package in &packages {
        let licence = licence(package);
        assert!(is_satisfied(&licence, &all), "{} has the licence {licence}", package["id"]);
    }
    for one in &allowed {
        let others: Vec<_> = allowed.iter().filter(|&other| other != one).collect();
        let needed = packages.iter().any(|package| !is_satisfied(&licence(package), &others));
        assert!(needed, "no package needs the licence {one}");
    }
}

#[test]
fn every_dependency_comes_from_the_registry() {
    for package in packages() {
        let is_ours = text(&package, "manifest_path").starts_with(env!("CARGO_MANIFEST_DIR"));
        let is_of_registry = text(&package, "source").starts_with("registry+");
        assert!(is_ours || is_of_registry, "{} comes from elsewhere", package["id"]);
    }
}

#[test]
fn no_dependency_is_banned_or_there_twice() {
    let banned = list(&rules(), "bans", "deny");
    let mut versions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in packages() {
        let (name, version) = (text(&package, "name"), text(&package, "version"));
        let ban = banned.iter().find(|ban| ban["crate"].as_str() == Some(name));
        assert!(ban.is_none(), "{name} is banned: {ban:?}");
        versions.entry(name.to_owned()).or_default().push(version.to_owned());
    }
    versions.retain(|_, versions| versions.len() > 1);
    assert!(versions.is_empty(), "there twice: {versions:?}");
}

#[test]
fn the_recorded_advisory_is_still_about_what_we_use() {
    let ignored = list(&rules(), "advisories", "ignore");
    assert_eq!(ignored.len(), 1, "each one needs a test like this");
    assert_eq!(ignored[0]["id"].as_str(), Some("RUSTSEC-2025-0069"));
    let reason = ignored[0]["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("privileged_action"), "{reason}");
    let used = packages()
        .iter()
        .any(|package| text(package, "name") == "daemonize" && text(package, "version") == "0.5.0");
    assert!(used, "look at the advisory again");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/daemon.rs");
    let source = fs::read_to_string(source).expect("read a source");
    assert!(source.contains("use daemonize::"), "it is used elsewhere now");
    assert!(!source.contains("privileged_action("), "the method that is not sound is used");
}
