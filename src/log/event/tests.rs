//! The consequences of the table: the records, and the texts of the documents.
//!
//! `BLESS=1 cargo test --lib log::event` writes the list of events in preforkd(8).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Seek};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use slog::o;

use super::super::journal::{Subject, native_name};
use super::super::{json, level_name, root};
use super::*;
use crate::log::writer::LineWriter;

const MANUAL: &str = "packaging/man/preforkd.8";
const CATALOG: &str = "packaging/catalog/preforkd.catalog";

impl Entry {
    fn teller(&self) -> Teller {
        self.about.0
    }

    fn meaning(&self) -> String {
        self.about.1.trim().to_owned()
    }

    /// The fields that belong to this event alone.
    fn own_fields(&self) -> impl Iterator<Item = &'static str> {
        self.about.2.iter().copied().filter(|field| *field != "level")
    }

    /// All fields that its records may have, except `held_back`.
    fn fields(&self) -> Vec<&'static str> {
        let of_context: &[_] = match self.teller() {
            Teller::Master => &[],
            Teller::Worker => &["pool", "slot"],
        };
        let own = self.own_fields().filter(|field| *field != "held_back");
        of_context.iter().copied().chain(own).collect()
    }

    fn levels(&self, between: &str) -> String {
        self.levels.iter().map(|level| level_name(*level)).collect::<Vec<_>>().join(between)
    }

    fn native_fields(&self) -> BTreeSet<String> {
        let is_of_program = self.about.2.contains(&"program");
        let subject = if is_of_program { Subject::Program } else { Subject::Worker };
        let fields = self.fields().into_iter().chain(["held_back"]);
        fields.map(|field| native_name(field, subject)).collect()
    }
}

#[test]
fn the_table_is_sound() {
    for entry in TABLE {
        let message = entry.message;
        assert!(message.bytes().all(|byte| byte == b' ' || byte.is_ascii_lowercase()), "{message}");
        assert!(!message.starts_with(' ') && !message.ends_with(' '), "{message:?}");
        assert!(entry.id.len() == 32, "{message}");
        assert!(entry.id.bytes().all(|byte| b"0123456789abcdef".contains(&byte)), "{message}");
        assert!(entry.meaning().ends_with('.'), "{message}: a sentence");
        let chooses = entry.about.2.contains(&"level");
        assert_eq!(chooses, entry.levels.len() > 1, "{message}: several levels need a field");
    }
    let distinct = |of: fn(&Entry) -> &str| TABLE.iter().map(of).collect::<BTreeSet<_>>().len();
    assert_eq!(distinct(|entry| entry.message), TABLE.len(), "a message stands twice");
    assert_eq!(distinct(|entry| entry.id), TABLE.len(), "an id stands twice");
    assert!(is_id("e0fb4a7e16074d27bd3cdef9b994c7bc") && !is_id("") && !is_id("worker killed"));
}

#[test]
fn an_event_becomes_a_record_with_its_fields() {
    let mut file = tempfile::tempfile().unwrap();
    let target = Arc::new(OwnedFd::from(file.try_clone().unwrap()));
    let log = root(Mutex::new(json(LineWriter::new(target))), Level::Trace);
    let events = Event::samples();
    assert_eq!(events.len(), TABLE.len());
    for event in &events {
        match event.entry().teller() {
            Teller::Master => event.tell(&log),
            Teller::Worker => event.tell(&log.new(o!("pool" => "web", "slot" => 0))),
        }
    }
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    let records: Vec<_> = text.lines().collect();
    assert_eq!(records.len(), events.len(), "{text}");
    for (record, event) in records.into_iter().zip(events) {
        let entry = event.entry();
        let fields: BTreeMap<String, Value> = serde_json::from_str(record).expect(record);
        assert_eq!(fields["msg"], entry.message);
        assert_eq!(fields["level"], level_name(event.level()));
        let names: BTreeSet<_> = fields.keys().map(String::as_str).collect();
        let of_context = entry.fields().into_iter().chain(entry.own_fields());
        assert_eq!(
            names,
            ["ts", "level", "msg"].into_iter().chain(of_context).collect(),
            "{record}"
        );
    }
}

/// Collects the names of fields.
struct Names(Vec<slog::Key>);

impl slog::Serializer for Names {
    fn emit_arguments(&mut self, key: slog::Key, _: &std::fmt::Arguments<'_>) -> slog::Result {
        self.0.push(key);
        Ok(())
    }
}

fn names(event: &Event) -> Vec<slog::Key> {
    let mut names = Names(Vec::new());
    let emitted = event.with_fields(|fields| {
        fields.iter().try_for_each(|(name, field)| field.emit(name, &mut names))
    });
    emitted.unwrap();
    names.0
}

#[test]
fn what_is_none_is_left_out_and_a_level_can_be_chosen() {
    let stopped = Event::Stopped { cause: "SIGTERM", connections_cut: None };
    assert_eq!(names(&stopped), ["cause"]);
    let refused = Event::CouldNotAccept { reason: String::new(), held_back: HeldBack::NONE };
    assert_eq!(names(&refused), ["reason"]);
    for level in [Level::Debug, Level::Warning] {
        let exited = Event::ProgramExited {
            level,
            pid: Pid::this(),
            program: String::new(),
            code: 0,
            elapsed_ms: Duration::ZERO,
            peer: String::new(),
            held_back: HeldBack(1),
        };
        assert_eq!(exited.level(), level);
    }
}

