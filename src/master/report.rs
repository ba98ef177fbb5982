//! What the master tells the log.
//!
//! The message of an event is a constant; all else is a field, so that it can
//! be selected by.
#![forbid(unsafe_code)]

use slog::{KV, Logger, Record, Serializer, crit, debug, error, info, warn};

use crate::log::limit::HeldBack;
use crate::pool::{Death, Event};
use crate::sys::wait::{Exit, signal_name};

use super::reload::Reloaded;

/// Something that the log is to tell.
#[derive(Debug)]
pub enum News {
    /// Something happened in a pool.
    Pool(Event),
    /// The phase has changed.
    Phase {
        /// The phase before.
        from: String,
        /// The phase now.
        to: String,
    },
    /// A listener was bound.
    Listening {
        /// The pool that it is for.
        pool: String,
        /// Its address, as the configuration writes it.
        address: String,
    },
    /// Every pool accepts, or has shown that it cannot.
    Ready {
        /// How many pools.
        pools: usize,
        /// How many workers they keep.
        workers: u32,
    },
    /// A changed configuration is in force.
    Reloaded(Reloaded),
    /// A changed configuration is not in force; nothing changed.
    ReloadFailed {
        /// Why.
        reason: String,
    },
    /// The daemon begins to stop.
    Stopping {
        /// What for.
        cause: &'static str,
    },
    /// What follows when workers do not leave in time.
    Escalating {
        /// What is done to them.
        step: &'static str,
        /// What for.
        cause: &'static str,
    },
    /// The pools were made larger or smaller by a signal.
    Scaled {
        /// How many workers all pools keep.
        workers: u32,
    },
    /// The log file was opened again.
    Reopened,
    /// Processes that were not ours and became our children have ended.
    Orphans {
        /// How many.
        count: u64,
    },
    /// fork failed; it is tried again.
    ForkFailed {
        /// Why.
        reason: String,
    },
    /// fork works again.
    ForkWorks {
        /// How often it had failed.
        failures: u64,
    },
    /// Log lines could not be written.
    LinesLost {
        /// How many.
        count: u64,
    },
    /// Something failed that the daemon survives.
    Trouble {
        /// What.
        what: String,
        /// Why.
        reason: String,
    },
    /// The daemon has stopped.
    Stopped {
        /// What for.
        cause: &'static str,
    },
    /// The daemon gives up.
    Failed {
        /// Why.
        reason: String,
    },
}

/// Writes news into the log.
pub fn tell(log: &Logger, news: News) {
    match news {
        News::Pool(event) => tell_of_pool(log, event),
        News::Phase { from, to } => debug!(log, "phase changed"; "from" => from, "to" => to),
        News::Listening { pool, address } => {
            info!(log, "listening"; "pool" => pool, "address" => address);
        }
        News::Ready { pools, workers } => {
            info!(log, "ready"; "pools" => pools, "workers" => workers)
        }
        News::Reloaded(Reloaded { generation, added, removed, renewed, resized }) => {
            info!(log, "reloaded";
            "generation" => generation, Names("added", added), Names("removed", removed),
            Names("renewed", renewed), Names("resized", resized))
        }
        News::ReloadFailed { reason } => error!(log, "reload failed"; "reason" => reason),
        News::Stopping { cause } => info!(log, "stopping"; "cause" => cause),
        News::Escalating { step, cause } => {
            warn!(log, "stopping faster"; "step" => step, "cause" => cause)
        }
        News::Scaled { workers } => info!(log, "scaled"; "workers" => workers),
        News::Reopened => info!(log, "log reopened"),
        News::Orphans { count } => debug!(log, "orphans reaped"; "count" => count),
        News::ForkFailed { reason } => error!(log, "could not start worker"; "reason" => reason),
        News::ForkWorks { failures } => info!(log, "workers start again"; "failures" => failures),
        News::LinesLost { count } => warn!(log, "log lines lost"; "count" => count),
        News::Trouble { what, reason } => warn!(log, "trouble"; "what" => what, "reason" => reason),
        News::Stopped { cause } => info!(log, "stopped"; "cause" => cause),
        News::Failed { reason } => crit!(log, "could not start"; "reason" => reason),
    }
}

fn tell_of_pool(log: &Logger, event: Event) {
    match event {
        Event::Started { pool, slot, pid, generation, held_back } => info!(log, "worker started";
            "pool" => pool, "slot" => slot, "pid" => pid.as_raw(), "generation" => generation,
            HeldBack(held_back)),
        Event::Ended(death) => tell_of_death(log, &death),
        Event::TimedOut { pool, slot, pid, elapsed, peer, held_back } => {
            warn!(log, "worker timed out";
            "pool" => pool, "slot" => slot, "pid" => pid.as_raw(),
            "elapsed_ms" => elapsed.as_millis() as u64, "peer" => peer, HeldBack(held_back))
        }
        Event::Throttled { pool, slot, deaths, delay, held_back } => {
            error!(log, "respawn throttled";
            "pool" => pool, "slot" => slot, "deaths" => deaths, "delay_ms" => delay.as_millis() as u64,
            HeldBack(held_back))
        }
    }
}

fn tell_of_death(log: &Logger, death: &Death) {
    let fields = slog::o!(
        "pool" => death.pool.clone(), "slot" => death.slot, "pid" => death.pid.as_raw(),
        "generation" => death.generation,
    );
    let log = log.new(fields);
    let used = slog::o!(
        "cause" => death.cause.as_str(), "uptime_ms" => death.uptime.as_millis() as u64,
        "served" => death.served, "cpu_ms" => death.usage.cpu.as_millis() as u64,
        "max_rss_kib" => death.usage.max_rss_kib, Reason(death.reason.clone()),
        HeldBack(death.held_back),
    );
    match death.exit {
        Exit::Code(code) if code == 0 && death.cause.is_wanted() => {
            info!(log, "worker exited"; "code" => code, used);
        }
        Exit::Code(code) => warn!(log, "worker exited"; "code" => code, used),
        Exit::Signal { number, core_dumped } if death.by_master => {
            warn!(log, "worker killed"; "signal" => signal_name(number), "core_dumped" => core_dumped, used);
        }
        Exit::Signal { number, core_dumped } => {
            error!(log, "worker killed"; "signal" => signal_name(number), "core_dumped" => core_dumped, used);
        }
    }
}

/// The field `reason`: the last words of a worker, where it left any.
struct Reason(Option<String>);

impl KV for Reason {
    fn serialize(&self, _: &Record<'_>, serializer: &mut dyn Serializer) -> slog::Result {
        match &self.0 {
            Some(reason) => serializer.emit_str("reason", reason),
            None => Ok(()),
        }
    }
}

/// A field with the names of pools, where there are any.
struct Names(&'static str, String);

impl KV for Names {
    fn serialize(&self, _: &Record<'_>, serializer: &mut dyn Serializer) -> slog::Result {
        if self.1.is_empty() { Ok(()) } else { serializer.emit_str(self.0, &self.1) }
    }
}
