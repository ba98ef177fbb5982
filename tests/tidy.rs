//! The cut of the code: which part knows which, and where unsafe code may be.
//!
//! The invariants are those of ARCHITECTURE.md; what the compiler cannot hold
//! is held here.

use std::collections::{BTreeMap, BTreeSet};

use support::source::{Source, source, sources};
use support::words::banned_in;

/// What each part may know. What a row leaves out is as important as what it
/// holds: the arrow of life is master, pool, worker, service, and none of them
/// looks back up.
const MAY_KNOW: [(&str, &[&str]); 22] = [
    ("sys", &[]),
    ("error", &[]),
    ("accounts", &["sys"]),
    ("unit", &[]),
    // A name, which is the same for all of the process.
    ("program", &[]),
    ("cli", &["program"]),
    ("config", &["error", "program"]),
    ("import", &["config", "error"]),
    ("request", &["error"]),
    ("log", &["config", "error", "program", "sys"]),
    ("scoreboard", &["sys"]),
    ("ledger", &["config", "sys"]),
    ("listener", &["accounts", "config", "error", "sys", "unit"]),
    ("service", &["config", "error", "log", "sys", "unit"]),
    (
        "worker",
        &["accounts", "config", "error", "ledger", "log", "scoreboard", "service", "sys", "unit"],
    ),
    (
        "pool",
        &[
            "accounts",
            "config",
            "error",
            "ledger",
            "listener",
            "log",
            "program",
            "scoreboard",
            "service",
            "sys",
            "worker",
        ],
    ),
    (
        "master",
        &[
            "accounts", "config", "error", "listener", "log", "pool", "program", "request",
            "service", "sys", "unit",
        ],
    ),
    ("notify", &["config", "error", "listener", "master", "sys"]),
    ("daemon", &["error", "master", "sys"]),
    (
        "commands",
        &[
            "cli", "config", "daemon", "error", "import", "listener", "log", "master", "notify",
            "request", "service", "sys",
        ],
    ),
    ("embed", &["cli", "commands", "config", "error", "program", "service"]),
    // `lib` is the map of all of them, and `main` calls the library.
    ("main", &[]),
];

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The names that stand behind `prefix` in this code, a group in braces taken
/// apart: its first level is enough.
fn names_behind(code: &str, prefix: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices(prefix) {
        if code[..at].ends_with(|c| is_word(c) || c == ':') {
            continue;
        }
        let rest = &code[at + prefix.len()..];
        let word = |text: &str| text.chars().take_while(|&c| is_word(c)).collect::<String>();
        match rest.strip_prefix('{') {
            None => {
                names.insert(word(rest));
            }
            Some(group) => {
                let mut depth = 1;
                let mut begins = true;
                for (at, c) in group.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        _ => {}
                    }
                    if depth == 0 {
                        break;
                    }
                    if begins && depth == 1 && is_word(c) {
                        names.insert(word(&group[at..]));
                        begins = false;
                    }
                    begins |= depth == 1 && c == ',';
                }
            }
        }
    }
    names
}

/// The parts of the crate that a file names.
fn known_to(source: &Source) -> BTreeSet<String> {
    let mut known = names_behind(&source.code, "crate::");
    // As many times `super` as there are modules lead out of the part.
    let depth = source.modules().len();
    if depth > 0 {
        known.extend(names_behind(&source.code, &"super::".repeat(depth)));
        // Out of a module in this file, such as its unit tests, it leads into
        // the file itself; those are cut off.
        known.remove("super");
    }
    known.remove(source.part());
    known
}

#[test]
fn no_part_knows_what_it_should_not() {
    let allowed: BTreeMap<_, _> = MAY_KNOW.into_iter().collect();
    let parts: BTreeSet<String> = sources().iter().map(|source| source.part().to_owned()).collect();
    for source in sources().iter().filter(|source| source.part() != "lib") {
        let part = source.part();
        let Some(may_know) = allowed.get(part) else {
            panic!("{} is in no row of the table: what may it know?", source.path);
        };
        for name in known_to(source).iter().filter(|name| parts.contains(*name)) {
            assert!(may_know.contains(&name.as_str()), "{} knows {name}", source.path);
        }
    }
    let rows: BTreeSet<String> = MAY_KNOW.iter().map(|(part, _)| (*part).to_owned()).collect();
    let gone: Vec<_> = rows.difference(&parts).collect();
    assert!(gone.is_empty(), "rows of the table without a file: {gone:?}");
}

