//! The life of a settled worker: accept, serve, and again.
#![forbid(unsafe_code)]

use std::num::NonZeroU64;
use std::os::fd::AsFd;
use std::process::id;

use nix::errno::Errno;
use nix::poll::{PollTimeout, poll};
use slog::Level;

use crate::error::{Code, Error, reason};
use crate::ledger::OwnEntry;
use crate::log::event::Event;
use crate::log::rate::{HeldBack, Rate};
use crate::log::{losses, patience};
use crate::scoreboard::Leaving;
use crate::service::{Connection, Context, Failure, Outcome, Peer, Service, panic};
use crate::sys::clock::Moment;
use crate::sys::handler;

use super::access_log::{AccessLog, Visit};
use super::door::Door;
use super::hand::Hand;
use super::profile::Profile;
use super::quota;
use super::reception::Next;
use super::settle::Desk;

/// How long a worker waits when the machine has no resources for accept.
const SHORTAGE_PAUSE_MS: u8 = 100;

/// How many failures above debug are logged in ten seconds.
const FAILURES_LOGGED: u32 = 10;

/// Serves connections until the worker retires or has served its quota. Gives the service
/// back.
///
/// # Errors
///
/// The listener is broken, or the service panicked or reports that it cannot go on.
pub fn serve<'a>(
    desk: Desk<'a>,
    entry: Option<OwnEntry>,
    context: &Context<'_>,
) -> Result<&'a mut dyn Service, Error> {
    let Desk { profile, service, mut reception, page } = desk;
    let quota = quota_of(profile);
    let mut shortages = Rate::new(1);
    let mut door = Door::new(&profile.admission, entry, page);
    let mut failures = Rate::new(FAILURES_LOGGED);
    let mut hand = Hand::new(page);
    let mut access_log = profile.access_log.then(AccessLog::new);
    loop {
        if handler::retiring() {
            page.leave(if handler::log_lost() { Leaving::LogLost } else { Leaving::Asked });
            return Ok(service);
        }
        if quota.is_some_and(|quota| hand.served() >= quota) {
            page.leave(Leaving::Recycled);
            return Ok(service);
        }
        let (socket, peer) = match reception.next() {
            Next::Client(socket, peer) => (socket, peer),
            // The listeners were taken away between the test above and here.
            Next::Failed(_) if handler::retiring() => continue,
            Next::End => {
                page.leave(Leaving::Asked);
                return Ok(service);
            }
            Next::Failed(errno) => {
                match Refusal::of(errno) {
                    Refusal::Client => {}
                    Refusal::Shortage => {
                        if let Some(held_back) = shortages.admit(Moment::now()) {
                            let reason = reason(&errno.into());
                            Event::CouldNotAccept { reason, held_back }.tell(context.log());
                        }
                        // A signal ends the pause; the loop looks why.
                        let _ = poll(&mut [], PollTimeout::from(SHORTAGE_PAUSE_MS));
                    }
                    Refusal::Broken => {
                        return Err(Error::system("accept on listener", &errno.into()));
                    }
                }
                continue;
            }
        };
        if !door.admits(socket.as_fd(), peer, access_log.as_mut(), context) {
            continue;
        }
        let peer = peer.canonical();
        let in_hand = hand.take(socket.as_fd(), peer);
        let visit = access_log.as_mut().map(|log| log.open(peer, context));
        let connection = Connection::new(socket, peer, profile.idle_timeout)
            .with_account(door.entered(), visit.as_ref().map(Visit::record))
            .with_count(door.connections(peer));
        let outcome = panic::catch(|| service.serve(connection, context));
        if let Some((log, visit)) = access_log.as_mut().zip(visit) {
            log.close(visit, reason_of(&outcome), context);
        }
        match outcome {
            Ok(Outcome::Served) => {}
            Ok(Outcome::Failed(failure)) => tell_failure(&failure, peer, &mut failures, context),
            Ok(Outcome::Broken(reason)) => {
                return Err(Error::system("serve connection", &reason).with_code(Code::Os));
            }
            // The service's memory may be half changed.
            Err(reason) => {
                Event::ServicePanicked { reason }.tell(context.log());
                let message = "could not serve connection: the service panicked";
                return Err(Error::new(Code::Software, message));
            }
        }
        in_hand.finish();
        door.leave();
        patience::renew(patience::WORKER_MS);
        losses::tell(|count| Event::LogLinesLost { count }.tell(context.log()));
    }
}

/// Why a connection broke off, if it did.
fn reason_of(outcome: &Result<Outcome, String>) -> Option<String> {
    match outcome {
        Ok(Outcome::Served) => None,
        Ok(Outcome::Failed(failure)) => Some(failure.reason().to_string()),
        Ok(Outcome::Broken(error)) => Some(reason(error)),
        Err(panic) => Some(format!("the service panicked: {panic}")),
    }
}

/// Logs why a connection broke off. Above debug there is a bound, because a client may be
/// the cause.
fn tell_failure(failure: &Failure, peer: Peer, failures: &mut Rate, context: &Context<'_>) {
    let level = failure.level();
    let admitted = match level {
        Level::Debug | Level::Trace => Some(HeldBack::NONE),
        _ => failures.admit(Moment::now()),
    };
    if let Some(held_back) = admitted {
        let (peer, reason) = (peer.to_string(), failure.reason().to_string());
        Event::ConnectionFailed { level, peer, reason, held_back }.tell(context.log());
    }
}

fn quota_of(profile: &Profile) -> Option<u64> {
    let random = || Moment::now().as_nanos() ^ u64::from(id()).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let (most, jitter) = (profile.max_requests, profile.max_requests_jitter);
    NonZeroU64::new(most).map(|most| quota::jittered(most, jitter, random()))
}

/// Why accept gave no connection (accept(2)).
enum Refusal {
    /// The client is gone, or there was a signal: go on.
    Client,
    /// The process or the machine is short of something: wait a little.
    Shortage,
    /// The fault is permanent.
    Broken,
}

impl Refusal {
    fn of(errno: Errno) -> Refusal {
        match errno {
            Errno::EINTR
            | Errno::ECONNABORTED
            | Errno::EPERM
            | Errno::EPROTO
            | Errno::ENOPROTOOPT
            | Errno::ENETDOWN
            | Errno::EHOSTDOWN
            | Errno::ENONET
            | Errno::EHOSTUNREACH
            | Errno::EOPNOTSUPP
            | Errno::ENETUNREACH => Refusal::Client,
            Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM => Refusal::Shortage,
            _ => Refusal::Broken,
        }
    }
}
