//! From the fork to the first accept, in numbered order.
#![forbid(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::resource::setrlimit;
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{chdir, getppid, setgroups, setresgid, setresuid};

use crate::error::{Code, Error};
use crate::log;
use crate::scoreboard::OwnPage;
use crate::service::{Service, panic};
use crate::sys::identity::{Privacy, set_nice, set_oom_score_adj, set_privacy};
use crate::sys::{descriptor, handler, identity, signal};

use super::profile::Profile;
use super::{Assignment, Entrance};

/// A worker that is ready to accept.
pub struct Desk<'a> {
    pub profile: &'a Profile,
    pub service: &'a mut dyn Service,
    pub listener: BorrowedFd<'a>,
    pub page: OwnPage,
}

/// Becomes what the assignment says.
///
/// The order matters: what needs root comes before the user is set, and what
/// the kernel forgets when the user changes comes after it.
pub fn settle<'a>(assignment: Assignment<'a>, page: OwnPage) -> Result<Desk<'a>, Error> {
    let profile = assignment.profile;

    // 1. Signals: ours in place of the master's, all still blocked.
    handler::install(&handler::Targets {
        listener: assignment.listener,
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
    identity::leave_terminal().map_err(|error| Error::system("leave terminal", &error))?;

    // 3. Descriptors: no other pool's listener, nothing that the master was
    // started with.
    if let Some(stderr) = assignment.stderr {
        descriptor::replace(stderr, 2)
            .map_err(|error| Error::system("set standard error", &error))?;
    }
    let [listener, dead, ready] =
        [assignment.listener, assignment.dead, assignment.ready].map(|fd| fd.as_raw_fd());
    descriptor::close_all_but(&mut [listener, dead, ready, assignment.log_number])
        .map_err(|error| Error::system("close descriptors", &error))?;

    // 4. Limits and priority, while they may still be raised.
    settle_limits(profile)?;

    // 5. The user, and what others of that user may see.
    settle_identity(profile)?;
    settle_privacy(profile)?;

    // 6. The directory, as that user.
    if let Some(directory) = &profile.working_directory {
        chdir(directory).map_err(|errno| {
            Error::system(format!("enter directory \"{}\"", directory.display()), &errno.into())
        })?;
    }

    // 7. The end of the master ends us. This comes after the user is set,
    // which clears it; and the master may have died before.
    prctl::set_pdeathsig(Signal::SIGTERM)
        .map_err(|errno| Error::system("follow the master", &errno.into()))?;
    if getppid() != assignment.master {
        return Err(Error::new(Code::Unavailable, "could not follow the master: it has gone"));
    }

    // 8. The service, which may use all of that. It may take for ever; SIGTERM
    // ends it meanwhile.
    signal::unblock(Signal::SIGTERM).map_err(|error| Error::system("unblock signals", &error))?;
    assignment
        .service
        .start()
        .map_err(|error| Error::system("start service", &error).with_code(Code::Unavailable))?;

    // 9. Signals may come from here on, and are handled with care.
    handler::begin_accepting();
    signal::unblock_all().map_err(|error| Error::system("unblock signals", &error))?;

    // 10. Tell the master that we accept, and give up the means to tell it
    // again: a worker gone wild must not keep it awake.
    page.accepting();
    nix::unistd::write(assignment.ready, &1u64.to_ne_bytes())
        .map_err(|errno| Error::system("report to the master", &errno.into()))?;
    descriptor::close_inherited(assignment.ready);

    // 10. Wait to be let in. SIGTERM, also that for the death of the master, ends the
    // wait as it ends an accept.
    if assignment.entrance == Entrance::Shut {
        signal::sleep_until(|| page.is_let_in() || handler::retiring())
            .map_err(|error| Error::system("wait for the commit", &error))?;
    }

    Ok(Desk { profile, service: assignment.service, listener: assignment.listener, page })
}

fn settle_limits(profile: &Profile) -> Result<(), Error> {
    for limit in &profile.limits {
        setrlimit(limit.resource, limit.soft, limit.hard).map_err(|errno| {
            Error::system(format!("set limit \"{}\"", limit.name), &errno.into())
        })?;
    }
    if let Some(nice) = profile.nice {
        set_nice(nice).map_err(|error| Error::system(format!("set nice \"{nice}\""), &error))?;
    }
    if let Some(score) = profile.oom_score_adj {
        set_oom_score_adj(score)
            .map_err(|error| Error::system(format!("set oom_score_adj \"{score}\""), &error))?;
    }
    if let Some(mask) = profile.umask {
        umask(Mode::from_bits_truncate(mask));
    }
    Ok(())
}

fn settle_identity(profile: &Profile) -> Result<(), Error> {
    let Some(identity) = &profile.identity else {
        return Ok(());
    };
    // The text is made only if it is needed: it would be memory of each worker.
    let failed = |what: &'static str| {
        move |errno: Errno| Error::system(format!("{what} \"{}\"", identity.name), &errno.into())
    };
    // All three ids of each kind, so that none is left to come back by.
    setgroups(&identity.groups).map_err(failed("set groups of user"))?;
    let (uid, gid) = (identity.uid, identity.gid);
    setresgid(gid, gid, gid).map_err(failed("set group of user"))?;
    setresuid(uid, uid, uid).map_err(failed("become user"))?;
    Ok(())
}

/// Closes the worker to other processes of its user, such as the programs of another
/// pool. A closed process dumps no core, so a limit for cores opens it.
fn settle_privacy(profile: &Profile) -> Result<(), Error> {
    let dumps_core = profile.limits.iter().any(|limit| limit.name == "core" && limit.soft > 0);
    let privacy = if dumps_core { Privacy::Open } else { Privacy::Closed };
    set_privacy(privacy).map_err(|error| Error::system("close the process to others", &error))
}
