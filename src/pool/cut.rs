//! Connections that the master ends: their events, and the end of the processes that were
//! started for them.
#![forbid(unsafe_code)]

use nix::sys::signal::Signal;
use nix::unistd::{Pid, getpgid};

use crate::log::event::Event;
use crate::scoreboard::InHand;
use crate::sys::clock::Moment;
use crate::sys::family::{Family, Marks, children};

use super::Pool;
use super::worker::Worker;

/// What has to end with a worker.
pub struct Doomed {
    /// The program that its page names, which may be anything.
    pub program: Option<Pid>,
    /// Its connections that had not ended, or were ended by force.
    pub serials: Vec<u64>,
}

impl Pool {
    /// Whether its workers start processes, or those of an earlier generation do.
    pub fn runs_programs(&self) -> bool {
        self.generations().any(|it| it.blueprint.service.program().is_some())
            || self.workers.values().any(|worker| worker.program.is_some())
    }

    /// Ends the connections in hand, as when their time is over, so that their
    /// workers can leave and their programs are asked to.
    pub fn cut(&mut self, why: &str, now: Moment, events: &mut Vec<Event>) {
        let mut marks = Marks::default();
        for (pid, connection) in self.in_hand() {
            // First, for a program that has ended is no longer named by the page.
            if self.runs_program(pid) {
                self.tell_cut(pid, connection, why, now, events);
            }
            if let Some(worker) = self.workers.get(&pid) {
                cut(worker, connection, &mut marks);
                self.closing.cut.insert(pid);
            }
        }
    }

    /// Asks the programs of the connections in hand to end.
    pub fn ask_programs(&mut self, why: &str, now: Moment, events: &mut Vec<Event>) {
        let mut marks = Marks::default();
        for (pid, connection) in self.in_hand() {
            if !self.runs_program(pid) {
                continue;
            }
            let family = Family::of_connection(pid, connection.serial, &mut marks);
            if !family.is_empty() {
                self.tell_cut(pid, connection, why, now, events);
                // What we may not signal is killed with its worker.
                let _ = family.signal(Signal::SIGTERM, |_| true);
                self.closing.cut.insert(pid);
            }
        }
    }

    /// What has to end with this worker, if it is one of ours.
    pub fn doomed(&self, pid: Pid) -> Option<Doomed> {
        let worker = self.workers.get(&pid)?;
        let program = worker.seat.program();
        if program.is_none() && worker.program.is_none() {
            return None;
        }
        let in_hand = worker.seat.look().in_hand.map(|connection| connection.serial);
        let serials: Vec<_> = in_hand.into_iter().chain(worker.watch.alarmed()).collect();
        (program.is_some() || !serials.is_empty()).then_some(Doomed { program, serials })
    }

    /// Whether this worker runs programs, whatever the serving generation does.
    fn runs_program(&self, pid: Pid) -> bool {
        self.workers.get(&pid).is_some_and(|worker| worker.program.is_some())
    }

    fn in_hand(&self) -> Vec<(Pid, InHand)> {
        let workers = self.workers.iter();
        workers.filter_map(|(&pid, worker)| Some((pid, worker.seat.look().in_hand?))).collect()
    }

    fn tell_cut(
        &mut self,
        pid: Pid,
        connection: InHand,
        why: &str,
        now: Moment,
        events: &mut Vec<Event>,
    ) {
        let Some(held_back) = self.rates.cut(now) else { return };
        let Some(worker) = self.workers.get(&pid) else { return };
        let (pool, slot) = (self.name().to_owned(), worker.slot);
        let (pid, program) = who_serves(worker);
        let (peer, reason) = (worker.seat.peer().to_string(), why.to_owned());
        let elapsed_ms = now - connection.began;
        events.push(Event::ConnectionCut {
            pool,
            slot,
            pid,
            program,
            peer,
            elapsed_ms,
            reason,
            held_back,
        });
    }
}

/// Ends this connection, which the worker has in hand. If it runs a program, what was started
/// for the connection is asked to end; the worker does that for the program's process group.
pub fn cut(worker: &Worker, connection: InHand, marks: &mut Marks) {
    worker.cut(connection);
    if worker.program.is_some() {
        // A leftover that the worker has adopted may lead a group, too.
        let leader = worker.seat.program().filter(|pid| children(worker.pid).contains(pid));
        let has_left = |pid| leader.is_none() || getpgid(Some(pid)).ok() != leader;
        // What we may not signal is killed with its worker.
        let _ = Family::of_connection(worker.pid, connection.serial, marks)
            .signal(Signal::SIGTERM, has_left);
    }
}

/// Kills the processes that were started for a connection whose time is over. If the master
/// may not kill one, the log says so when its worker ends.
pub fn kill_rest(worker: Pid, serial: u64, marks: &mut Marks) {
    let _ = marks.kill_connection(worker, serial, None);
}

/// Who serves the connection of this worker: the program that its page names, if its service
/// runs one, or itself. It is for the log.
pub fn who_serves(worker: &Worker) -> (Pid, Option<String>) {
    match (worker.seat.program(), &worker.program) {
        (Some(pid), Some(program)) => (pid, Some(program.to_string())),
        _ => (worker.pid, None),
    }
}
