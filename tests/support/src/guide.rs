//! Sessions on a terminal as the documents print them: commands, and what they say.

use regex_lite::Regex;

/// A command of a session, and the lines that the document prints below it.
#[derive(Debug, PartialEq)]
pub struct Step {
    pub command: String,
    pub said: Vec<String>,
}

/// The steps in the blocks of a document that are marked `console`. A line that begins
/// with `prompt` and a blank is a command; one that begins with `>` continues it.
pub fn steps(document: &str, prompt: &str) -> Vec<Step> {
    let prompt = format!("{prompt} ");
    let mut steps: Vec<Step> = Vec::new();
    for block in document.split("\n```console\n").skip(1) {
        for line in block.split("\n```").next().unwrap_or_default().lines() {
            let more = line.strip_prefix("> ").or((line == ">").then_some(""));
            match (line.strip_prefix(&prompt), more, steps.last_mut()) {
                (Some(command), _, _) => {
                    steps.push(Step { command: command.to_owned(), said: Vec::new() });
                }
                (None, Some(more), Some(step)) if step.said.is_empty() => {
                    step.command += &format!("\n{more}");
                }
                (None, _, Some(step)) => step.said.push(line.to_owned()),
                (None, _, None) => panic!("a block begins with {line:?}, not with {prompt:?}"),
            }
        }
    }
    steps
}

/// Lines without what differs from run to run: times, slots, process ids, figures, the port of
/// a client. In an order of their own, since workers tell the same things in any order.
pub fn comparable(lines: &[String]) -> Vec<String> {
    const VARYING: &str =
        "slot|pid|uptime_ms|served|cpu_ms|max_rss_kib|elapsed_ms|in_hand_ms|user|ts";
    let rules = [
        (r"\d{4}-\d\d-\d\dT[0-9:.]+Z".to_owned(), "TIME"),
        (format!(r"\b({VARYING}): [\w-]+"), "$1: _"),
        (format!(r#""({VARYING})":("[^"]*"|\d+)"#), "\"$1\":_"),
        (r"\bwith pid \d+".to_owned(), "with pid _"),
        (r"\b127\.0\.0\.1:[345]\d{4}\b".to_owned(), "127.0.0.1:_"),
    ];
    let rules = rules.map(|(pattern, to)| (Regex::new(&pattern).expect("a pattern"), to));
    let without = |line: &String| {
        let begin = line.trim_end().to_owned();
        rules.iter().fold(begin, |line, (rule, to)| rule.replace_all(&line, *to).into_owned())
    };
    let mut lines: Vec<_> = lines.iter().map(without).collect();
    lines.sort();
    lines
}
