//! The daemon's log in the format json, read while it is written.

use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Instant;

use serde_json::{Map, Value};

use super::PATIENCE;

/// One line of the log.
#[derive(Clone, Debug)]
pub struct Event {
    line: String,
    /// Empty if the line is no JSON object.
    fields: Map<String, Value>,
}

impl Event {
    pub fn parse(line: &str) -> Self {
        let fields = serde_json::from_str(line).unwrap_or_default();
        Event { line: line.to_owned(), fields }
    }

    pub fn message(&self) -> &str {
        self.text("msg").unwrap_or_default()
    }

    pub fn level(&self) -> &str {
        self.text("level").unwrap_or_default()
    }

    /// Whether an operator would be bothered: a warning or worse, or a line
    /// that is no event at all. That a pool runs as root is what the harness asks for.
    pub fn is_bad(&self) -> bool {
        let is_asked_for = self.message() == "pool runs as root";
        !is_asked_for && !matches!(self.level(), "trace" | "debug" | "info")
    }

    pub fn has(&self, field: &str) -> bool {
        self.fields.contains_key(field)
    }

    pub fn text(&self, field: &str) -> Option<&str> {
        self.fields.get(field)?.as_str()
    }

    /// A number; one above what fits is the highest that does.
    pub fn number(&self, field: &str) -> Option<i64> {
        let value = self.fields.get(field)?;
        value.as_i64().or_else(|| value.as_u64().map(|_| i64::MAX))
    }

    pub fn flag(&self, field: &str) -> Option<bool> {
        self.fields.get(field)?.as_bool()
    }

    pub fn pid(&self) -> i32 {
        self.number("pid").unwrap_or_default() as i32
    }

    pub fn is_of_pool(&self, pool: &str) -> bool {
        self.text("pool") == Some(pool)
    }

    /// Whether it tells the end of a worker.
    pub fn is_end(&self) -> bool {
        matches!(self.message(), "worker exited" | "worker killed")
    }

    /// The names of its fields, sorted.
    pub fn fields(&self) -> Vec<&str> {
        self.fields.keys().map(String::as_str).collect()
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

/// The events of a log file that nobody reads while it is written.
#[track_caller]
pub fn read_file(path: &Path) -> Vec<Event> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(Event::parse).collect()
}

/// The events that came so far.
#[derive(Clone)]
pub struct Log(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    news: Condvar,
}

#[derive(Default)]
struct State {
    events: Vec<Event>,
    is_closed: bool,
}

/// A place in the log: only what comes later counts.
#[derive(Clone, Copy, Debug)]
pub struct Mark(usize);

impl Log {
    /// A log without an event, and closed: of a daemon that logs elsewhere.
    pub fn none() -> Self {
        let state = State { events: Vec::new(), is_closed: true };
        Log(Arc::new(Shared { state: Mutex::new(state), news: Condvar::new() }))
    }

    /// Reads `source` in a thread of its own, until its end.
    pub fn follow(source: impl Read + Send + 'static) -> Self {
        let log = Log(Arc::new(Shared { state: Mutex::default(), news: Condvar::new() }));
        let shared = Arc::clone(&log.0);
        thread::spawn(move || {
            let mut lines = BufReader::new(source);
            let mut line = Vec::new();
            while lines.read_until(b'\n', &mut line).is_ok_and(|size| size > 0) {
                let text = String::from_utf8_lossy(&line);
                shared.lock().events.push(Event::parse(text.trim_end_matches('\n')));
                shared.news.notify_all();
                line.clear();
            }
            shared.lock().is_closed = true;
            shared.news.notify_all();
        });
        log
    }

    pub fn events(&self) -> Vec<Event> {
        self.0.lock().events.clone()
    }

    /// The beginning of the log.
    pub fn start(&self) -> Mark {
        Mark(0)
    }

    /// The end of the log as it is now.
    pub fn mark(&self) -> Mark {
        Mark(self.0.lock().events.len())
    }

    /// The events after `mark`.
    pub fn since(&self, mark: Mark) -> Vec<Event> {
        self.0.lock().events[mark.0..].to_vec()
    }

    /// Whether every process that could write to it has gone.
    pub fn is_closed(&self) -> bool {
        self.0.lock().is_closed
    }

    /// Waits for the first event with this message that `fits`.
    #[track_caller]
    pub fn wait_for(&self, message: &str, fits: impl FnMut(&Event) -> bool) -> Event {
        self.wait_since(Mark(0), message, fits)
    }

    /// Waits for the first one after `mark`.
    #[track_caller]
    pub fn wait_since(
        &self,
        mark: Mark,
        message: &str,
        mut fits: impl FnMut(&Event) -> bool,
    ) -> Event {
        self.wait(mark, message, |events| {
            events.iter().find(|event| event.message() == message && fits(event)).cloned()
        })
    }

    /// Waits until `count` events after `mark` fit.
    #[track_caller]
    pub fn wait_count(
        &self,
        mark: Mark,
        count: usize,
        what: &str,
        fits: impl Fn(&Event) -> bool,
    ) -> Vec<Event> {
        self.wait(mark, what, |events| {
            let found: Vec<_> = events.iter().filter(|event| fits(event)).cloned().collect();
            (found.len() >= count).then_some(found)
        })
    }

    /// Waits until `find` has an answer from the events after `mark`.
    #[track_caller]
    fn wait<T>(&self, mark: Mark, what: &str, mut find: impl FnMut(&[Event]) -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        let mut state = self.0.lock();
        loop {
            if let Some(answer) = find(&state.events[mark.0..]) {
                return answer;
            }
            assert!(!state.is_closed, "the log ended before this came: {what}");
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "waited {PATIENCE:?} in vain for the event: {what}");
            state = match self.0.news.wait_timeout(state, left) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }
}

impl Shared {
    /// A test that fails while it holds the lock still has to print the log.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