/// The modules beside a file in its folder that it names.
fn siblings_known_to(source: &Source) -> BTreeSet<String> {
    let modules = source.modules();
    let Some((_, folder)) = modules.split_last().filter(|(_, folder)| !folder.is_empty()) else {
        return BTreeSet::new();
    };
    let mut known = names_behind(&source.code, "super::");
    known.extend(names_behind(&source.code, &format!("crate::{}::", folder.join("::"))));
    known
}

// What two files know of each other can be read, tested and changed only together.
#[test]
fn no_two_files_of_a_folder_know_each_other() {
    let all = sources();
    let known: BTreeMap<_, _> =
        all.iter().map(|source| (source.modules(), siblings_known_to(source))).collect();
    let mut looked_at = 0;
    for (modules, siblings) in &known {
        let Some((name, folder)) = modules.split_last() else { continue };
        for sibling in siblings {
            let of_sibling = known.get(&[folder, &[sibling.as_str()]].concat());
            looked_at += usize::from(of_sibling.is_some());
            let looks_back = of_sibling.is_some_and(|known| known.contains(*name));
            assert!(!looks_back, "{} and {sibling} know each other", modules.join("/"));
        }
    }
    assert!(looked_at > 30, "only {looked_at} siblings were found");
}

/// The arrow of life, by itself: a row of the table may be changed, this not.
#[test]
fn nobody_looks_back_up() {
    let knows = |part: &str| -> BTreeSet<String> {
        let of_part = sources();
        of_part.iter().filter(|source| source.part() == part).flat_map(known_to).collect()
    };
    for (part, above) in [
        ("pool", &["master"][..]),
        ("worker", &["master", "pool"]),
        ("service", &["master", "pool", "worker", "scoreboard"]),
        ("config", &["master", "pool", "worker", "service", "sys", "log", "listener"]),
    ] {
        let known = knows(part);
        for name in above {
            assert!(!known.contains(*name), "{part} knows {name}");
        }
    }
    for part in ["sys", "error"] {
        let known = knows(part);
        assert!(known.is_empty(), "{part} knows {known:?}");
    }
    assert!(knows("master").contains("pool") && knows("pool").contains("worker"));
    assert!(knows("worker").contains("service"), "the arrow is there");
}

#[test]
fn the_configuration_makes_no_system_call_but_reading() {
    for source in sources().iter().filter(|source| source.part() == "config") {
        for name in
            ["nix", "libc", "std::process", "std::env", "std::net::Tcp", "std::os::unix::net"]
        {
            let mut places = source.code.match_indices(name);
            // Not the end of a longer word, as in `unix`.
            let is_there = places.any(|(at, _)| {
                let (before, after) = (&source.code[..at], &source.code[at + name.len()..]);
                !before.ends_with(is_word) && (after.starts_with("::") || before.ends_with("use "))
            });
            assert!(!is_there, "{} uses {name}", source.path);
        }
    }
}

// A decision that looks at the clock or at a process cannot be tested without.
#[test]
fn what_decides_is_pure() {
    let cores = [
        "ledger/bucket.rs",
        "ledger/source.rs",
        "ledger/table.rs",
        "import/mod.rs",
        "import/attributes.rs",
        "import/draft.rs",
        "import/inetd.rs",
        "import/xinetd.rs",
        "master/changes.rs",
        "master/answers.rs",
        "master/phase.rs",
        "pool/cause.rs",
        "pool/overdue.rs",
        "pool/throttle.rs",
        "worker/access.rs",
        "worker/quota.rs",
    ];
    for core in cores {
        let all = sources();
        let Some(source) = all.iter().find(|source| source.path == core) else {
            panic!("there is no {core}");
        };
        for name in [
            "Moment::now",
            "Instant",
            "SystemTime",
            "std::fs",
            "std::io",
            "nix::unistd",
            "nix::sys",
        ] {
            assert!(!source.code.contains(name), "{core} uses {name}");
        }
    }
}

/// The parameters of each function in this code.
fn parameters(code: &str) -> impl Iterator<Item = &str> {
    code.match_indices("fn ").filter_map(|(at, _)| {
        let (_, from_parameters) = code[at..].split_once('(')?;
        let mut depth = 1;
        let end = from_parameters.find(|c| {
            depth += i32::from(c == '(') - i32::from(c == ')');
            depth == 0
        });
        Some(&from_parameters[..end?])
    })
}

