//! Forking workers.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;

use crate::scoreboard::Seat;
use crate::sys::clock::Moment;
use crate::sys::identity::Terminal;
use crate::worker::{self, Assignment, Entrance};

use super::generation::{Gate, Generation};
use super::inheritance::Inheritance;
use super::overdue::Watch;
use super::worker::{Place, Terms, Untold, Worker};

/// Forks the workers of these slots in a row. All writes for them happen before the first
/// fork and after the last. The workers are in order; a failure leaves out the last of
/// them.
pub fn spawn(
    generation: &mut Generation,
    slots: &[u32],
    inheritance: &mut Inheritance,
) -> (Vec<Worker>, io::Result<()>) {
    let inlets = generation.listeners.inlets();
    if inlets.is_empty() {
        return (Vec::new(), Err(io::Error::other("the pool has let go of its listeners")));
    }
    generation.blueprint.open_stderr(&inheritance.log);
    let (seats, taken) = inheritance.scoreboard.seats(slots.len());
    let (entries, entered) = match &generation.blueprint.ledger {
        Some(ledger) => ledger.entries(seats.len()),
        None => (Vec::new(), Ok(())),
    };
    let count = if generation.blueprint.ledger.is_some() { entries.len() } else { seats.len() };
    if generation.gate == Gate::Draining {
        seats.iter().for_each(Seat::drain);
    }
    let started = Moment::now();
    let terms = Terms::of(&generation.blueprint.config);
    let program: Option<Rc<str>> = generation.blueprint.service.program().map(Rc::from);
    let blueprint = &mut generation.blueprint;
    let terminal = Terminal::look();
    let kept = inheritance.kept(&inlets);
    let forked = blueprint.profile.fork_row(count, |place| {
        worker::run(Assignment {
            pool: &blueprint.config.name,
            slot: slots[place],
            profile: &blueprint.profile,
            service: &mut *blueprint.service,
            inlets: &inlets,
            entrance: match generation.gate {
                Gate::Open | Gate::Draining => Entrance::Open,
                Gate::Shut => Entrance::Shut,
            },
            dead: inheritance.dead.as_fd(),
            kept: &kept,
            ready: inheritance.arrivals.announcer(),
            stderr: blueprint.stderr.descriptor(),
            terminal,
            seat: &seats[place],
            entry: entries.get(place),
            log: &inheritance.log,
            log_number: inheritance.sink.number(),
            log_path: inheritance.sink.c_path(),
            master: inheritance.master,
        })
    });
    let children = match forked {
        Ok(children) => children,
        Err(error) => return (Vec::new(), Err(error)),
    };
    let mut entries = entries.into_iter();
    let workers =
        children.pids().iter().zip(slots).zip(seats).map(|((&pid, &slot), seat)| Worker {
            pid,
            slot,
            generation: generation.epoch,
            place: Place::Slot(generation.id),
            seat,
            _entry: entries.next(),
            started,
            asked: None,
            retirement: None,
            killed: false,
            suspended: None,
            watch: Watch::default(),
            terms,
            program: program.clone(),
            late: terms.start_timeout.map(|timeout| started + timeout),
            untold: Untold::No,
        });
    (workers.collect(), children.failure().map_or(taken.and(entered), Err))
}
