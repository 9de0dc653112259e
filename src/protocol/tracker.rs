//! What a stream of messages means for pooling: is the server idle, how many answers are to come.
//!
//! [`Tracker`] is fed the tag of each message of both directions and can be asked at any time. It keeps one byte per
//! client message whose answer has not come, and matches answers to the head of that queue. It is pure and exact:
//! where the stream alone does not tell what the server does, it says so for ever ([`Tracker::is_lost`]), and the
//! caller closes the server connection when the client is done with it.
//!
//! **Source**: PostgreSQL's `PostgresMain` and `SocketBackend` (postgres.c), `CopyGetData` (copyfromparse.c),
//! `ProcessRepliesIfAny` (walsender.c).
//!
//! | client's message | answered by |
//! |---|---|
//! | Query, FunctionCall | anything, then ReadyForQuery |
//! | Sync | (ErrorResponse and) ReadyForQuery; nothing while the server reads COPY data |
//! | Parse, Bind, Close | `1`, `2`, `3` |
//! | Describe | (`t` and) `T` or `n` |
//! | Execute | rows or COPY, then `C`, `I` or `s` |
//! | Flush, CopyData, CopyDone, CopyFail | nothing |
//!
//! After an ErrorResponse to one of Parse, Bind, Describe, Execute, Close the server skips all up to the next Sync.
//!
//! What it cannot see: a `statement_timeout` that strikes while the server waits between extended messages without
//! Sync is answered like a Query's error (with ReadyForQuery). With nothing outstanding that is lost; if it crosses a
//! client's Sync on the wire, the answer is taken for that Sync's, and the second ReadyForQuery makes it lost.

use std::collections::VecDeque;

/// How many unanswered messages a client may have; then the relay stops reading from it until answers come. This
/// bounds the queue's memory to a quarter of a mebibyte.
pub const MAX_OUTSTANDING: usize = 262_144;

/// Messages of the chunk at hand are still taken after the limit, up to here; beyond, the tracker is lost.
const HARD_LIMIT: usize = 2 * MAX_OUTSTANDING;

/// A queue that became empty is kept if it is no greater than this, and freed otherwise.
const KEEP_CAPACITY: usize = 1024;

/// The status byte of the last ReadyForQuery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TransactionStatus {
    /// `I`: not in a transaction block.
    #[default]
    Idle,
    /// `T`: in a transaction block.
    InTransaction,
    /// `E`: in a failed transaction block.
    Failed,
}

/// Which COPY is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CopyState {
    /// None, or both sides' data have ended.
    #[default]
    None,
    /// The server reads data; the client has not said CopyDone or CopyFail.
    In,
    /// The server sends data.
    Out,
    /// Both send (replication).
    Both {
        /// The client said CopyDone.
        client_done: bool,
        /// The server said CopyDone.
        server_done: bool,
    },
}

/// Follows one server connection from its first ReadyForQuery on.
///
/// Invariants: `ready` counts the queue's `Q`, `F` and `S`; the head is never `c` or `f`; while `skipping`, the queue
/// is empty.
#[derive(Clone, Debug, Default)]
pub struct Tracker {
    /// Tags of client messages that have not been answered (`Q F S P B D E C`), and `c`, `f` behind a message that
    /// may yet turn out to be a COPY.
    queue: VecDeque<u8>,
    /// ReadyForQuerys still to come.
    ready: u32,
    /// Syncs that the server drops as it reads COPY data, if it reads them; 0 unless a COPY from the client has not
    /// been confirmed.
    swallowed: u32,
    status: TransactionStatus,
    copy: CopyState,
    /// Extended messages were sent after the last Query, FunctionCall or Sync.
    unsynced: bool,
    /// The server skips until Sync, and the client has not sent one.
    skipping: bool,
    terminated: bool,
    lost: bool,
}

