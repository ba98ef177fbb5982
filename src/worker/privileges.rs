//! Giving up privileges: the limits, the user and the directory that the profile says.
#![forbid(unsafe_code)]

use nix::errno::Errno;
use nix::sys::resource::setrlimit;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{chdir, setgroups, setresgid, setresuid};

use crate::error::Error;
use crate::sys::identity::{Privacy, set_nice, set_oom_score_adj, set_privacy};

use super::profile::Profile;

/// Makes this process what the profile says.
///
/// The order matters: what needs root comes before the user is set.
pub fn give_up(profile: &Profile) -> Result<(), Error> {
    // 1. Limits and priority, while they may still be raised.
    settle_limits(profile)?;

    // 2. The user, and what others of that user may see.
    settle_identity(profile)?;
    settle_privacy(profile)?;

    // 3. The directory, as that user.
    if let Some(directory) = &profile.working_directory {
        chdir(directory).map_err(|errno| {
            Error::system(format!("enter directory \"{}\"", directory.display()), &errno.into())
        })?;
    }
    Ok(())
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
