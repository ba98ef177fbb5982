//! From the fork to the first accept, in numbered order.
#![forbid(unsafe_code)]

use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::getppid;

use crate::error::{Code, Error};
use crate::log;
use crate::scoreboard::OwnPage;
use crate::service::{Service, panic};
use crate::sys::{descriptor, handler, signal};

use super::profile::Profile;
use super::reception::Reception;
use super::{Assignment, Entrance, privileges};

/// A worker that is ready to accept.
pub struct Desk<'a> {
    pub profile: &'a Profile,
    pub service: &'a mut dyn Service,
    pub reception: Reception<'a>,
    pub page: OwnPage,
}

/// Becomes the worker of this assignment, and begins to work.
///
/// The order matters: a change of the user resets some settings, so these come after it.
pub fn settle<'a>(assignment: Assignment<'a>, page: OwnPage) -> Result<Desk<'a>, Error> {
    let profile = assignment.profile;

    // 1. Signals: ours in place of the master's, all still blocked.
    handler::install(handler::Targets {
        listeners: &mut assignment.listeners(),
        dead: assignment.dead,
        log: assignment.log_number,
        log_path: assignment.log_path,
        asked: page.asked(),
        draining: page.draining(),
        unused: page.unused(),
        overdue: page.overdue(),
        program: page.program(),
    })
    .map_err(|error| Error::system("set signal handlers", &error))?;
    panic::keep_panics();
    log::settle();

    // 2. No terminal: root's shell may be behind it.
    assignment.terminal.leave().map_err(|error| Error::system("leave terminal", &error))?;

    // 3. Descriptors: no other pool's listener, nothing that the master was
    // started with.
    if let Some(stderr) = assignment.stderr {
        descriptor::replace(stderr, 2)
            .map_err(|error| Error::system("set standard error", &error))?;
    }
    descriptor::close_all_but(assignment.kept)
        .map_err(|error| Error::system("close descriptors", &error))?;

    // 4. The settings of the pool.
    privileges::give_up(profile)?;

    // 5. The end of the master ends us. This comes after the user is set,
    // which clears it; and the master may have died before.
    prctl::set_pdeathsig(Signal::SIGTERM)
        .map_err(|errno| Error::system("follow the master", &errno.into()))?;
    if getppid() != assignment.master {
        return Err(Error::new(Code::Unavailable, "could not follow the master: it has gone"));
    }

    // 6. The service, which may use all of that. Its preparation may never end; SIGTERM
    //    ends it meanwhile.
    signal::unblock(Signal::SIGTERM).map_err(|error| Error::system("unblock signals", &error))?;
    assignment
        .service
        .start()
        .map_err(|error| Error::system("start service", &error).with_code(Code::Unavailable))?;

    // 7. Signals may come from here on, and are handled with care.
    handler::begin_accepting();
    signal::unblock_all().map_err(|error| Error::system("unblock signals", &error))?;

    // 8. Report to the master that we accept, and close the socket for that: a misbehaving
    //    worker must not keep the master awake.
    page.accepting();
    nix::unistd::write(assignment.ready, &1u64.to_ne_bytes())
        .map_err(|errno| Error::system("report to the master", &errno.into()))?;
    descriptor::close_inherited(assignment.ready);

    // 9. Wait to be let in. SIGTERM, also that for the death of the master, ends the
    // wait as it ends an accept.
    if assignment.entrance == Entrance::Shut {
        signal::sleep_until(|| page.is_let_in() || handler::retiring())
            .map_err(|error| Error::system("wait for the commit", &error))?;
    }

    Ok(Desk {
        profile,
        service: assignment.service,
        reception: Reception::new(assignment.inlets, page),
        page,
    })
}
