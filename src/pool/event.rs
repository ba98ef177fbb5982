//! What happens to workers, as the log tells it.
#![forbid(unsafe_code)]

use std::time::Duration;

use nix::unistd::Pid;

use crate::sys::wait::{Exit, Usage};

use super::cause::Cause;

/// Something that happened in a pool.
#[derive(Debug)]
pub enum Event {
    /// A worker was forked.
    Started {
        /// The name of its pool.
        pool: String,
        /// Its place in the pool.
        slot: u32,
        /// Its pid.
        pid: Pid,
        /// The configuration epoch in which it was forked.
        generation: u64,
        /// How many such lines were held back.
        held_back: u64,
    },
    /// A worker ended.
    Ended(Death),
    /// A connection took too long.
    TimedOut {
        /// The name of the pool.
        pool: String,
        /// The place of the worker in it.
        slot: u32,
        /// The worker.
        pid: Pid,
        /// For how long it has had the connection.
        elapsed: Duration,
        /// The client.
        peer: String,
        /// How many such lines were held back.
        held_back: u64,
    },
    /// A slot waits before it is filled again.
    Throttled {
        /// The name of the pool.
        pool: String,
        /// The slot.
        slot: u32,
        /// How many of its workers in a row died young.
        deaths: u32,
        /// For how long it waits.
        delay: Duration,
        /// How many such lines were held back.
        held_back: u64,
    },
}

/// The end of a worker, explained.
#[derive(Debug)]
pub struct Death {
    /// The name of its pool.
    pub pool: String,
    /// Its place in the pool.
    pub slot: u32,
    /// Its pid.
    pub pid: Pid,
    /// The configuration epoch in which it was forked.
    pub generation: u64,
    /// How it ended.
    pub exit: Exit,
    /// Why.
    pub cause: Cause,
    /// Whether the master has killed it.
    pub by_master: bool,
    /// For how long it had lived.
    pub uptime: Duration,
    /// How many connections it says it has finished.
    pub served: u64,
    /// What it had used.
    pub usage: Usage,
    /// Its last words.
    pub reason: Option<String>,
    /// How many such lines were held back.
    pub held_back: u64,
}
