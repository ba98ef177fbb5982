//! The grammar of xinetd.conf: blocks of attributes.
#![forbid(unsafe_code)]

use std::ops::Range;

use crate::config::{Problem, Source};

/// `service NAME { ... }` or `defaults { ... }`.
#[derive(Debug)]
pub struct Block {
    /// The name of the service; None for the defaults.
    pub service: Option<String>,
    /// The file and the line in which it begins.
    pub place: String,
    pub attributes: Vec<Attribute>,
}

/// `name = value ...`, and `+=` and `-=`.
#[derive(Debug)]
pub struct Attribute {
    pub name: String,
    pub change: Change,
    pub values: Vec<String>,
}

/// What an attribute does to the values that are there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Set,
    Add,
    Remove,
}

/// A file or a folder to read as well.
pub struct Include(pub String);

/// Whether a file is one of xinetd: its first word of all begins a block or includes a file.
pub fn is_of_xinetd(text: &str) -> bool {
    let first = lines(text).map(|(_, line)| line).next().unwrap_or_default();
    let mut words = first.split_whitespace();
    matches!(
        (words.next().unwrap_or_default(), words.next(), words.next()),
        ("defaults" | "defaults{", None | Some("{"), None)
            | ("service", Some(_), None | Some("{"))
            | ("include" | "includedir", Some(_), None)
    )
}

/// What a file includes.
pub fn includes(text: &str) -> Vec<Include> {
    if !is_of_xinetd(text) {
        return Vec::new();
    }
    let included = |(_, line): (usize, &str)| {
        let mut words = line.split_whitespace();
        let is_include = matches!(words.next(), Some("include" | "includedir"));
        words.next().filter(|_| is_include).map(|path| Include(path.to_owned()))
    };
    lines(text).filter_map(included).collect()
}

/// The lines that say something, trimmed, each with the byte at which it begins.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut at = 0;
    text.split_inclusive('\n').filter_map(move |line| {
        let begins = at + (line.len() - line.trim_start().len());
        at += line.len();
        let line = line.trim();
        (!line.is_empty() && !line.starts_with('#')).then_some((begins, line))
    })
}

/// The blocks of a file; adds to `problems` what cannot be understood.
pub fn parse(source: &Source, problems: &mut Vec<Problem>) -> Vec<Block> {
    let mut parser = Parser { source, problems, blocks: Vec::new(), state: State::Outside };
    for (at, line) in lines(source.text()) {
        parser.take(line, at..at + line.len());
    }
    parser.finish()
}

struct Parser<'a> {
    source: &'a Source,
    problems: &'a mut Vec<Problem>,
    blocks: Vec<Block>,
    state: State,
}

enum State {
    Outside,
    /// The head of a block was read, and its brace comes next.
    Head(Block, Range<usize>),
    Inside(Block, Range<usize>),
}

impl Parser<'_> {
    fn take(&mut self, line: &str, at: Range<usize>) {
        self.state = match std::mem::replace(&mut self.state, State::Outside) {
            State::Outside => self.outside(line, at),
            State::Head(block, head) if line == "{" => State::Inside(block, head),
            State::Head(_, head) => {
                self.problem(head, "no line with { follows this one");
                self.outside(line, at)
            }
            State::Inside(block, _) if line == "}" => {
                self.blocks.push(block);
                State::Outside
            }
            State::Inside(mut block, head) => {
                match attribute(line) {
                    Some(attribute) => block.attributes.push(attribute),
                    None => self.problem(at, "this is no attribute: name = value"),
                }
                State::Inside(block, head)
            }
        };
    }

    fn outside(&mut self, line: &str, at: Range<usize>) -> State {
        let (head, brace) = match line.strip_suffix('{') {
            Some(head) => (head.trim_end(), true),
            None => (line, false),
        };
        let words: Vec<_> = head.split_whitespace().collect();
        let service = match words[..] {
            ["defaults"] => None,
            ["service", name] => Some(name.to_owned()),
            ["include" | "includedir", _] => return State::Outside,
            _ => {
                self.problem(at, "this begins no block: \"service NAME\" or \"defaults\"");
                return State::Outside;
            }
        };
        let line = self.source.line(at.start);
        let place = format!("{}:{line}", self.source.path().display());
        let block = Block { service, place, attributes: Vec::new() };
        if brace { State::Inside(block, at) } else { State::Head(block, at) }
    }

    fn finish(mut self) -> Vec<Block> {
        match std::mem::replace(&mut self.state, State::Outside) {
            State::Outside => {}
            State::Head(_, at) => self.problem(at, "no line with { follows this one"),
            State::Inside(_, at) => self.problem(at, "this block has no }"),
        }
        self.blocks
    }

    fn problem(&mut self, at: Range<usize>, message: &str) {
        self.problems.push(self.source.problem("", at, message));
    }
}

fn attribute(line: &str) -> Option<Attribute> {
    let (name, values) = line.split_once('=')?;
    let (name, change) = match name.trim_end() {
        name if name.ends_with('+') => (&name[..name.len() - 1], Change::Add),
        name if name.ends_with('-') => (&name[..name.len() - 1], Change::Remove),
        name => (name, Change::Set),
    };
    let name = name.trim_end();
    if name.is_empty() || name.contains(char::is_whitespace) {
        return None;
    }
    let values = values.split_whitespace().map(str::to_owned).collect();
    Some(Attribute { name: name.to_owned(), change, values })
}
