//! What deny.toml says of dependencies, held without the tool.
//!
//! `cargo deny` takes minutes to build and its advisories come from a network,
//! so the gate holds here what the lock file and the manifests can tell:
//! licences, sources, what is banned, and that a recorded advisory is still
//! about something that we use. `cargo deny check` itself is for releases.

use std::collections::BTreeMap;
use std::fs;
use std::iter::Peekable;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

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

#[test]
fn every_licence_is_one_that_we_allow() {
    let rules = rules();
    let allowed = list(&rules, "licenses", "allow");
    let allows = |licence: &str| allowed.iter().any(|one| one.as_str() == Some(licence));
    let packages = packages();
    assert!(packages.len() > 50, "only {} packages", packages.len());
    for package in &packages {
        let expression = text(package, "license");
        assert!(
            is_satisfied(expression, &allows),
            "{} has the licence {expression:?}",
            package["id"]
        );
    }
    for licence in &allowed {
        let licence = licence.as_str().expect("the name of a licence");
        let others = |other: &str| other != licence && allows(other);
        let needed =
            packages.iter().any(|package| !is_satisfied(text(package, "license"), &others));
        assert!(needed, "no package needs the licence {licence}");
    }
}

#[test]
fn every_dependency_comes_from_the_registry() {
    for package in packages() {
        // Our own has no source.
        let source = package["source"].as_str();
        assert!(
            source.map_or(text(&package, "name") == "preforkd", |source| source
                .starts_with("registry+")),
            "{} comes from {source:?}",
            package["id"]
        );
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

/// Whether an SPDX expression is satisfied by licences that `allows` admits.
fn is_satisfied(expression: &str, allows: &impl Fn(&str) -> bool) -> bool {
    // An old way to write OR, which the registry still takes.
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace(" WITH ", "_WITH_");
    let mut words = spaced.split_whitespace().peekable();
    let satisfied = any(&mut words, allows);
    assert_eq!(words.next(), None, "of the licence {expression:?}");
    satisfied
}

/// AND binds tighter than OR.
fn any<'a>(
    words: &mut Peekable<impl Iterator<Item = &'a str>>,
    allows: &impl Fn(&str) -> bool,
) -> bool {
    let mut satisfied = all(words, allows);
    while words.next_if_eq(&"OR").is_some() {
        satisfied |= all(words, allows);
    }
    satisfied
}

fn all<'a>(
    words: &mut Peekable<impl Iterator<Item = &'a str>>,
    allows: &impl Fn(&str) -> bool,
) -> bool {
    let mut satisfied = one(words, allows);
    while words.next_if_eq(&"AND").is_some() {
        satisfied &= one(words, allows);
    }
    satisfied
}

fn one<'a>(
    words: &mut Peekable<impl Iterator<Item = &'a str>>,
    allows: &impl Fn(&str) -> bool,
) -> bool {
    match words.next() {
        Some("(") => {
            let mut depth = 1;
            let inside: Vec<&str> = words
                .by_ref()
                .take_while(|word| {
                    depth += i32::from(*word == "(") - i32::from(*word == ")");
                    depth > 0
                })
                .collect();
            is_satisfied(&inside.join(" "), allows)
        }
        Some(licence) => allows(licence),
        None => false,
    }
}

#[test]
fn an_expression_is_read_as_spdx_means_it() {
    let allows = |licence: &str| licence == "MIT" || licence == "Unicode-3.0";
    for (expression, satisfied) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("", false),
        ("GPL-3.0/MIT", true),
        ("Apache-2.0 WITH LLVM-exception OR MIT", true),
        ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
        ("(MIT OR Apache-2.0) AND GPL-3.0", false),
        ("GPL-3.0 AND MIT OR MIT", true),
        ("MIT OR (MIT AND (GPL-3.0))", true),
    ] {
        assert_eq!(is_satisfied(expression, &allows), satisfied, "{expression}");
    }
}
