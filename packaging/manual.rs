//! What the package says about the daemon is what the daemon is: the manual pages and
//! the completions, compared with the source. Events have their tests where their table
//! is, in `src/log/event/`.
//!
//! `BLESS=1 cargo test --test manual` writes what can be derived: the options in
//! preforkd(8), the completions, and the example with every key, whose comments are those
//! of preforkd.toml(5).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::CommandFactory;
use clap_complete::Shell;
use preforkd::Cli;

const PAGES: [&str; 2] = ["packaging/man/preforkd.8", "packaging/man/preforkd.toml.5"];
const FULL: &str = "packaging/doc/examples/full.toml";

#[test]
fn the_options_are_those_of_the_command_line() {
    const BEGIN: &str = ".\\\" options: begin\n";
    const END: &str = ".\\\" options: end\n";
    let mut section = Vec::new();
    let page = clap_mangen::Man::new(<Cli as CommandFactory>::command());
    page.render_options_section(&mut section).unwrap();
    let section = String::from_utf8(section).unwrap();
    let text = read(PAGES[0]);
    let (before, rest) = text.split_once(BEGIN).expect("the begin of the options");
    let (_, after) = rest.split_once(END).expect("the end of the options");
    expect(PAGES[0], &[before, BEGIN, &section, END, after].concat());
    for command in <Cli as CommandFactory>::command().get_subcommands() {
        let heading = format!(".TP\n.B {}\n", command.get_name());
        assert!(text.contains(&heading), "no command {:?}", command.get_name());
    }
}

#[test]
fn the_completions_are_those_of_the_command_line() {
    let files =
        [(Shell::Bash, "preforkd.bash"), (Shell::Zsh, "_preforkd"), (Shell::Fish, "preforkd.fish")];
    for (shell, file) in files {
        let mut script = Vec::new();
        let mut command = <Cli as CommandFactory>::command();
        clap_complete::generate(shell, &mut command, "preforkd", &mut script);
        let script = String::from_utf8(script).unwrap();
        expect(&format!("packaging/completions/{file}"), &script);
    }
}

#[test]
fn the_pages_are_of_this_version_and_sound() {
    for page in PAGES {
        let title = format!("\"preforkd {}\"", env!("CARGO_PKG_VERSION"));
        let text = read(page);
        let line = text.lines().find(|line| line.starts_with(".TH ")).expect("a title");
        assert!(line.contains(&title), "{page}: {line} does not say {title}");
        // Whichever of the two checkers is installed.
        for checker in [&["mandoc", "-Tlint"][..], &["groff", "-ww", "-man", "-z"]] {
            let Ok(told) = Command::new(checker[0]).args(&checker[1..]).arg(root(page)).output()
            else {
                continue;
            };
            let told = [told.stdout, told.stderr].concat();
            assert!(told.is_empty(), "{}", String::from_utf8_lossy(&told));
        }
    }
}

#[test]
fn every_key_and_service_is_documented() {
    let page = read(PAGES[1]);
    let tables = read("src/config/tables.rs");
    let mut keys = vec!["include".to_owned()];
    for (source, name) in [
        (&tables, "Daemon"),
        (&tables, "Log"),
        (&tables, "Pool"),
        (&read("src/config/listen.rs"), "ListenTable"),
        (&read("src/config/limits.rs"), "Limits"),
        (&read("src/config/fairness.rs"), "RateTable"),
        (&read("src/config/fairness.rs"), "PerSourceTable"),
        (&read("src/service/exec/mod.rs"), "ExecOptions"),
    ] {
        keys.extend(keys_of(source, name));
    }
    assert!(keys.len() > 35, "the source is not read as it should be: {keys:?}");
    let headings = headings(&page, |_| true);
    let full = read(FULL);
    for key in keys {
        assert!(headings.contains(&key), "preforkd.toml(5) has no key {key:?}");
        // With its value, or as a table whose keys have values.
        let is_there = full.contains(&format!("{key} = ")) || key == "limits";
        assert!(is_there, "the page has no line of the full example for {key:?}");
    }
    for service in strings_after(&read("src/service/registry.rs"), ".with(\"") {
        assert!(page.contains(&format!("\n.SS {service}\n")), "no service {service:?}");
    }
}

