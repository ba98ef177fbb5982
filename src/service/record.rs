//! The figures of a connection that has ended, for the access log.
#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex, PoisonError};

use nix::unistd::Pid;

use crate::sys::wait::Exit;

/// The figures of a connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Record {
    /// How many bytes the client has sent, where the kernel says it.
    pub received: Option<u64>,
    /// How many bytes were sent to the client, where the kernel says it.
    pub sent: Option<u64>,
    /// The program that has served it, and how that ended.
    pub program: Option<(Pid, Exit)>,
}

/// A record to which the connection writes, and which is read after its end.
#[derive(Clone, Debug, Default)]
pub struct SharedRecord(Arc<Mutex<Record>>);

impl SharedRecord {
    /// Changes it.
    pub fn change(&self, change: impl FnOnce(&mut Record)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// What it says now.
    pub fn read(&self) -> Record {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
