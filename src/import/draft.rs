//! A pool that is drafted, and how it is written.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::fmt::Write;
use std::path::Path;

use toml::Value;

use crate::config::{Problem, parse_text};

/// How many workers a pool has whose original has no limit.
const UNLIMITED: i64 = 32;

/// How wide a comment is.
const WIDTH: usize = 88;

/// What becomes of an entry of the original.
#[derive(Debug)]
pub enum Entry {
    /// A pool.
    Pool(Draft),
    /// Nothing, for this reason. The title says what it was, and where.
    Nothing { title: String, reason: String },
}

/// A pool that is drafted.
#[derive(Debug)]
pub struct Draft {
    /// What the service is called, and where it stands.
    title: String,
    name: String,
    listen: Vec<String>,
    keys: Vec<(String, Value)>,
    /// What a reader should know.
    notes: Vec<String>,
    /// Why it must not serve as it is.
    obstacles: Vec<String>,
}

impl Draft {
    /// A pool for the service `name` of the original, which stands at `place`.
    pub fn new(name: &str, place: &str) -> Self {
        Draft {
            title: format!("{place}: {name}"),
            name: pool_name(name),
            listen: Vec::new(),
            keys: Vec::new(),
            notes: Vec::new(),
            obstacles: Vec::new(),
        }
    }

    /// Adds an address.
    pub fn listen(&mut self, address: String) {
        self.listen.push(address);
    }

    /// Sets a key.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.keys.push((key.to_owned(), value.into()));
    }

    /// Sets the number of workers, if the original has a limit.
    pub fn workers(&mut self, most: Option<u32>) {
        self.set("workers", most.map_or(UNLIMITED, i64::from));
        if most.is_none() {
            self.note("The original has no limit. Further clients wait until a worker is free.");
        }
    }

    /// Sets the program, with its name and arguments as the original gives them.
    pub fn command(&mut self, program: &str, argv0: Option<&str>, arguments: &[&str]) {
        let words = [program].into_iter().chain(arguments.iter().copied());
        let words: Vec<Value> = words.map(Value::from).collect();
        self.set("service.exec.command", words);
        let base = program.rsplit('/').next();
        if let Some(name) = argv0.filter(|name| *name != program && Some(*name) != base) {
            self.set("service.exec.argv0", name);
        }
    }

    /// Sets a program of the original, which has the client as its standard error.
    pub fn server(&mut self, program: &str, argv0: Option<&str>, arguments: &[&str]) {
        self.command(program, argv0, arguments);
        self.set("service.exec.stderr", "socket");
    }

    /// A line for the reader.
    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// Keeps the pool from serving until somebody has looked at it.
    pub fn hold(&mut self, why: impl Into<String>) {
        self.obstacles.push(why.into());
    }
}

/// The text of all entries.
pub fn render(entries: Vec<Entry>) -> String {
    let (mut text, mut names, mut addresses) = (String::new(), HashSet::new(), HashSet::new());
    for entry in entries {
        text.push('\n');
        match entry {
            Entry::Nothing { title, reason } => {
                comment(&format!("{title}: no pool. {reason}"), &mut text);
            }
            Entry::Pool(mut draft) => {
                draft.name = unique(&draft.name, &mut names);
                for address in &draft.listen {
                    if !addresses.insert(address.clone()) {
                        draft.obstacles.push(format!("Another pool above listens on {address}."));
                    }
                }
                // What the original has may be no value here: its text is anybody's.
                if draft.obstacles.is_empty()
                    && let Err(problems) = parse_text(Path::new(""), &settings(&draft, ""))
                {
                    draft.obstacles.extend(problems.iter().map(told));
                }
                write_pool(&draft, &mut text);
            }
        }
    }
    text
}

fn write_pool(draft: &Draft, text: &mut String) {
    comment(&draft.title, text);
    for note in &draft.notes {
        comment(note, text);
    }
    for obstacle in &draft.obstacles {
        comment(&format!("Not in use as it is: {obstacle}"), text);
    }
    let before = if draft.obstacles.is_empty() { "" } else { "#" };
    text.push_str(&settings(draft, before));
}

fn told(problem: &Problem) -> String {
    match problem.key() {
        "" => problem.message().to_owned(),
        key => format!("{key}: {}", problem.message()),
    }
}

/// The table of a pool, with `before` before each line.
fn settings(draft: &Draft, before: &str) -> String {
    let listen = match &draft.listen[..] {
        [address] => Value::from(address.as_str()),
        several => Value::from(several.to_vec()),
    };
    let mut text =
        format!("{before}[pool.{}]\n{before}listen = {}\n", draft.name, one_line(&listen));
    for (key, value) in &draft.keys {
        let _ = writeln!(text, "{before}{key} = {}", one_line(value));
    }
    text
}

/// A value in one line, as a comment wants it.
fn one_line(value: &Value) -> String {
    match value {
        // toml writes a text with a line feed over several lines.
        Value::String(text) if text.contains(char::is_control) => {
            let clean: String = text.chars().filter(|c| !c.is_control()).collect();
            Value::from(clean).to_string()
        }
        Value::Array(items) => {
            format!("[{}]", items.iter().map(one_line).collect::<Vec<_>>().join(", "))
        }
        value => value.to_string(),
    }
}

/// Writes a comment. What the original has in it is not trusted to be one line.
fn comment(about: &str, text: &mut String) {
    let clean: String = about.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut line = String::from("#");
    for word in clean.split_whitespace() {
        if line.len() > 1 && line.chars().count() + 1 + word.chars().count() > WIDTH {
            let _ = writeln!(text, "{line}");
            line.truncate(1);
        }
        line.push(' ');
        line.push_str(word);
    }
    let _ = writeln!(text, "{line}");
}

/// A name that a pool may have, as near to this one as possible.
fn pool_name(name: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
    // Room for a number behind it.
    let name: String = name.chars().map(allowed).take(56).collect();
    match name.trim_matches('-') {
        "" => "service".to_owned(),
        name => name.to_owned(),
    }
}

fn unique(name: &str, taken: &mut HashSet<String>) -> String {
    let numbered = (2..).map(|number: u32| format!("{name}-{number}"));
    let free = [name.to_owned()].into_iter().chain(numbered).find(|name| !taken.contains(name));
    let free = free.unwrap_or_else(|| name.to_owned());
    taken.insert(free.clone());
    free
}