// Nobody who reads a call knows what its `true` means.
#[test]
fn no_function_takes_a_bool() {
    let mut looked_at = 0;
    for source in sources() {
        for parameters in parameters(&source.code) {
            looked_at += 1;
            assert!(!parameters.contains(": bool"), "{}: fn ({parameters})", source.path);
        }
    }
    assert!(looked_at > 300, "only {looked_at} functions were found");
}

/// The lines of code that have this word in them, counted from 1.
fn lines_with(source: &Source, wanted: &str) -> Vec<usize> {
    let has_word = |line: &str| line.split(|c| !is_word(c)).any(|word| word == wanted);
    source
        .code
        .lines()
        .enumerate()
        .filter(|(_, line)| has_word(line))
        .map(|(at, _)| at + 1)
        .collect()
}

#[test]
fn unsafe_code_is_in_sys_alone() {
    for source in sources().iter().filter(|source| source.part() != "sys") {
        let lines = lines_with(source, "unsafe");
        assert!(lines.is_empty(), "{}:{lines:?} has unsafe code", source.path);
    }
}

#[test]
fn every_other_file_forbids_unsafe_code_at_its_head() {
    for source in sources().iter().filter(|source| source.part() != "sys") {
        let first =
            source.code.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
        let expected = match source.path.as_str() {
            // The one that has to let `sys` be.
            "lib.rs" => "#![deny(unsafe_code)]",
            _ => "#![forbid(unsafe_code)]",
        };
        assert_eq!(first, expected, "the first line of code of {}", source.path);
    }
    let all = sources();
    let lib = all.iter().find(|source| source.path == "lib.rs").expect("lib.rs");
    let exceptions: Vec<_> =
        lib.code.lines().filter(|line| line.contains("#[expect(unsafe_code")).collect();
    assert_eq!(exceptions.len(), 1, "one module may");
    let next = lib.code.lines().skip_while(|line| !line.contains("#[expect(unsafe_code")).nth(1);
    assert_eq!(next.map(str::trim), Some("mod sys;"));
    assert!(!lib.code.contains("allow(unsafe_code"));
}

/// Whether the comment above a line, or above the statement that the line is
/// part of, says why it is safe.
fn is_explained(source: &Source, line: usize) -> bool {
    let lines: Vec<_> = source.text.lines().collect();
    // Upwards: first what is left of the statement, then its comment.
    let mut above = lines[..line - 1].iter().rev().map(|line| line.trim()).peekable();
    while let Some(line) = above.next_if(|line| !line.starts_with("//")) {
        if line.is_empty() || line.ends_with([';', '}']) {
            return false;
        }
    }
    above.take_while(|line| line.starts_with("//")).any(|line| line.starts_with("// SAFETY: "))
}

#[test]
fn every_unsafe_block_says_why_it_is_safe() {
    let mut blocks = 0;
    for source in sources().iter().filter(|source| source.part() == "sys") {
        let lines: Vec<_> = source.code.lines().collect();
        for line in lines_with(source, "unsafe") {
            let code = lines[line - 1];
            let tail = code.split("unsafe").nth(1).unwrap_or_default().trim_start();
            if tail.starts_with("fn") {
                let docs = source.text.lines().take(line - 1).collect::<Vec<_>>();
                let docs = docs.iter().rev().take_while(|line| line.trim().starts_with(['/', '#']));
                let is_documented = docs.into_iter().any(|line| line.contains("# Safety"));
                assert!(is_documented, "src/{}:{line} has no section on safety", source.path);
            } else if !tail.starts_with("extern") {
                blocks += 1;
                assert!(
                    is_explained(source, line),
                    "src/{}:{line} does not say why it is safe",
                    source.path
                );
            }
        }
    }
    assert!(blocks > 10, "only {blocks} unsafe blocks were found");
}

#[test]
fn no_file_is_named_after_nothing() {
    for source in sources() {
        for module in source.modules() {
            let is_empty =
                ["utils", "util", "common", "types", "helpers", "helper", "misc"].contains(&module);
            assert!(!is_empty, "what is {} about?", source.path);
        }
    }
}