#[test]
fn the_manual_lists_every_event() {
    let mut list = String::new();
    for entry in TABLE {
        list += &format!(".TP\n.B {}\n", entry.message);
        for sentence in entry.meaning().replace(". ", ".\n").lines() {
            list += &roff(sentence);
        }
        let levels = entry.levels(" or ");
        let levels = levels[..1].to_uppercase() + &levels[1..];
        list += &match entry.fields().as_slice() {
            [] => format!("{levels}.\n"),
            fields => format!("{levels}, with\n{}", roff_fields(fields)),
        };
    }
    expect_between(MANUAL, ".\\\" events: begin\n", ".\\\" events: end\n", &list);
}

#[test]
fn the_manual_explains_every_field() {
    let page = read(MANUAL);
    let fields = page.split_once("\n.SS Fields\n").expect("the fields").1;
    let fields = fields.split_once("\n.SH ").expect("the end of the fields").0;
    // The line after .TP has names, and in brackets those of the journal.
    let lines: Vec<_> = fields.lines().collect();
    let headings = lines.windows(2).filter(|pair| pair[0] == ".TP").map(|pair| pair[1]);
    let is_mark = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    let words = headings.flat_map(|heading| heading.split(is_mark).skip(2));
    let documented: BTreeSet<_> =
        words.filter(|word| !["", "or"].contains(word)).map(str::to_owned).collect();
    let mut wanted = BTreeSet::from(["held_back".to_owned()]);
    for entry in TABLE {
        wanted.extend(entry.fields().into_iter().map(str::to_owned));
        wanted.extend(entry.native_fields());
    }
    assert_eq!(documented, wanted, "in preforkd(8), in the table");
}

#[test]
fn the_catalog_explains_every_event() {
    let catalog = read(CATALOG);
    let mut explained = BTreeMap::new();
    for entry in catalog.split("# event: ").skip(1) {
        let (message, rest) = entry.split_once("\n-- ").expect("an id");
        let (id, text) = rest.split_once('\n').expect("a text");
        assert_eq!(explained.insert(message, (id, text)), None, "{message} stands twice");
    }
    let found: BTreeMap<_, _> =
        explained.iter().map(|(message, (id, _))| (*message, *id)).collect();
    let wanted = TABLE.iter().map(|entry| (entry.message, entry.id)).collect();
    assert_eq!(found, wanted, "in the catalog, in the table");
    for entry in TABLE {
        let (message, text) = (entry.message, explained[entry.message].1);
        assert!(text.starts_with("Subject: "), "{message}: no subject");
        assert!(text.contains("\nDefined-By: preforkd\nDocumentation: man:preforkd"), "{message}");
        let (_, explanation) = text.split_once("\n\n").expect(message);
        assert!(!explanation.trim().is_empty(), "{message}: no explanation");
        let fields = entry.native_fields();
        for field in text.split('@').skip(1).step_by(2) {
            assert!(fields.contains(field), "{message}: there is no field {field}");
        }
    }
}

// ---- the documents, as text --------------------------------------------------------

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Checks that a document has this text between two lines, or writes it there.
#[track_caller]
fn expect_between(name: &str, begin: &str, end: &str, text: &str) {
    let document = read(name);
    let (before, rest) = document.split_once(begin).expect(begin);
    let (_, after) = rest.split_once(end).expect(end);
    let wanted = [before, begin, text, end, after].concat();
    if std::env::var_os("BLESS").is_some() {
        fs::write(path(name), &wanted).expect("write it");
    } else {
        let hint = "BLESS=1 cargo test --lib log::event";
        assert!(document == wanted, "{name} does not list the events of the table: run {hint}");
    }
}

/// A sentence in lines of a manual page, with names in bold.
fn roff(sentence: &str) -> String {
    const WIDTH: usize = 72;
    let mut text = String::new();
    let mut width = 0;
    for word in sentence.split(' ') {
        let fits = width == 0 || width + 1 + word.len() <= WIDTH;
        text += if width == 0 {
            ""
        } else if fits {
            " "
        } else {
            "\n"
        };
        width = if fits { width + 1 + word.len() } else { word.len() };
        text += word;
    }
    let mut parts = text.replace('-', "\\-").split('`').map(str::to_owned).collect::<Vec<_>>();
    parts.iter_mut().skip(1).step_by(2).for_each(|name| *name = format!("\\fB{name}\\fR"));
    parts.concat() + "\n"
}

/// Names in bold, with commas between them: five a line.
fn roff_fields(fields: &[&str]) -> String {
    let last = fields.len() - 1;
    let mut text = String::new();
    for (index, field) in fields.iter().enumerate() {
        let begin = if index % 5 == 0 { ".BR " } else { "" };
        let mark = match last - index {
            0 => " .\n",
            1 if index % 5 == 4 => " \" and \"\n",
            1 => " \" and \" ",
            _ if index % 5 == 4 => " \", \"\n",
            _ => " \", \" ",
        };
        text = text + begin + field + mark;
    }
    text
}
