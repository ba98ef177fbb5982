//! The part of a log file that the journal gets, too: all that concerns the service
//! manager.
#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex};

use slog::{Level, Logger};

use crate::program;

use super::event::Event;
use super::journal::{self, Journal};
use super::root;
use super::sink::Kind;

/// The journal next to another log.
pub struct Mirror {
    /// Where the log is.
    kind: Option<Kind>,
    journal: Option<Logger>,
}

impl Mirror {
    /// A mirror without a log.
    pub fn new() -> Self {
        Mirror { kind: None, journal: None }
    }

    /// Follows the log to where it is now. The journal is needed only next to a file.
    pub fn follow(&mut self, kind: &Kind) {
        if self.kind.as_ref() == Some(kind) {
            return;
        }
        self.kind = Some(kind.clone());
        self.journal = matches!(kind, Kind::File(_)).then(journal_logger).flatten();
        let (version, log) = (program::this().version, kind.to_string());
        self.tell(&Event::LogElsewhere { version, log });
    }

    /// Tells an event, if it is one for the service manager.
    pub fn tell(&self, event: &Event) {
        if let Some(journal) = self.journal.as_ref().filter(|_| event.is_of_service()) {
            event.tell(journal);
        }
    }
}

/// Tells the journal of an event before there is a log. Says whether standard error leads
/// there.
pub fn tell_journal(event: &Event) -> bool {
    let journal = journal_logger();
    journal.iter().for_each(|journal| event.tell(journal));
    journal.is_some()
}

fn journal_logger() -> Option<Logger> {
    let target = journal::is_standard_error().then(journal::open)?.ok()?;
    Some(root(Mutex::new(Journal::new(Arc::new(target))), Level::Info))
}