#[test]
fn the_full_example_is_that_of_the_page() {
    const HEAD: &str = "\
# preforkd: worker processes behind listening sockets. preforkd.toml(5)
#
# A line with one # before a key shows the default. Where the comment says another
# default, the line is an example: take the # away and change the value. Check the
# file with `preforkd check`. Durations are written \"500ms\", \"30s\", \"5m\"; sizes
# \"64MiB\".
";
    let mut text = HEAD.to_owned();
    for Entry { lines, comment } in entries(&read(PAGES[1])) {
        // A table begins right above its first key.
        let in_table = text.lines().last().is_some_and(|line| line.starts_with('['));
        text += if in_table { "" } else { "\n" };
        text += &wrapped(&comment, "# ", 88);
        lines.iter().for_each(|line| text += &format!("{line}\n"));
    }
    expect(FULL, &text);
}

#[test]
fn every_signal_is_documented() {
    let section = section(&read(PAGES[0]), "SIGNALS");
    let master = read("src/master/mod.rs");
    for table in ["const WANTED", "const IGNORED"] {
        let table = master.split_once(table).expect("the tables of signals").1;
        let table = table.split_once("];").expect("their end").0;
        let signals: Vec<_> = table.split("Signal::").skip(1).map(word).collect();
        assert!(!signals.is_empty());
        for signal in signals {
            assert!(section.contains(&signal), "preforkd(8) has no signal {signal}");
        }
    }
}

#[test]
fn every_exit_code_is_documented() {
    let documented = headings(&section(&read(PAGES[0]), "\"EXIT STATUS\""), |_| true);
    let source = read("src/error.rs");
    let codes = source.split_once("pub enum Code {").expect("the codes").1;
    let codes = codes.split_once("\n}").expect("their end").0;
    let codes = codes.lines().filter_map(|line| line.trim().strip_suffix(',')?.split_once(" = "));
    let codes: BTreeSet<_> = codes.map(|(_, code)| code.to_owned()).collect();
    let zero = BTreeSet::from(["0".to_owned()]);
    assert_eq!(documented, &codes | &zero);
}

#[test]
fn the_examples_of_the_pages_are_right() {
    let directory = tempfile::tempdir().unwrap();
    let mut found = 0;
    for page in PAGES {
        for example in read(page).split("\n.EX\n").skip(1) {
            let example = example.split_once("\n.EE").expect("the end of the example").0;
            if !example.contains("[pool.") {
                continue;
            }
            found += 1;
            let place = directory.path().display().to_string();
            let example = example.replace("\\-", "-").replace("/run/preforkd", &place);
            let file = directory.path().join("example.toml");
            fs::write(&file, &example).unwrap();
            let told = Command::new(env!("CARGO_BIN_EXE_preforkd"))
                .args([Path::new("-c"), &file, Path::new("check")])
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&told.stderr);
            assert!(told.status.success(), "{page}:\n{example}\n{text}");
        }
    }
    assert!(found >= 4, "the examples are not found");
}