impl Tracker {
    /// Starts after a ReadyForQuery with status idle.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes note of a message that is forwarded to the server.
    #[inline]
    pub fn on_client(&mut self, tag: u8) {
        if self.copy != CopyState::None || self.skipping || self.lost {
            return self.on_client_special(tag);
        }
        match tag {
            b'Q' | b'S' | b'F' => {
                self.unsynced = false;
                self.ready += 1;
                self.push(tag);
            }
            b'P' | b'B' | b'D' | b'E' | b'C' => {
                self.unsynced = true;
                self.push(tag);
            }
            b'd' | b'H' => {}
            b'c' | b'f' => {
                if !self.queue.is_empty() {
                    self.push(tag);
                }
            }
            b'X' => self.terminated = true,
            // The server ends the session: "invalid frontend message type".
            _ => self.lose(),
        }
    }

    /// Takes note of a message that came from the server, once it is known as far as its first body byte, which
    /// matters for ReadyForQuery alone. An error that ends the session (FATAL) is the caller's to notice.
    #[inline]
    pub fn on_server(&mut self, tag: u8, first_body_byte: Option<u8>) {
        match (tag, self.queue.front().copied()) {
            // Asynchronous: may come at any time and mean nothing here.
            (b'N' | b'A' | b'S', _) => {}
            (b'Z', head) => self.on_ready(head, first_body_byte),
            (b'1', Some(b'P')) | (b'2', Some(b'B')) | (b'3', Some(b'C')) | (b'T' | b'n', Some(b'D')) => {
                self.pop()
            }
            (b't', Some(b'D'))
            | (b'T' | b'I', Some(b'Q'))
            | (b'D', Some(b'Q' | b'E'))
            | (b'V', Some(b'F')) => {}
            (b'I' | b's', Some(b'E')) => self.pop(),
            (b'C', Some(head @ (b'Q' | b'E'))) => self.on_complete(head),
            (b'E', head) => self.on_error(head),
            (b'G' | b'H' | b'W', Some(b'Q' | b'E')) => self.on_copy_begin(tag),
            (b'd' | b'c', Some(b'Q' | b'E')) => self.on_copy_data(tag),
            _ => self.lose(),
        }
    }

    /// Gives the status of the last ReadyForQuery.
    #[must_use]
    pub fn status(&self) -> TransactionStatus {
        self.status
    }

