//! What the observer is told: of each thing once the log has it.
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
    /// Every pool has accepted once; from then on reloads are told, too.
    Announced,
}

/// Something to be told.
#[derive(Debug)]
enum Word {
    Ready,
    PartlyReady(String),
}

impl<'a> Herald<'a> {
    /// The way to this observer, who knows nothing yet.
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

    /// At the start some pools accept, and these do not.
    pub fn warn(&mut self, warning: String) {
        self.owed.push(Word::PartlyReady(warning));
    }

    /// A reload was asked for.
    pub fn reloading(&mut self) {
        if self.is_ready() {
            self.observer.reloading();
        }
    }

    /// No reload is under way any more.
    pub fn reloaded(&mut self) {
        if self.is_ready() {
            self.owed.push(Word::Ready);
        }
    }

    /// The log has everything: tells what is owed.
    pub fn announce(&mut self) {
        for word in self.owed.drain(..) {
            match word {
                Word::Ready => self.observer.ready(),
                Word::PartlyReady(warning) => self.observer.partly_ready(&warning),
            }
        }
    }
}
