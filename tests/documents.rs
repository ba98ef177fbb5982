//! What the documents say, held against what they speak of.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use support::words::banned_in;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("read {path}: {error}"))
}

#[test]
fn the_guide_shows_the_example_as_it_is() {
    let block = format!("```rust\n{}```\n", read("examples/hello.rs"));
    let guide = "packaging/doc/embedding.md";
    assert!(read(guide).contains(&block), "{guide} and examples/hello.rs differ");
}

// The manual page does, and the full example is made of it: a second description
// would soon say something else.
#[test]
fn the_readme_describes_no_key() {
    let readme = read("README.md");
    let mut keys = BTreeSet::new();
    for line in read("packaging/doc/examples/full.toml").lines() {
        // `# ` begins a sentence, `#` alone a key.
        let line = line.strip_prefix('#').unwrap_or(line);
        if let Some((key, _)) = line.split_once(" = ")
            && key.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c == '.')
        {
            keys.insert(key.rsplit('.').next().unwrap_or(key).to_owned());
        }
    }
    assert!(keys.len() > 30, "only {} keys", keys.len());
    for key in keys {
        let described = readme.lines().find(|line| line.starts_with(&format!("| `{key}`")));
        assert_eq!(described, None, "a table of README.md describes `{key}`");
    }
}

#[test]
fn every_file_that_a_document_names_is_there() {
    for document in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"] {
        let text = read(document);
        let mut named = BTreeSet::new();
        for word in text.split(['`', '(', ')', '[', ']']) {
            let folders = ["src/", "tests/", "etc/", "examples/", "packaging/", ".ci/"];
            if folders.iter().any(|folder| word.starts_with(folder)) || word.ends_with(".md") {
                named.insert(word);
            }
        }
        assert!(!named.is_empty(), "{document} names no file");
        for path in named {
            assert!(root().join(path).exists(), "{document} names {path}");
        }
    }
}

// A newcomer reads it in one go. What is longer is a guide or a manual page.
#[test]
fn the_readme_is_short() {
    let lines = read("README.md").lines().count();
    assert!(lines <= 200, "README.md has {lines} lines");
    let lines = read("etc/preforkd.toml").lines().count();
    assert!(lines <= 35, "etc/preforkd.toml has {lines} lines");
}

#[test]
fn what_users_read_is_in_plain_words() {
    let folders =
        ["packaging/man", "packaging/catalog", "packaging/doc", "packaging/deb", "systemd"];
    let mut files: Vec<_> = [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "etc/preforkd.toml",
        "src/cli.rs",
    ]
    .map(|name| root().join(name))
    .to_vec();
    for folder in folders {
        let entries = fs::read_dir(root().join(folder)).expect("read the folder");
        files.extend(
            entries.map(|entry| entry.expect("an entry").path()).filter(|path| path.is_file()),
        );
    }
    let mut found = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("read the document");
        for banned in banned_in(&text) {
            found.push(format!("{}: {banned:?}", file.display()));
        }
    }
    assert!(found.is_empty(), "say it in plain words: {found:#?}");
}
