//! The events of the daemon, in one table: the message of each, its level, its id in the
//! journal's catalog, and its fields.
//!
//! A new event is one entry here. The tests then demand its texts in the catalog and in
//! preforkd(8).
#![forbid(unsafe_code)]

use std::time::Duration;

use nix::unistd::Pid;
use slog::{BorrowedKV, Drain, KV, Level, Logger, Record, RecordLocation, RecordStatic};

use super::field::Field;
use super::rate::HeldBack;

/// The constant part of all events of a kind.
#[derive(Debug)]
struct Entry {
    /// The name of the event, wherever it is logged.
    message: &'static str,
    /// The levels of the event. If there are several, the event has the field `level`.
    levels: &'static [Level],
    /// The id of its entry in the catalog (MESSAGE_ID). The meaning of an id never changes.
    id: &'static str,
    /// Who logs the event, its meaning and its fields, for the documents.
    #[cfg(test)]
    about: (Teller, &'static str, &'static [&'static str]),
}

/// Who logs an event.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Teller {
    Master,
    /// Its log adds the fields `pool` and `slot`.
    Worker,
}

/// An event is `Variant = "message", Level, "id" { field: type, … }`. The comment
/// above it goes into preforkd(8).
macro_rules! events {
    ($($teller:ident tells { $(
        $(#[doc = $about:literal])+
        $event:ident = $message:literal, $($level:ident)|+, $id:literal {
            $($field:ident: $kind:ty),* $(,)?
        }
    )* })*) => {
        /// An event for the log.
        #[derive(Debug)]
        pub enum Event {
            $($($(#[doc = $about])+ $event { $($field: $kind),* },)*)*
        }

        /// The kinds of events, in the order of the table.
        #[derive(Clone, Copy)]
        enum Kind {
            $($($event,)*)*
        }

        const TABLE: &[Entry] = &[$($(Entry {
            message: $message,
            levels: &[$(Level::$level),+],
            id: $id,
            #[cfg(test)]
            about: (Teller::$teller, concat!($($about),+), &[$(stringify!($field)),*]),
        },)*)*];

        impl Event {
            fn kind(&self) -> Kind {
                match self {
                    $($(Event::$event { .. } => Kind::$event,)*)*
                }
            }

            /// Hands the names and values of the fields to `take`.
            fn with_fields<R>(&self, take: impl FnOnce(&[(&'static str, &dyn Field)]) -> R) -> R {
                match self {
                    $($(Event::$event { $($field),* } => {
                        take(&[$((stringify!($field), $field)),*])
                    })*)*
                }
            }

            /// An event of each kind, with some values.
            #[cfg(test)]
            fn samples() -> Vec<Event> {
                vec![$($(Event::$event { $($field: <$kind as Field>::sample()),* }),*),*]
            }
        }
    };
}

events! {
Master tells {
    /// A listening socket was bound, or taken over from the service manager. Its pool
    /// runs as `user`. `socket` is the name of a socket that a socket unit has made.
    Listening = "listening", Info, "09979e0bb28e4323bf2fe52da568d773" {
        pool: String, address: String, user: String, socket: Option<String>,
    }
    /// The daemon begins to log to a file. The journal alone has this line, and the lines
    /// about the start, the reloads and the stop of the service.
    LogElsewhere = "logging to file", Info, "ec4e8755e8ed4a1d9d76fbfe4517d6ea" {
        version: &'static str, log: String,
    }
    /// The pools accept connections. A pool whose workers could not start is not counted.
    Ready = "ready", Info, "0f93e52066db4b119a6aadaf77420b3d" {
        pools: usize, workers: u32,
    }
    /// A changed configuration is in force.
    Reloaded = "reloaded", Info, "e4eb9cc716a343a4803bc35efae2bd64" {
        generation: u64, added: Option<String>, removed: Option<String>,
        renewed: Option<String>, resized: Option<String>, unchanged: Option<&'static str>,
    }
    /// What a reload has made of a pool, and how many workers the pool keeps now.
    PoolReloaded = "pool reloaded", Info, "1329be414a214f71a6fecbac3cb8fdcc" {
        pool: String, change: &'static str, workers: u32,
    }
    /// A changed configuration was refused, and nothing changed.
    ReloadFailed = "reload failed", Error, "50361e2685c54c54ad3e52b64941c8b3" {
        reason: String,
    }
    /// A reload is done, and this pool has no worker that lives. The reason is that of the
    /// last death.
    PoolDown = "pool down", Warning, "51d0a116e44848378a1e2292fd076e09" {
        pool: String, reason: String,
    }
    /// A pool has had all the processes that `max_workers` allows for longer than
    /// `kill_timeout`. Its new workers start as the old ones leave.
    ReloadHeldBack = "reload held back", Warning, "16c66de92bb170fe1c2b6b020809372a" {
        pool: String, max_workers: u32, workers: u32,
    }
    /// `SIGTTIN` or `SIGTTOU` came. All pools together now keep this many workers.
    Scaled = "scaled", Info, "fa2d02ca5e7340e38099eab1d58b4931" {
        workers: u32,
    }
    /// After `SIGUSR1`, the daemon opened the log file or connected to the journal again.
    /// If the log is standard error, there is no such line.
    LogReopened = "log reopened", Info, "0c03b3be6c904cd7ab3dcc60b45a2c78" {}
    /// The daemon begins to stop.
    Stopping = "stopping", Info, "f4c69ad44e1d4e29a5a0d14921161920" {
        cause: &'static str,
    }
    /// Workers did not leave in time, or a second signal came. Connections are cut.
    StopEscalated = "stop escalated", Warning, "27df531d95734ce7a74f7982bed056b9" {
        step: &'static str, cause: &'static str,
    }
    /// The daemon has stopped.
    Stopped = "stopped", Info, "00b77a5a0c624c7881256422f5bbc35e" {
        cause: &'static str, connections_cut: Option<u64>,
    }
    /// The daemon could not start, and ends: no pool could start its workers, or the
    /// configuration cannot be applied.
    CouldNotStart = "could not start", Critical, "fb617930ed974422bc0cdf2d88593b5f" {
        reason: String,
    }
    /// Lines could not be written, because a disk is full or a reader is gone. If a worker
    /// lost the lines, `pool` and `slot` name the worker.
    LogLinesLost = "log lines lost", Warning, "e6d7df01308f4fc9a04d389d2a1ed2a4" {
        count: u64,
    }
    /// The daemon stops, and what programs have left running was asked to end. What is left
    /// of it at the end of `stop_timeout` is killed.
    LeftoversAsked = "leftovers asked to end", Info, "94ba780934054a24b48aa05b1f121a05" {
        count: usize,
    }
    /// Processes that programs had left running did not end in time, and were killed.
    LeftoversKilled = "leftovers killed", Warning, "67437cf72dd74ccca8e6decbd65b2742" {
        count: usize,
    }
    /// The daemon stops, and may not end what a program has left running, because that has
    /// changed its user and the daemon is not root.
    CouldNotEndLeftovers = "could not end leftovers", Warning, "855aee2ee0174d0999e8e031da7b8308" {
        reason: String,
    }
    /// The master reaped processes that it did not start: what programs had left running, or
    /// anything if it is PID 1.
    OrphansReaped = "orphans reaped", Debug, "97b6177375a1405288f4a5ecdc75b98d" {
        count: u64,
    }
    /// The master's life has reached another phase.
    PhaseChanged = "phase changed", Debug, "25032b36945f4c65b28214b2f1e72f54" {
        from: String, to: String,
    }
    /// There is no control socket. The daemon serves, and `preforkd reload` cannot reach it.
    CouldNotTakeCommands = "could not take commands", Warning, "a8515d33319f34bc613bf7e49bf83a1f" {
        reason: String,
    }
    /// The directory of the default control socket is missing. The daemon serves, and
    /// `preforkd reload` cannot reach it.
    NoControlSocket = "no control socket", Info, "b4960d99f6cb40e69907f9e8a12d7693" {
        socket: String, reason: String,
    }
    /// Pools stand in a file next to the included files, and no pattern of `include` matches
    /// its name.
    FileNotIncluded = "file not included", Warning, "d66019cbea874a549d78c07efda70a1d" {
        file: String, reason: String,
    }
    /// `SIGUSR1` came, and the log file could not be opened. The old file stays in use.
    CouldNotReopenLog = "could not reopen log", Warning, "6f13a0d55b3c79144395268caf38cc50" {
        reason: String,
    }
    /// The configuration moves the log, but the new log could not replace the old one.
    CouldNotChangeLog = "could not change log", Warning, "518dfae771b62961c5b26bac2d703551" {
        reason: String,
    }
    /// The service manager passed a socket on which no pool listens. Its clients wait.
    CouldNotServeSocket = "could not serve socket", Warning, "ad81029d8f39e64101c8c083a1a314b0" {
        socket: String, reason: String,
    }
    /// A listener that was kept over a restart could not be used, and was bound again.
    CouldNotKeepListener = "could not keep listener", Warning, "3462748984d4a4859c64c7368d2b8aa5" {
        address: String, reason: String,
    }
    /// A reload could not change the backlog, owner, group or mode of a listener.
    CouldNotAdjustListener = "could not adjust listener", Warning, "61ccc6ba1ea3f3cda1f074d557de8e9a" {
        pool: String, address: String, reason: String,
    }
    /// A listener no longer accepted connections. It accepts them again.
    ListenerMended = "listener mended", Warning, "4cc433c1e7494d926793a9b83d9487e2" {
        pool: String, address: String, reason: String,
    }
    /// The kernel refused to release a child that had ended.
    CouldNotReap = "could not reap", Warning, "29a3ca46683d69d5df76011ca40a57f8" {
        reason: String,
    }
    /// A worker died, and its program runs on. The program has changed its user, and only
    /// a daemon that runs as root may end it. The reason names the process.
    CouldNotEndProgram = "could not end program", Warning, "972a6907ae4c443995f0bca1582f4821" {
        pid: Pid, reason: String,
    }
    /// A process was killed and has not ended. The daemon exits without waiting for it.
    CouldNotEndWorkers = "could not end every worker", Warning, "6a84bd44b4d6b7a96259431ca8c1d178" {
        reason: String,
    }
    /// The kernel refused to let the master sleep. The master tries again.
    CouldNotWait = "could not wait for events", Error, "eea8f9d2f42cfa716e6ac862eef2af64" {
        reason: String,
    }
    /// The journal accepts no stream from the workers of a pool. These workers write to the
    /// daemon's standard error.
    CouldNotOpenStream = "could not open journal stream", Warning, "73814d87d7d3831087058d73904804d8" {
        pool: String, reason: String,
    }
    /// The configuration says `user = "root"`. Each start and each reload warns of it.
    PoolRunsAsRoot = "pool runs as root", Warning, "67cf35e0cb136ce7307960adbda8a3de" {
        pool: String,
    }
    /// A worker was forked. The level is info if it replaces a worker, and debug at a start or
    /// a reload. While a slot backs off, most of these lines are held back. A
    /// worker that survives `min_uptime` is always logged.
    WorkerStarted = "worker started", Info | Debug, "7915a8a9c7b842ebb08acdc476073b97" {
        level: Level, pool: String, slot: u32, pid: Pid, generation: u64, held_back: HeldBack,
    }
    /// A worker ended with an exit code. If the code is 0, the level is debug after a reload
    /// or at a stop, and info after `max_requests`.
    WorkerExited = "worker exited", Info | Debug | Warning, "ee2f814bb8474fd197094a249e6803a1" {
        level: Level, pool: String, slot: u32, pid: Pid, generation: u64,
        code: u8, cause: &'static str, uptime_ms: Duration, served: u64, refused: Option<u64>,
        cpu_ms: Duration, max_rss_kib: u64, in_hand: Option<bool>, peer: Option<String>,
        in_hand_ms: Option<Duration>,
        reason: Option<String>, held_back: HeldBack,
    }
    /// A signal ended a worker. The level is warning if the master sent the signal.
    WorkerKilled = "worker killed", Error | Warning, "e0fb4a7e16074d27bd3cdef9b994c7bc" {
        level: Level, pool: String, slot: u32, pid: Pid, generation: u64,
        signal: String, core_dumped: bool, cause: &'static str, uptime_ms: Duration, served: u64,
        refused: Option<u64>, cpu_ms: Duration, max_rss_kib: u64, in_hand: Option<bool>,
        peer: Option<String>, in_hand_ms: Option<Duration>,
        reason: Option<String>, held_back: HeldBack,
    }
    /// A connection took longer than `request_timeout`.
    WorkerTimedOut = "worker timed out", Warning, "4dd9db3f86fa4263ad95bffb145cc444" {
        pool: String, slot: u32, pid: Pid, elapsed_ms: Duration, peer: String,
        held_back: HeldBack,
    }
    /// A signal such as `SIGSTOP` halted a worker. The master kills the worker if no
    /// `SIGCONT` comes within `kill_timeout`.
    WorkerStopped = "worker stopped", Warning, "69f4d4bd13db4bec8473881cb9bb0f1f" {
        pool: String, slot: u32, pid: Pid, generation: u64, held_back: HeldBack,
    }
    /// A worker without a connection did not retire when asked. The master kills it.
    WorkerNotRetiring = "worker not retiring", Warning, "3ec248728c5a3cc4179eb7d8d5bf6949" {
        pool: String, slot: u32, pid: Pid, generation: u64, elapsed_ms: Duration,
        held_back: HeldBack,
    }
    /// The master ended a worker's connection, for the reason that the line names. If a
    /// program served the connection, `pid` is that of the program.
    ConnectionCut = "connection cut", Warning, "af11e3156b3a9b9423a265f2f73d76eb" {
        pool: String, slot: u32, pid: Pid, program: Option<String>, peer: String,
        elapsed_ms: Duration, reason: String, held_back: HeldBack,
    }
    /// The workers of a slot die young, so the slot waits before it starts another one.
    RespawnThrottled = "respawn throttled", Error, "540b177aa6164ca8aece48c233796daa" {
        pool: String, slot: u32, deaths: u32, delay_ms: Duration, held_back: HeldBack,
    }
    /// The kernel refused to create a process. The master tries again each second.
    CouldNotStartWorker = "could not start worker", Error, "3d63aac49ec544f2b52c4567f361895e" {
        reason: String,
    }
    /// The kernel creates processes again.
    WorkersCanStartAgain = "workers can start again", Info, "52d103ab8f4445f6825f786169bc24d5" {
        failures: u64,
    }
}

Worker tells {
    /// A program of the service `exec` ended with an exit code. The level is debug if
    /// `success` names the code.
    ProgramExited = "program exited", Debug | Warning, "03a8dd673fb641c9955fc8b72496577b" {
        level: Level, pid: Pid, program: String, code: u8, elapsed_ms: Duration, peer: String,
        held_back: HeldBack,
    }
    /// A signal ended a program. The level is debug if `success` names the signal.
    ProgramKilled = "program killed", Debug | Warning, "854b8fb7519e48c787db750acad57e03" {
        level: Level, pid: Pid, program: String, signal: String, core_dumped: bool,
        elapsed_ms: Duration, peer: String, held_back: HeldBack,
    }
    /// A program could not be executed, and its client was disconnected.
    ProgramNotStarted = "program not started", Warning, "328aa4be1ab743519304d44c473596ae" {
        program: String, peer: String, reason: String, held_back: HeldBack,
    }
    /// A program wrote a line to its standard error.
    ProgramStderr = "program stderr", Info, "9feb22aef1fe47dbaaf06210a6486e78" {
        pid: Pid, program: String, line: String, held_back: HeldBack,
    }
    /// A program ended and left processes running, which continue without a worker.
    ProgramLeftRunning = "program left processes running", Debug, "865bdcf1f4a5453aa75f84b14fdf8433" {
        pid: Pid, program: String, peer: String,
    }
    /// A program ended and had left processes running. They were ended because its pool
    /// says `leftovers = "kill"`.
    LeftoversEnded = "leftovers ended", Info, "ce656627aa8743278bdae508cac845c7" {
        pid: Pid, program: String, count: usize, peer: String, held_back: HeldBack,
    }
    /// A program left processes running, and there was no process to read what they write
    /// to standard error. Their lines are lost.
    CouldNotFollow = "could not follow leftovers", Warning, "6ff53f1c26714c17863a57d2650764f6" {
        pid: Pid, program: String, reason: String, held_back: HeldBack,
    }
    /// The client of a program has gone, and the program is sent a signal.
    ProgramOutlivesClient = "program outlives its client", Debug, "050dcaf50a6e4f7ebc88e37cc3eb4306" {
        pid: Pid, program: String, signal: &'static str,
    }
    /// The code of a service panicked. The reason says where.
    ServicePanicked = "service panicked", Error, "77666e6f258b42858a0e8c111ae03a1c" {
        reason: String,
    }
    /// The kernel had no resources for a connection. The worker tries again.
    CouldNotAccept = "could not accept", Warning, "d3657395e4ce4a2eae6ede0386cd286e" {
        reason: String, held_back: HeldBack,
    }
    /// A connection begins, in a pool with `access_log`.
    ConnectionOpened = "connection opened", Info, "bfa6591d5bf4bc3a842669ecbfdc25ee" {
        pid: Pid, peer: String, held_back: HeldBack,
    }
    /// A connection has ended, in a pool with `access_log`. The fields of its program are
    /// there if a program served it.
    ConnectionClosed = "connection closed", Info, "4eea909c46f518d4fa0643e39f5e718d" {
        pid: Pid, peer: String, elapsed_ms: Duration, received_bytes: Option<u64>,
        sent_bytes: Option<u64>, program_pid: Option<Pid>, code: Option<u8>,
        signal: Option<String>, reason: Option<String>, held_back: HeldBack,
    }
    /// A client was turned away. The reason is the key that says so. The level is debug if
    /// the key is `allow` or `deny`, and the pool has no `access_log`.
    ClientRefused = "client refused", Debug | Info, "581d51ae7a8541d3971e080ffaf04e59" {
        level: Level, peer: String, reason: &'static str, held_back: HeldBack,
    }
    /// A service gave up a connection. A service of an embedding program may choose the
    /// level.
    ConnectionFailed = "connection failed", Debug | Info | Warning | Error, "75dbf94e7ebc4abbbe1c3ca843f72fa5" {
        level: Level, peer: String, reason: String, held_back: HeldBack,
    }
}
}

impl Event {
    /// Writes the event into the log.
    pub fn tell(&self, log: &Logger) {
        let level = self.level();
        if !log.is_enabled(level) {
            return;
        }
        let entry = self.entry();
        let location = RecordLocation { file: "", line: 0, column: 0, function: "", module: "" };
        // The tag names the event for the journal. No text shows it.
        let about = RecordStatic { location: &location, tag: entry.id, level };
        log.log(&Record::new(&about, &format_args!("{}", entry.message), BorrowedKV(self)));
    }

    /// Whether it is about the service as a whole, as a service manager knows it.
    pub(super) fn is_of_service(&self) -> bool {
        matches!(
            self,
            Event::LogElsewhere { .. }
                | Event::Ready { .. }
                | Event::Reloaded { .. }
                | Event::ReloadFailed { .. }
                | Event::PoolDown { .. }
                | Event::Stopping { .. }
                | Event::StopEscalated { .. }
                | Event::Stopped { .. }
                | Event::CouldNotStart { .. }
                | Event::LogLinesLost { .. }
        )
    }

    fn entry(&self) -> &'static Entry {
        &TABLE[self.kind() as usize]
    }

    fn level(&self) -> Level {
        let chosen = self.with_fields(|fields| fields.iter().find_map(|(_, field)| field.level()));
        chosen.unwrap_or(self.entry().levels[0])
    }
}

impl KV for Event {
    fn serialize(&self, _: &Record<'_>, serializer: &mut dyn slog::Serializer) -> slog::Result {
        self.with_fields(|fields| {
            // The last field comes first, as in slog.
            fields.iter().rev().try_for_each(|(name, field)| field.emit(name, serializer))
        })
    }
}

/// Whether an event of the daemon has this id. An embedding program may use tags
/// of its own.
pub(super) fn is_id(tag: &str) -> bool {
    TABLE.iter().any(|entry| entry.id == tag)
}

#[cfg(test)]
mod tests;
