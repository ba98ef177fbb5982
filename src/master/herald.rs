//! Messages to the observer. Each is sent once the log has its event.
#![forbid(unsafe_code)]

use super::observer::Observer;

/// The way to the observer.
pub struct Herald<'a> {
    pub observer: &'a mut dyn Observer,
    readiness: Readiness,
    owed: Vec<Word>,
}

/// Whether the observer knows that the daemon is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Readiness {
    /// Some pool has not accepted yet.
    Pending,
    /// Every pool has accepted once. From then on reloads are announced, too.
    Announced,
}

/// A message to the observer.
#[derive(Debug)]
enum Word {
    Ready,
    PartlyReady(String),
}

impl<'a> Herald<'a> {
    /// The way to this observer, to whom nothing was sent yet.
    pub fn new(observer: &'a mut dyn Observer) -> Self {
        Herald { observer, readiness: Readiness::Pending, owed: Vec::new() }
    }

    /// Whether every pool has accepted once.
    pub fn is_ready(&self) -> bool {
        self.readiness == Readiness::Announced
    }

    /// Every pool accepts for the first time.
    pub fn begin(&mut self) {
        self.readiness = Readiness::Announced;
        self.owed.push(Word::Ready);
    }

    /// At the start, some pools accept and others do not.
    pub fn warn(&mut self, warning: String) {
        self.owed.push(Word::PartlyReady(warning));
    }

    /// A reload was asked for.
    pub fn reloading(&mut self) {
        if self.is_ready() {
            self.observer.reloading();
        }
    }

    /// The last reload under way has ended.
    pub fn reloaded(&mut self) {
        if self.is_ready() {
            self.owed.push(Word::Ready);
        }
    }

    /// Sends the messages that are due, after the log has everything.
    pub fn announce(&mut self) {
        for word in self.owed.drain(..) {
            match word {
                Word::Ready => self.observer.ready(),
                Word::PartlyReady(warning) => self.observer.partly_ready(&warning),
            }
        }
    }
}