    /// Gives how many client messages have not been answered; a CopyDone or CopyFail behind one that may turn out to
    /// be a COPY counts too.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.queue.len()
    }

    /// Gives how many ReadyForQuerys are still to come for what the client has sent; 0 when lost.
    #[must_use]
    pub fn pending_ready(&self) -> usize {
        usize::try_from(self.ready).unwrap_or(usize::MAX)
    }

    /// Tells whether the server waits for a command outside any transaction, with nothing sent to it that it has not
    /// answered: another client may use it.
    #[must_use]
    #[inline]
    pub fn is_idle(&self) -> bool {
        self.status == TransactionStatus::Idle && self.is_at_rest() && !self.terminated
    }

    /// Tells whether everything that was sent is answered: the server waits for a command, perhaps in a transaction.
    #[must_use]
    #[inline]
    pub fn is_at_rest(&self) -> bool {
        self.queue.is_empty()
            && self.copy == CopyState::None
            && !(self.unsynced || self.skipping || self.lost)
    }

    /// Tells whether the stream did something after which the server's state is not known; never again false.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    /// Tells whether the client sent Terminate.
    #[must_use]
    pub fn is_terminated(&self) -> bool {
        self.terminated
    }

    /// Tells whether the server has answered everything but awaits a Sync: extended messages went without one, or
    /// one of them failed and the rest is being skipped. Whoever cleans up sends a Sync first.
    #[must_use]
    pub fn awaits_sync(&self) -> bool {
        self.unsynced || self.skipping
    }

    /// Tells which COPY is under way.
    #[must_use]
    pub fn copy_state(&self) -> CopyState {
        self.copy
    }

    /// Tells whether the client has [`MAX_OUTSTANDING`] unanswered messages: stop reading from it.
    #[must_use]
    #[inline]
    pub fn is_full(&self) -> bool {
        self.queue.len() >= MAX_OUTSTANDING
    }

    #[inline]
    fn push(&mut self, tag: u8) {
        self.queue.push_back(tag);
        if self.queue.len() > HARD_LIMIT {
            self.lose();
        }
    }

    /// Takes the head off, and with it the ends of COPY data behind it, which the server ignores outside a COPY.
    #[inline]
    fn pop(&mut self) {
        self.queue.pop_front();
        while let Some(b'c' | b'f') = self.queue.front() {
            self.queue.pop_front();
        }
        self.tidy();
    }

    #[inline]
    fn tidy(&mut self) {
        if self.queue.is_empty() && self.queue.capacity() > KEEP_CAPACITY {
            self.queue = VecDeque::new();
        }
    }

    #[cold]
    fn lose(&mut self) {
        self.lost = true;
        self.queue = VecDeque::new();
        self.ready = 0;
        self.swallowed = 0;
        self.copy = CopyState::None;
        self.skipping = false;
    }

    fn on_client_special(&mut self, tag: u8) {
        if self.lost {
            return;
        }
        if self.skipping {
            match tag {
                b'S' => {
                    self.skipping = false;
                    self.on_client(tag);
                }
                b'X' => self.terminated = true,
                b'Q' | b'F' | b'P' | b'B' | b'D' | b'E' | b'C' | b'H' | b'd' | b'c' | b'f' => {}
                _ => self.lose(),
            }
            return;
        }
        match self.copy {
            CopyState::In => self.on_client_copy_in(tag),
            CopyState::Both { client_done: false, server_done } => match tag {
                b'd' => {}
                b'c' => self.copy_both(true, server_done),
                b'X' => self.terminated = true,
                _ => self.lose(),
            },
            // Nobody but the server is in a COPY: what the client sends waits for the end of it.
            copy @ (CopyState::Out | CopyState::Both { .. }) => {
                self.copy = CopyState::None;
                self.on_client(tag);
                if !self.lost {
                    self.copy = copy;
                }
            }
            CopyState::None => {}
        }
    }

    /// The server reads COPY data: Flush and Sync are dropped, whatever else there is fails the COPY or the session.
    fn on_client_copy_in(&mut self, tag: u8) {
        match tag {
            b'd' | b'H' => {}
            b'S' => self.swallowed += 1,
            b'c' | b'f' => self.copy = CopyState::None,
            b'X' => self.terminated = true,
            _ => self.lose(),
        }
    }

    #[inline]
    fn on_ready(&mut self, head: Option<u8>, status: Option<u8>) {
        let status = match status {
            Some(b'I') => TransactionStatus::Idle,
            Some(b'T') => TransactionStatus::InTransaction,
            Some(b'E') => TransactionStatus::Failed,
            _ => return self.lose(),
        };
        self.status = status;
        match head {
            Some(b'Q' | b'F' | b'S') if self.copy == CopyState::None && self.swallowed == 0 => {
                self.ready -= 1;
                self.pop();
            }
            _ => self.lose(),
        }
    }

    /// A statement ran to its end: a COPY in it has read all its data, and the Syncs among them.
    fn on_complete(&mut self, head: u8) {
        let copy_ended = matches!(self.copy, CopyState::None);
        if !copy_ended {
            return self.lose();
        }
        self.swallowed = 0;
        if head == b'E' {
            self.pop();
        }
    }

    #[cold]
    fn on_error(&mut self, head: Option<u8>) {
        if self.swallowed > 0 {
            // Whether the server read the Syncs before or after the COPY failed cannot be known.
            return self.lose();
        }
        self.copy = CopyState::None;
        match head {
            Some(b'Q' | b'F' | b'S') => {}
            Some(_) => self.skip_to_sync(),
            None => self.lose(),
        }
    }

    /// Drops what the server skips: all up to the next Sync.
    fn skip_to_sync(&mut self) {
        while let Some(&tag) = self.queue.front() {
            if tag == b'S' {
                return;
            }
            self.ready -= u32::from(matches!(tag, b'Q' | b'F'));
            self.queue.pop_front();
        }
        self.tidy();
        self.skipping = true;
    }

    #[cold]
    fn on_copy_begin(&mut self, tag: u8) {
        if self.copy != CopyState::None || self.swallowed > 0 {
            return self.lose();
        }
        match tag {
            b'H' => self.copy = CopyState::Out,
            b'G' => {
                self.copy = CopyState::In;
                self.take_copy_messages(true);
            }
            _ => {
                self.copy = CopyState::Both { client_done: false, server_done: false };
                self.take_copy_messages(false);
            }
        }
    }

    /// The server reads what the client has sent behind the head as COPY messages, up to the end of the data.
    fn take_copy_messages(&mut self, syncs_are_dropped: bool) {
        while let Some(tag) = self.queue.get(1).copied() {
            match tag {
                b'S' if syncs_are_dropped => {
                    self.swallowed += 1;
                    self.ready -= 1;
                }
                b'c' | b'f' if syncs_are_dropped => self.copy = CopyState::None,
                b'c' => self.copy_both(true, false),
                _ => return self.lose(),
            }
            self.queue.remove(1);
            if matches!(tag, b'c' | b'f') {
                break;
            }
        }
        let synced = self.queue.iter().skip(1).any(|tag| matches!(tag, b'S' | b'Q' | b'F'));
        if self.queue.front() == Some(&b'E') && !synced {
            self.unsynced = true;
        }
    }

    fn on_copy_data(&mut self, tag: u8) {
        match self.copy {
            CopyState::Out if tag == b'd' => {}
            CopyState::Out => self.copy = CopyState::None,
            CopyState::Both { server_done: false, .. } if tag == b'd' => {}
            CopyState::Both { client_done, server_done: false } => self.copy_both(client_done, true),
            _ => self.lose(),
        }
    }

    fn copy_both(&mut self, client_done: bool, server_done: bool) {
        self.copy = if client_done && server_done {
            CopyState::None
        } else {
            CopyState::Both { client_done, server_done }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds a script: `>` begins the client's tags, `<` the server's; `Z` takes its status from the next character.
    fn after(script: &str) -> Tracker {
        let mut tracker = Tracker::new();
        let mut from_client = true;
        let mut chars = script.bytes().filter(|b| *b != b' ');
        while let Some(tag) = chars.next() {
            match tag {
                b'>' => from_client = true,
                b'<' => from_client = false,
                tag if from_client => tracker.on_client(tag),
                b'Z' => tracker.on_server(b'Z', chars.next()),
                tag => tracker.on_server(tag, Some(b'x')),
            }
        }
        tracker
    }

    #[test]
    fn idle_means_all_is_answered() {
        for script in [
            "",
            "<NAS",
            ">Q <TDDCZI",
            ">Q <CTDCZI",
            ">Q <IZI",
            ">Q <EZI",
            ">F <VZI",
            ">F <EZI",
            ">QQQ <CZICZICZI",
            ">PBDES <12TDCZI",
            ">PDS <1tnZI",
            ">PDS <1tTZI",
            ">BES <2sZI",
            ">ES <IZI",
            ">CS <3ZI",
            ">PHBH <12 >S <ZI",
            ">S <EZI",
            ">PBES <EZI",
            ">PBESPBES <EZI12CZI",
            ">PQFS <EZI",
            ">PQ <1CZI",
            ">P <E >QFPBH S <ZI",
            ">Q <G >ddSHdc <CZI",
            ">Q <G >ddf <EZI",
            ">Q <G >d <EZI >dcdf",
            ">Qddc <GCZI",
            ">QddcQ <GEZICZI",
            ">Qdcdc <GCGCZI",
            ">QcQ <EZICZI",
            ">BES <2G >dcS <CZI",
            ">BEdcS <2GCZI",
            ">BEdcS <2GEZI",
            ">BE <2G >d <E >dcS <ZI",
            ">Q <HddcCZI",
            ">Q <HdEZI",
            ">Q <H >Q <ddcCZICZI",
            ">Q <Wd >dc <dcCZI",
            ">Q <Wdc >dc <CZI",
            ">Qc <WcCZI",
            ">Q <Wdc >c <TDCCZI",
            ">Q <WE >c <ZI",
            ">H dcf",
        ] {
            let tracker = after(script);
            assert!(tracker.is_idle() && !tracker.is_lost(), "{script}: {tracker:?}");
            assert_eq!((tracker.pending_ready(), tracker.outstanding()), (0, 0), "{script}");
        }
    }

    #[test]
    fn busy_means_that_something_is_to_come() {
        for (script, ready, outstanding) in [
            (">Q", 1, 1),
            (">Q <TDC", 1, 1),
            (">Q <E", 1, 1),
            (">Q <CZT", 0, 0),
            (">Q <EZE", 0, 0),
            (">QQ <CZI", 1, 1),
            (">PBDES", 1, 5),
            (">PBDES <12T", 1, 2),
            (">P", 0, 1),
            (">P <1", 0, 0),
            (">P <E", 0, 0),
            (">PQS <E", 1, 1),
            (">Q <G", 1, 1),
            (">Q <G >ddS", 1, 1),
            (">Q <G >c", 1, 1),
            (">E <G >S", 0, 1),
            (">E <G >Sc <C", 0, 0),
            (">ES <G >c <C", 0, 0),
            (">Q <H", 1, 1),
            (">Q <H >QS", 3, 3),
            (">Q <Wc", 1, 1),
            (">X", 0, 0),
        ] {
            let tracker = after(script);
            assert!(!tracker.is_idle() && !tracker.is_lost(), "{script}: {tracker:?}");
            assert_eq!((tracker.pending_ready(), tracker.outstanding()), (ready, outstanding), "{script}");
        }
        assert!(after(">P <1").awaits_sync() && after(">P <E").awaits_sync());
        assert!(!after(">PS <1ZI").awaits_sync());
        assert!(after(">X").is_terminated());
        assert_eq!(after(">Q <CZT").status(), TransactionStatus::InTransaction);
        assert_eq!(after(">Q <EZE").status(), TransactionStatus::Failed);
        assert_eq!(after(">Q <H").copy_state(), CopyState::Out);
        assert_eq!(after(">Q <G").copy_state(), CopyState::In);
    }

    #[test]
    fn what_cannot_be_known_is_lost_for_ever() {
        for script in [
            "<ZI",
            "<E",
            "<C",
            ">Q <1",
            ">Q <ZX",
            ">P <2",
            ">PB <2",
            ">S <C",
            ">Q <d",
            ">Q <Hdcd",
            ">Q <G >Q",
            ">QQ <G",
            ">E <G >P",
            ">Q <G >S <E",
            ">BES <2GE",
            ">Q <GC",
            ">Q <GZI",
            ">Q <GG",
            ">Q <W >S",
            ">Q <WC",
            ">p",
            ">\0",
            "<v",
            ">Q <G <R",
        ] {
            let mut tracker = after(script);
            assert!(tracker.is_lost() && !tracker.is_idle(), "{script}: {tracker:?}");
            tracker.on_client(b'Q');
            tracker.on_server(b'Z', Some(b'I'));
            assert!(tracker.is_lost() && !tracker.is_idle(), "{script}");
        }
    }

    #[test]
    fn the_queue_is_bounded_and_its_memory_given_back() {
        let mut tracker = Tracker::new();
        for _ in 0..MAX_OUTSTANDING {
            assert!(!tracker.is_full());
            tracker.on_client(b'S');
        }
        assert!(tracker.is_full() && !tracker.is_lost());
        for _ in 0..MAX_OUTSTANDING {
            tracker.on_server(b'Z', Some(b'I'));
        }
        assert!(tracker.is_idle());
        assert_eq!(tracker.queue.capacity(), 0);
        for _ in 0..=HARD_LIMIT {
            tracker.on_client(b'S');
        }
        assert!(tracker.is_lost());
        assert_eq!(tracker.queue.capacity(), 0);
    }
}
