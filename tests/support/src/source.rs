//! Our own source, as tests of its form read it.
//!
//! This is no parser: it knows comments, literals and where a file's unit
//! tests begin, and nothing else of Rust.

use std::fs;
use std::path::{Path, PathBuf};

/// A file under `src/`, without its unit tests.
pub struct Source {
    /// Its path from `src/` on.
    pub path: String,
    /// All of it.
    pub text: String,
    /// Its code: every comment and every literal is replaced by blanks, so that
    /// lines and columns stay.
    pub code: String,
    /// Its string literals, each with the line where it begins.
    pub strings: Vec<(usize, String)>,
    /// Its comments, each with its line.
    pub comments: Vec<(usize, String)>,
}

impl Source {
    /// The part of the tree that it belongs to: `pool` for `pool/spawn.rs`.
    pub fn part(&self) -> &str {
        let first = self.path.split('/').next().unwrap_or_default();
        first.trim_end_matches(".rs")
    }

    /// The modules that it is in: `["pool", "spawn"]`.
    pub fn modules(&self) -> Vec<&str> {
        let path = self.path.trim_end_matches(".rs").trim_end_matches("/mod");
        match path {
            "lib" | "main" => Vec::new(),
            path => path.split('/').collect(),
        }
    }
}

/// Every file under `src/`, those of unit tests left out.
pub fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../src");
    let mut paths = Vec::new();
    walk(&root, &mut paths);
    paths.sort();
    let sources: Vec<_> = paths
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).expect("read a source");
            let relative = path.strip_prefix(&root).expect("a path below src");
            source(relative.display().to_string(), text)
        })
        .filter(|source| !source.modules().contains(&"tests"))
        .collect();
    assert!(sources.len() > 20, "only {} files in {}", sources.len(), root.display());
    sources
}

fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("list a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            walk(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

/// Takes a file apart.
pub fn source(path: String, text: String) -> Source {
    // A `mod tests;` among the other modules ends nothing.
    let end = text.find("\n#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    let text = text[..end].to_owned() + "\n";
    let mut source =
        Source { path, text, code: String::new(), strings: Vec::new(), comments: Vec::new() };
    take_apart(&mut source);
    source
}

fn take_apart(source: &mut Source) {
    let chars: Vec<char> = source.text.chars().collect();
    let Source { code, strings, comments, .. } = source;
    let mut line = 1;
    let mut at = 0;
    while at < chars.len() {
        let rest = &chars[at..];
        let (length, is_string) = match rest {
            ['/', '/', ..] => (rest.iter().take_while(|&&c| c != '\n').count(), false),
            ['"', ..] => (quoted(rest), true),
            ['r', '#' | '"', ..] if is_raw(&chars, at) => (raw(rest), true),
            // A character, and not a lifetime.
            ['\'', '\\', ..] => (quoted_by(rest, '\''), false),
            ['\'', _, '\'', ..] => (3, false),
            _ => (0, false),
        };
        if length == 0 {
            code.push(chars[at]);
            line += usize::from(chars[at] == '\n');
            at += 1;
            continue;
        }
        let token = &rest[..length];
        if is_string {
            strings.push((line, token.iter().collect()));
        } else if token.starts_with(&['/', '/']) {
            comments.push((line, token.iter().collect()));
        }
        // What is left of a string tells that there was one.
        let blanks: String = token.iter().map(|&c| if c == '\n' { '\n' } else { ' ' }).collect();
        code.push_str(&blanks);
        line += token.iter().filter(|&&c| c == '\n').count();
        at += length;
    }
}

/// The length of a literal in quotes.
fn quoted(text: &[char]) -> usize {
    quoted_by(text, '"')
}

fn quoted_by(text: &[char], quote: char) -> usize {
    let mut at = 1;
    while at < text.len() {
        match text[at] {
            '\\' => at += 2,
            c if c == quote => return at + 1,
            _ => at += 1,
        }
    }
    text.len()
}

/// Whether a raw string begins here, and not a name that ends with r.
fn is_raw(chars: &[char], at: usize) -> bool {
    let begins = at == 0 || !(chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
    let hashes = chars[at + 1..].iter().take_while(|&&c| c == '#').count();
    begins && chars.get(at + 1 + hashes) == Some(&'"')
}

fn raw(text: &[char]) -> usize {
    let hashes = text[1..].iter().take_while(|&&c| c == '#').count();
    let end: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    let body = hashes + 2;
    text[body..]
        .windows(end.len())
        .position(|window| window == end)
        .map_or(text.len(), |at| body + at + end.len())
}

/// What a literal says, with `\"` and the like resolved.
pub fn value(literal: &str) -> String {
    if let Some(body) = literal.strip_prefix('r') {
        let body = body.trim_matches('#');
        return body[1..body.len() - 1].to_owned();
    }
    let body = &literal[1..literal.len() - 1];
    body.replace("\\\"", "\"").replace("\\n", "\n").replace("\\\\", "\\")
}
