//! Reload, as a transaction: all that can fail first is planned; then what is new is
//! tried; then all is put in force, or nothing.
#![forbid(unsafe_code)]

use crate::accounts;
use crate::config::{self, Config};
use crate::error::{Code, Error};
use crate::log::event::Event;
use crate::log::sink::Kind;
use crate::pool::{Asked, Pool};
use crate::request::Reply;
use crate::sys::clock::Moment;
use crate::sys::unshared::Unshared;

use super::Master;
use super::condition::{self, could_not_start};
use super::plan::{self, Plan};
use super::rollout::{Reloaded, Rollout, Stage, Target, stage};
use super::scout::Findings;

/// How a reload has ended.
type Ended = Result<Reloaded, Error>;

impl Master<'_> {
    /// Begins a reload: its files are read first.
    pub(super) fn reload(&mut self, now: Moment) {
        self.herald.reloading();
        self.pools.iter_mut().for_each(Pool::suspect);
        let number = self.answers.ask();
        if let Some(earlier) = self.scouts.request() {
            // That one ends here. Should this one be refused, nobody else would tell.
            self.control.expect_instead(earlier, number);
        }
        self.scaled = 0;
        if let Err(error) = self.scouts.send(number, &self.file, &self.services, &self.pools, now) {
            self.refuse_reload(number, error);
        }
    }

    /// Goes on with a reload whose files are read, or refuses it.
    pub(super) fn hear_scout(&mut self, now: Moment) {
        let Some((number, found)) = self.scouts.hear(now) else { return };
        if let Err(error) = found.and_then(|found| self.begin_reload(number, found, now)) {
            self.refuse_reload(number, error);
        }
    }

    fn refuse_reload(&mut self, number: u64, error: Error) {
        self.answers.refuse(number, Reply::from(&error));
        self.tell_reload(Err(error));
    }

    fn begin_reload(&mut self, number: u64, found: Findings, now: Moment) -> Result<(), Error> {
        let Findings { gathered, accounts } = found;
        accounts::remember(accounts);
        let mut config = config::parse(gathered)?;
        plan::number_ports(&mut config)?;
        self.check_control(&config)?;
        // The part that stays while workers are forked holds no secret.
        let sealed = config
            .sealed(Unshared::copy_of)
            .map_err(|error| Error::system("keep configuration", &error))?;
        if let Some(rollout) = self.rollout.as_mut().filter(|rollout| rollout.is_for(&sealed)) {
            rollout.number = number;
            return Ok(());
        }
        // The log is what it will be once the trial that gives way is undone.
        let log = match &self.rollout {
            Some(rollout) => Kind::of(rollout.log_before()),
            None => self.inheritance.sink.kind().clone(),
        };
        let plan = Plan::make(config, &self.services, &self.pools, &self.inherited, Some(&log))?;
        // From here on nothing can fail.
        self.undo_reload(now);
        self.rollout = Some(Rollout::begin(number, sealed, plan, &mut self.target(), now));
        self.keep_listeners();
        Ok(())
    }

    fn check_control(&self, config: &Config) -> Result<(), Error> {
        if config.daemon.control == self.daemon.control {
            return Ok(());
        }
        // `preforkd reload` would wait for its answer at the new path.
        let place = self.daemon.control.display();
        let message =
            format!("could not move control socket \"{place}\": it stays while the daemon runs");
        let hint = "restart the daemon, or take the change of [daemon].control back";
        Err(Error::new(Code::Config, message).with_hint(hint))
    }

    /// Ends a reload, once its pools have shown how they stand.
    pub(super) fn advance_reload(&mut self, now: Moment) {
        if self.rollout.is_none() {
            return;
        }
        let tried = self.pools.iter().filter_map(|pool| Some((pool.name(), pool.trial()?)));
        let ended = match stage(tried) {
            Stage::Trying => return,
            Stage::Committed => self.commit_reload(now),
            Stage::Undone { failed } => {
                let pools =
                    self.pools.iter().filter(|pool| failed.iter().any(|it| it == pool.name()));
                let reasons: Vec<_> = pools.map(could_not_start).collect();
                let number = self.undo_reload(now);
                let error = Error::new(Code::Unavailable, reasons.join("; "));
                number.map(|number| (number, Err(error)))
            }
        };
        let Some((number, ended)) = ended else { return };
        self.keep_listeners();
        let reply = match &ended {
            Ok(reloaded) => Reply::done(self.with_warnings(reloaded)),
            Err(error) => Reply::from(error),
        };
        self.answers.end(number, reply);
        let is_done = ended.is_ok();
        self.tell_reload(ended);
        if is_done {
            self.news.extend(condition::down_events(&self.pools));
        }
    }

    /// What to answer to a reload that is done: it may have left a pool without workers.
    fn with_warnings(&self, reloaded: &Reloaded) -> String {
        let down = condition::down(&self.pools);
        down.fold(reloaded.to_string(), |told, pool| format!("{told}\nwarning: {pool}"))
    }

    fn commit_reload(&mut self, now: Moment) -> Option<(u64, Ended)> {
        let rollout = self.rollout.take()?;
        let number = rollout.number;
        let (gone, reloaded) = rollout.commit(&mut self.target(), now);
        self.remove(gone, now);
        Some((number, Ok(reloaded)))
    }

    /// Takes back what a reload tries, and gives its number.
    pub(super) fn undo_reload(&mut self, now: Moment) -> Option<u64> {
        let rollout = self.rollout.take()?;
        let number = rollout.number;
        let gone = rollout.undo(&mut self.target(), now);
        self.remove(gone, now);
        Some(number)
    }

    fn remove(&mut self, mut pools: Vec<Pool>, now: Moment) {
        pools.iter_mut().for_each(|pool| pool.close(Asked::Retire, now));
        self.removed.append(&mut pools);
    }

    /// Tells everybody how a reload has ended.
    fn tell_reload(&mut self, ended: Ended) {
        self.news.push(match ended {
            Ok(reloaded) => reloaded.told(),
            Err(error) => Event::ReloadFailed { reason: error.to_string() },
        });
        // A reload that began before the refusal of this one is still under way, and a
        // newer one may have been asked for.
        if self.rollout.is_none() && !self.scouts.is_out() {
            self.herald.reloaded();
        }
    }

    fn target(&mut self) -> Target<'_> {
        Target {
            pools: &mut self.pools,
            daemon: &mut self.daemon,
            log: &mut self.log,
            inheritance: &mut self.inheritance,
            epoch: &mut self.epoch,
            scaled: self.scaled,
            news: &mut self.news,
        }
    }
}