// ---- the source, as text -----------------------------------------------------------

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(root(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Checks that the file has this text, or writes it.
fn expect(path: &str, text: &str) {
    if std::env::var_os("BLESS").is_some() {
        fs::write(root(path), text).expect("write it");
    }
    let found = fs::read_to_string(root(path)).unwrap_or_default();
    assert!(found == text, "{path} is not up to date: run BLESS=1 cargo test --test manual");
}

/// The letters, digits and underscores that a text begins with.
fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
}

/// What stands between each `prefix` and the next quotation mark.
fn strings_after(text: &str, prefix: &str) -> Vec<String> {
    let after = text.split(prefix).skip(1);
    after.map(|rest| rest.split('"').next().unwrap_or_default().to_owned()).collect()
}

/// The keys that a struct reads.
fn keys_of(source: &str, name: &str) -> Vec<String> {
    let body = source.split_once(&format!("struct {name} {{\n")).expect("the struct").1;
    let body = body.split_once("\n}").expect("its end").0;
    let mut keys = Vec::new();
    let (mut skipped, mut renamed) = (false, None);
    for line in body.lines().map(str::trim) {
        skipped |= line.starts_with("#[serde(skip)]");
        renamed = strings_after(line, "rename = \"").pop().or(renamed);
        let field = line.trim_start_matches("pub(super) ").trim_start_matches("pub ");
        let name = word(field);
        if !name.is_empty() && field[name.len()..].starts_with(": ") {
            let key = renamed.take().unwrap_or(name);
            if !std::mem::take(&mut skipped) {
                keys.push(key);
            }
        }
    }
    keys
}

// ---- the pages, as text ------------------------------------------------------------

/// A section of a page, by its title.
fn section(page: &str, title: &str) -> String {
    let text = page.split_once(&format!("\n.SH {title}\n")).expect("the section").1;
    text.split("\n.SH ").next().unwrap_or_default().to_owned()
}

/// The names in the headings of the paragraphs, those that are `wanted`.
fn headings(text: &str, wanted: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let lines: Vec<_> = text.lines().collect();
    let titles = lines.windows(2).filter(|pair| pair[0] == ".TP").map(|pair| pair[1]);
    let mut names = BTreeSet::new();
    for title in titles {
        // .B has one name; .BR and .RB have several, and text between them.
        let text = match title.strip_prefix(".B ") {
            Some(name) => name.to_owned(),
            None => {
                let mut words = Vec::new();
                for (index, part) in title.split('"').enumerate() {
                    if index % 2 == 1 {
                        words.push(part.to_owned());
                    } else {
                        words.extend(
                            part.split_whitespace()
                                .skip(usize::from(index == 0))
                                .map(str::to_owned),
                        );
                    }
                }
                words.join("\n")
            }
        };
        for name in text.split(['\n', ',']).map(|name| name.trim_matches([' ', '(', ')'])) {
            let is_name = name.starts_with(|c: char| c.is_ascii_alphanumeric());
            if is_name && wanted(name) {
                names.insert(name.to_owned());
            }
        }
    }
    names.remove("or");
    names
}

// ---- what the full example says of a key ----------------------------------------------

/// What a page says for the full example at one place.
struct Entry {
    /// The lines behind `file:`.
    lines: Vec<String>,
    /// The text below them.
    comment: String,
}

fn entries(page: &str) -> Vec<Entry> {
    const MARK: &str = ".\\\" file:";
    const MORE: &str = ".\\\" file: more";
    let mut entries: Vec<Entry> = Vec::new();
    // Where the text of the last entry goes on; a default stands behind what is left out.
    let mut part = Part::None;
    let mut default = String::new();
    for line in page.lines() {
        match line.strip_prefix(MARK).map(str::trim) {
            Some(_) if line == MORE => part = Part::LeftOut,
            Some(line) => {
                if part != Part::Begin {
                    entries.push(Entry { lines: Vec::new(), comment: String::new() });
                }
                let lines = &mut entries.last_mut().expect("it was pushed").lines;
                lines.extend((!line.is_empty()).then(|| line.to_owned()));
                part = Part::Begin;
            }
            None if part == Part::None => {}
            None => {
                let ends = line.starts_with('.') && font(line).is_none();
                let text = plain(line);
                part = match part {
                    _ if ends => Part::None,
                    _ if text.starts_with("Default:") => Part::Default,
                    Part::Begin => Part::Text,
                    part => part,
                };
                let entry = entries.last_mut().expect("it has begun");
                match part {
                    Part::Text => entry.comment += &format!("{text} "),
                    Part::Default => default += &format!("{text} "),
                    _ => {}
                }
                if part == Part::None {
                    entry.tell(&std::mem::take(&mut default));
                }
            }
        }
    }
    entries
}

#[derive(Clone, Copy, PartialEq)]
enum Part {
    None,
    Begin,
    Text,
    LeftOut,
    Default,
}

impl Entry {
    /// Adds the default to the comment, if it is not what the line says.
    fn tell(&mut self, default: &str) {
        let says = |line: &String| {
            let value = line.split_once(" = ").map_or("", |(_, value)| value);
            default.trim() == format!("Default: {value}.")
        };
        if !self.lines.iter().any(says) {
            self.comment += default;
        }
    }
}

/// The macro of a line in another font, and what it sets.
fn font(line: &str) -> Option<(&str, &str)> {
    let fonts = [".B", ".I", ".BR", ".RB", ".IR", ".RI"];
    line.split_once(' ').filter(|(name, _)| fonts.contains(name))
}

/// A line of a page without its fonts.
fn plain(line: &str) -> String {
    let text = match font(line) {
        None => line.to_owned(),
        // Words in one font; words in two fonts in turn, with nothing between them.
        Some((name, words)) => {
            let mut parts = Vec::new();
            for (at, part) in words.split('"').enumerate() {
                match at % 2 {
                    1 => parts.push(part),
                    _ => parts.extend(part.split_whitespace()),
                }
            }
            parts.join(if name.len() == 2 { " " } else { "" })
        }
    };
    text.replace("\\(dq", "\"").replace("\\-", "-").replace("\\|", "")
}

/// A text in lines of at most so many characters, each behind `prefix`.
fn wrapped(text: &str, prefix: &str, width: usize) -> String {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(format!("{prefix}{word}")),
        }
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}