// What an event says, how much it matters and its id stand in one table.
#[test]
fn every_line_of_the_log_is_an_event_of_the_table() {
    for source in sources() {
        for name in ["crit", "error", "warn", "info", "debug", "trace"] {
            let lines = lines_with(&source, name);
            let calls = source.code.contains(&format!("{name}!("));
            assert!(!calls, "src/{}:{lines:?} logs by itself, not by an event", source.path);
        }
    }
}

#[test]
fn nothing_is_left_to_do() {
    for source in sources() {
        for name in ["todo!", "unimplemented!", "dbg!"] {
            assert!(!source.code.contains(name), "src/{} has {name}", source.path);
        }
        for mark in ["TODO", "FIXME", "XXX", "HACK"] {
            assert!(!source.text.contains(mark), "src/{} has {mark}", source.path);
        }
    }
}

#[test]
fn the_map_fits_on_a_page_or_two() {
    let all = sources();
    let lib = all.iter().find(|source| source.path == "lib.rs").expect("lib.rs");
    let lines = lib.text.lines().count();
    assert!(lines < 100, "src/lib.rs has {lines} lines");
    let main = all.iter().find(|source| source.path == "main.rs").expect("main.rs");
    assert!(main.text.lines().count() < 20);
}

#[test]
fn every_file_says_what_it_is_for() {
    for source in sources() {
        assert!(source.text.starts_with("//! "), "src/{} does not", source.path);
    }
}

#[test]
fn comments_are_in_plain_words() {
    let mut found = Vec::new();
    let mut looked_at = 0;
    for source in sources() {
        looked_at += source.comments.len();
        // The comments of neighbouring lines are one text.
        let blocks = source.comments.chunk_by(|(line, _), (next, _)| line + 1 == *next);
        for block in blocks {
            let text: Vec<_> = block.iter().map(|(_, text)| text.as_str()).collect();
            for banned in banned_in(&text.join("\n")) {
                found.push(format!("src/{}:{}: {banned:?}", source.path, block[0].0));
            }
        }
    }
    assert!(looked_at > 3000, "only {looked_at} lines of comments were found");
    assert!(found.is_empty(), "say it in plain words: {found:#?}");
}

// These tests read code with their own eyes; what they see is tested too.
#[test]
fn the_tests_see_what_is_there() {
    let text = "//! Doc with crate::master.\nuse crate::{pool::{self, x}, worker as w, sys};\n\
                use super::super::error::Error;\nlet a = \"crate::cli\"; // crate::log\n\
                let b = r#\"unsafe \" crate::cli\"#; let c = '\"'; let d = crate::config::X;\n\
                mycrate::nothing();\n\n#[cfg(test)]\nmod tests { use crate::daemon; }\n";
    let source = source("pool/spawn.rs".to_owned(), text.to_owned());
    let known: Vec<_> = known_to(&source).into_iter().collect();
    assert_eq!(known, ["config", "error", "sys", "worker"]);
    assert!(lines_with(&source, "unsafe").is_empty());
    let strings: Vec<_> =
        source.strings.iter().map(|(line, text)| (*line, text.as_str())).collect();
    assert_eq!(strings, [(4, "\"crate::cli\""), (5, "r#\"unsafe \" crate::cli\"#")]);
    let comments: Vec<_> =
        source.comments.iter().map(|(line, text)| (*line, text.as_str())).collect();
    assert_eq!(comments, [(1, "//! Doc with crate::master."), (4, "// crate::log")]);
    assert_eq!(banned_in("It is no\n/// more, as I told."), ["told", "no more"]);

    let text = "mod a;\n#[cfg(test)]\nmod tests;\nuse crate::log::X;\n";
    let source = self::source("pool/mod.rs".to_owned(), text.to_owned());
    assert!(known_to(&source).contains("log"), "what comes after the name of the tests");

    let explained = |text: &str| {
        is_explained(&self::source("sys/x.rs".to_owned(), text.to_owned()), text.lines().count())
    };
    assert!(explained("// SAFETY: it is.\nunsafe { f() };"));
    assert!(explained("// SAFETY: it is,\n// and will be.\nlet x =\n    unsafe { f() };"));
    assert!(!explained("// It is safe.\nunsafe { f() };"));
    assert!(!explained("// SAFETY: it is.\nlet y = 1;\nunsafe { f() };"));
    assert!(!explained("unsafe { f() };"));
}
