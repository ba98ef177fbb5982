//! The door of a pool: which clients are served, and what becomes of the others.
#![forbid(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;

use nix::sys::socket::{MsgFlags, Shutdown, recv, send, shutdown};
use slog::Level;

use crate::config::{self, Peers};
use crate::ledger::{OwnEntry, Prefixes, Quota, Source};
use crate::log::event::Event;
use crate::log::rate::HeldBack;
use crate::scoreboard::OwnPage;
use crate::service::{Context, Peer};

use super::access::{self, Refusal};
use super::access_log::AccessLog;

/// How much data of a client is read before its connection is closed. A close with unread
/// data would make the kernel discard the text for the client.
const MOST_BYTES: usize = 64 << 10;

/// The clients that a pool serves.
pub struct Admission {
    allow: Vec<Peers>,
    deny: Vec<Peers>,
    per_source: Option<Share>,
    in_all: Option<Quota>,
    /// The text for a client that is turned away because of the last two.
    refusal: Option<String>,
}

/// What one source may have.
struct Share {
    limit: Option<u32>,
    quota: Option<Quota>,
    prefixes: Prefixes,
}

impl Admission {
    /// What the configuration says.
    pub fn of(pool: &config::Pool) -> Self {
        let share = |it: config::PerSource| Share {
            limit: it.limit,
            quota: it.rate.map(Quota::from),
            prefixes: Prefixes { ipv4: it.ipv4, ipv6: it.ipv6 },
        };
        Admission {
            allow: pool.allow.clone(),
            deny: pool.deny.clone(),
            per_source: pool.per_source.map(share),
            in_all: pool.rate.map(Quota::from),
            refusal: pool.refusal.clone(),
        }
    }

    /// Why this client is not served, if the pool has a ledger. If there is no reason, its
    /// connection has been entered there.
    fn refuses(&self, entry: &OwnEntry, peer: Peer) -> Option<Refusal> {
        let of_source = self.per_source.as_ref().and_then(|share| {
            let source = entry.mark(Source::of(peer, share.prefixes)?);
            if share.limit.is_some_and(|limit| !entry.claim(source, limit)) {
                return Some(Refusal::PerSource);
            }
            // A refusal to the source costs the others nothing.
            let is_spent = share.quota.is_some_and(|quota| !entry.spend(source, quota));
            is_spent.then_some(Refusal::SourceRate)
        });
        let in_all = || {
            let is_spent = self.in_all.is_some_and(|quota| !entry.spend_in_all(quota));
            is_spent.then_some(Refusal::Rate)
        };
        of_source.or_else(in_all)
    }
}

/// A worker at the door of its pool.
pub struct Door<'a> {
    admission: &'a Admission,
    /// The worker's entry in the ledger, if the pool has one.
    entry: Option<OwnEntry>,
    page: OwnPage,
    refused: u64,
}

impl<'a> Door<'a> {
    /// A door where nobody has come.
    pub fn new(admission: &'a Admission, entry: Option<OwnEntry>, page: OwnPage) -> Self {
        Door { admission, entry, page, refused: 0 }
    }

    /// Whether this client is served. Otherwise the client has got the text of the pool,
    /// the log has the reason, and only the close is left to do.
    pub fn admits(
        &mut self,
        socket: BorrowedFd<'_>,
        peer: Peer,
        access_log: Option<&mut AccessLog>,
        context: &Context<'_>,
    ) -> bool {
        let Admission { allow, deny, refusal: text, .. } = self.admission;
        let of_ledger = |entry| self.admission.refuses(entry, peer.canonical());
        let by_lists = access::refuses(allow, deny, peer);
        let Some(refusal) = by_lists.or_else(|| self.entry.as_ref().and_then(of_ledger)) else {
            return true;
        };
        self.leave();
        self.refused += 1;
        self.page.refuse(self.refused);
        self.tell(refusal, peer.canonical(), access_log, context);
        if let (Some(text), None) = (text, by_lists) {
            dismiss(socket, text);
        }
        false
    }

    /// How many connections the source of this client has, that of the client included, if
    /// the pool counts them.
    pub fn connections(&self, peer: Peer) -> Option<u32> {
        let share = self.admission.per_source.as_ref().filter(|share| share.limit.is_some())?;
        let entry = self.entry.as_ref()?;
        Some(entry.count(entry.mark(Source::of(peer, share.prefixes)?)))
    }

    /// The word of the ledger in which the client that was admitted last stands.
    pub fn entered(&self) -> Option<&'static AtomicU64> {
        self.entry.as_ref().map(OwnEntry::entered)
    }

    /// That client has gone.
    pub fn leave(&self) {
        self.entered().into_iter().for_each(|word| word.store(0, SeqCst));
    }

    fn tell(
        &self,
        refusal: Refusal,
        peer: Peer,
        access_log: Option<&mut AccessLog>,
        context: &Context<'_>,
    ) {
        let (level, held_back) = match (access_log, &self.entry, refusal) {
            (Some(access_log), _, _) => (Level::Info, access_log.admit_refusal()),
            (None, None, _) | (None, _, Refusal::Allow | Refusal::Deny) => {
                (Level::Debug, Some(HeldBack::NONE))
            }
            (None, Some(entry), _) => (Level::Info, entry.admit_line().map(HeldBack)),
        };
        if let Some(held_back) = held_back {
            let (peer, reason) = (peer.to_string(), refusal.as_str());
            Event::ClientRefused { level, peer, reason, held_back }.tell(context.log());
        }
    }
}

/// Writes to a client why it is turned away, and does not wait for the client: a client
/// over a limit must not get more of the worker's time. A client that goes on sending may
/// miss the text.
#[cold]
#[inline(never)]
fn dismiss(socket: BorrowedFd<'_>, text: &str) {
    let socket = socket.as_raw_fd();
    let _ = send(socket, text.as_bytes(), MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
    let _ = shutdown(socket, Shutdown::Write);
    let mut chunk = [0; 4096];
    let mut left = MOST_BYTES;
    while left > 0 {
        match recv(socket, &mut chunk, MsgFlags::MSG_DONTWAIT) {
            Ok(count) if count > 0 => left = left.saturating_sub(count),
            _ => return,
        }
    }
}
