//! The end of a worker that leaves by itself.
#![forbid(unsafe_code)]

use std::time::Duration;

use nix::sys::signal::{SigEvent, SigevNotify, Signal};
use nix::sys::time::TimeSpec;
use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
use nix::time::ClockId;

use crate::error::{Code, Error};
use crate::scoreboard::OwnPage;
use crate::service::Service;
use crate::sys::clock::Moment;
use crate::sys::handler;

/// Lets the service end what it has begun, within `longest`. No other process would end a
/// worker that leaves because of its quota.
///
/// # Errors
///
/// The error of the service.
pub fn stop(service: &mut dyn Service, page: OwnPage, longest: Duration) -> Result<(), Error> {
    let failed = |error| Error::system("stop service", &error).with_code(Code::Unavailable);
    page.explain("could not stop service: it took longer than kill_timeout");
    let _timer = end_at(longest).map_err(|errno| failed(errno.into()))?;
    let stopped = service.stop().map_err(failed);
    page.unexplain();
    stopped
}

/// A timer that ends this process after `longest`.
fn end_at(longest: Duration) -> nix::Result<Timer> {
    handler::leave_at(Moment::now() + longest, Code::Unavailable as u8);
    let alarm = SigevNotify::SigevSignal { signal: Signal::SIGALRM, si_value: 0 };
    let mut timer = Timer::new(ClockId::CLOCK_MONOTONIC, SigEvent::new(alarm))?;
    timer.set(Expiration::OneShot(TimeSpec::from(longest)), TimerSetTimeFlags::empty())?;
    Ok(timer)
}
