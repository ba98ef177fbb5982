//! Forking a worker.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::AsFd;

use crate::sys::clock::Moment;
use crate::sys::fork::Fork;
use crate::worker::{self, Assignment, Entrance};

use super::generation::{Gate, Generation};
use super::inheritance::Inheritance;
use super::overdue::Watch;
use super::worker::{Place, Terms, Untold, Worker};

/// Forks the worker of a slot.
///
/// # Errors
///
/// fork failed, or there is no page for it: there is no child.
pub fn spawn(
    generation: &mut Generation,
    slot: u32,
    inheritance: &mut Inheritance,
) -> io::Result<Worker> {
    // Borrowed: to count a reference would copy a page into each worker.
    let Some(listener) = generation.listener.as_ref() else {
        return Err(io::Error::other("the pool has let go of its listener"));
    };
    generation.blueprint.open_stderr(&inheritance.log);
    let seat = inheritance.scoreboard.seat()?;
    if generation.gate == Gate::Draining {
        seat.drain();
    }
    let started = Moment::now();
    let terms = Terms::of(&generation.blueprint.config);
    match generation.blueprint.profile.fork()? {
        Fork::Parent(pid) => Ok(Worker {
            pid,
            slot,
            generation: generation.epoch,
            place: Place::Slot(generation.id),
            seat,
            started,
            asked: None,
            retirement: None,
            killed: false,
            suspended: None,
            watch: Watch::default(),
            terms,
            untold: Untold::No,
        }),
        Fork::Child(newborn) => worker::run(
            newborn,
            Assignment {
                pool: &generation.blueprint.config.name,
                slot,
                profile: &generation.blueprint.profile,
                service: &mut *generation.blueprint.service,
                listener: listener.as_fd(),
                entrance: match generation.gate {
                    Gate::Open | Gate::Draining => Entrance::Open,
                    Gate::Shut => Entrance::Shut,
                },
                dead: inheritance.dead.as_fd(),
                ready: inheritance.arrivals.announcer(),
                stderr: generation.blueprint.stderr.descriptor(),
                seat: &seat,
                log: &inheritance.log,
                log_number: inheritance.sink.number(),
                log_path: inheritance.sink.c_path(),
                master: inheritance.master,
            },
        ),
    }
}
