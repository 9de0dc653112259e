//! A model of PostgreSQL's backend loop, to hold [`Tracker`] against: random scripts of client messages, processed and
//! delivered in random interleavings.
//!
//! What goes wrong without it: a tracker that forgets a Sync hands a busy server to another client, which then reads
//! answers that are not its own. `the_tracker_is_never_idle_while_the_backend_is_busy` would see that at once.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::tracker::{CopyState, Tracker, TransactionStatus};

/// A client's message: its tag, and what shall happen when the server comes to it.
type Message = (u8, Fate);

/// One step of a command, or how the processing of a message ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Fine,
    Fails,
    Rows,
    RowsThenFails,
    Empty,
    Suspends,
    Begin,
    Commit,
    CopyIn,
    CopyInFailsAtOnce,
    CopyInTwice,
    CopyOut,
    CopyOutFails,
    CopyBoth,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Commands,
    /// Reading COPY data for a Query (false) or an Execute (true); how many more COPYs follow in the command.
    CopyIn {
        extended: bool,
        more: u8,
    },
    CopyBoth,
    Dead,
}

/// `PostgresMain`, `SocketBackend` and `CopyGetData` in small.
struct Backend {
    mode: Mode,
    status: u8,
    ignore_till_sync: bool,
    /// Extended messages were processed since the last Query, FunctionCall or Sync.
    unsynced: bool,
    /// Before version 14 an unexpected message fails the COPY, since then it ends the session.
    old: bool,
    out: VecDeque<(u8, Option<u8>)>,
}

impl Backend {
    fn new(old: bool) -> Self {
        Self {
            mode: Mode::Commands,
            status: b'I',
            ignore_till_sync: false,
            unsynced: false,
            old,
            out: VecDeque::new(),
        }
    }

    fn say(&mut self, tags: &[u8]) {
        self.out.extend(tags.iter().map(|&tag| (tag, (tag != b'1').then_some(b'x'))));
    }

    fn ready(&mut self) {
        self.out.push_back((b'Z', Some(self.status)));
    }

    fn fail(&mut self, extended: bool) {
        self.say(b"E");
        self.mode = Mode::Commands;
        if self.status == b'T' {
            self.status = b'E';
        }
        if extended {
            self.ignore_till_sync = true;
        } else {
            self.ready();
        }
    }

    fn process(&mut self, (tag, fate): Message) {
        match self.mode {
            Mode::Dead => {}
            Mode::CopyIn { extended, more } => self.copy_in(tag, fate, extended, more),
            Mode::CopyBoth => match tag {
                b'd' => self.say(b"d"),
                b'c' => {
                    self.say(b"dcC");
                    self.mode = Mode::Commands;
                    self.ready();
                }
                _ => self.die(),
            },
            Mode::Commands => self.command(tag, fate),
        }
    }

    fn die(&mut self) {
        self.say(b"E");
        self.mode = Mode::Dead;
    }

    fn copy_in(&mut self, tag: u8, fate: Fate, extended: bool, more: u8) {
        match tag {
            b'd' if fate != Fate::Fails => {}
            b'd' | b'f' => self.fail(extended),
            b'S' | b'H' => {}
            b'c' => {
                self.say(b"C");
                self.mode = Mode::Commands;
                if more > 0 {
                    self.say(b"G");
                    self.mode = Mode::CopyIn { extended, more: more - 1 };
                } else if !extended {
                    self.ready();
                }
            }
            _ if self.old => self.fail(extended),
            _ => self.die(),
        }
    }

    fn command(&mut self, tag: u8, fate: Fate) {
        if tag == b'S' {
            self.ignore_till_sync = false;
        }
        if self.ignore_till_sync {
            return;
        }
        let extended = matches!(tag, b'P' | b'B' | b'D' | b'E' | b'C');
        match tag {
            b'Q' | b'F' | b'S' => self.unsynced = false,
            _ if extended => self.unsynced = true,
            _ => {}
        }
        match tag {
            b'Q' => self.run(fate, false),
            b'E' => self.run(fate, true),
            b'd' | b'c' | b'f' | b'H' => {}
            _ if fate == Fate::Fails => self.fail(extended),
            b'P' => self.say(b"1"),
            b'B' => self.say(b"2"),
            b'C' => self.say(b"3"),
            b'D' if fate == Fate::Rows => self.say(b"tT"),
            b'D' if fate == Fate::Empty => self.say(b"tn"),
            b'D' => self.say(b"T"),
            b'F' => {
                self.say(b"V");
                self.ready();
            }
            b'S' => self.ready(),
            _ => self.die(),
        }
    }

    /// Runs a Query's or a portal's command.
    fn run(&mut self, fate: Fate, extended: bool) {
        let header: &[u8] = if extended { b"" } else { b"T" };
        if self.status == b'E' && fate != Fate::Commit {
            return self.fail(extended);
        }
        match fate {
            Fate::Fails => return self.fail(extended),
            Fate::RowsThenFails => {
                self.say(header);
                self.say(b"DN");
                return self.fail(extended);
            }
            Fate::CopyOutFails => {
                self.say(b"Hd");
                return self.fail(extended);
            }
            Fate::CopyInFailsAtOnce => {
                self.say(b"G");
                return self.fail(extended);
            }
            Fate::CopyIn | Fate::CopyInTwice => {
                self.say(b"G");
                self.mode = Mode::CopyIn { extended, more: u8::from(fate == Fate::CopyInTwice && !extended) };
                return;
            }
            Fate::CopyBoth if !extended => {
                self.say(b"W");
                self.mode = Mode::CopyBoth;
                return;
            }
            Fate::Rows => {
                self.say(header);
                self.say(b"DDAC");
            }
            Fate::CopyOut => self.say(b"HddcC"),
            Fate::Empty => self.say(b"I"),
            Fate::Suspends if extended => self.say(b"Ds"),
            Fate::Begin => {
                self.status = b'T';
                self.say(b"C");
            }
            Fate::Commit => {
                self.status = b'I';
                self.say(b"SC");
            }
            Fate::Fine | Fate::Suspends | Fate::CopyBoth => self.say(b"C"),
        }
        if !extended {
            self.ready();
        }
    }

    fn is_busy(&self) -> bool {
        self.mode != Mode::Commands
            || self.status != b'I'
            || self.ignore_till_sync
            || self.unsynced
            || !self.out.is_empty()
    }
}

/// What lies between the client and the backend, with the tracker in the middle.
struct World {
    script: VecDeque<Message>,
    to_server: VecDeque<Message>,
    backend: Backend,
    tracker: Tracker,
}

impl World {
    fn new(script: Vec<Message>, old: bool) -> Self {
        let (to_server, backend) = (VecDeque::new(), Backend::new(old));
        Self { script: script.into(), to_server, backend, tracker: Tracker::new() }
    }

    /// Lets one of client, backend and relay act; false when it has nothing to do.
    fn act(&mut self, who: u8) -> bool {
        match who % 3 {
            0 => self.script.pop_front().is_some_and(|message| {
                self.tracker.on_client(message.0);
                self.to_server.push_back(message);
                true
            }),
            1 => self.to_server.pop_front().is_some_and(|message| {
                self.backend.process(message);
                true
            }),
            _ => self.backend.out.pop_front().is_some_and(|(tag, first)| {
                self.tracker.on_server(tag, first);
                true
            }),
        }
    }

    /// Never idle while the backend is busy, or a message that it will not just ignore is on its way.
    fn check(&self) -> Result<(), TestCaseError> {
        if self.tracker.is_idle() {
            prop_assert!(!self.backend.is_busy(), "idle while the backend is busy");
            let harmless = self.to_server.iter().all(|(tag, _)| matches!(tag, b'd' | b'c' | b'f' | b'H'));
            prop_assert!(harmless, "idle with messages under way: {:?}", self.to_server);
        }
        Ok(())
    }

    /// All is processed and delivered: both agree on everything.
    fn check_end(&self) -> Result<(), TestCaseError> {
        let (tracker, backend) = (&self.tracker, &self.backend);
        if tracker.is_lost() || backend.mode == Mode::Dead {
            prop_assert!(!tracker.is_idle());
            return Ok(());
        }
        let awaits_data = match backend.mode {
            Mode::CopyIn { extended, .. } => {
                prop_assert_eq!(tracker.copy_state(), CopyState::In);
                Some(usize::from(!extended))
            }
            Mode::CopyBoth => {
                let expected = CopyState::Both { client_done: false, server_done: false };
                prop_assert_eq!(tracker.copy_state(), expected);
                Some(1)
            }
            Mode::Commands | Mode::Dead => {
                prop_assert_eq!(tracker.copy_state(), CopyState::None);
                None
            }
        };
        prop_assert_eq!(tracker.pending_ready(), awaits_data.unwrap_or(0));
        prop_assert_eq!(tracker.outstanding(), usize::from(awaits_data.is_some()));
        prop_assert_eq!(tracker.is_idle(), !backend.is_busy());
        if awaits_data.is_none() && !tracker.awaits_sync() {
            let expected = match backend.status {
                b'I' => TransactionStatus::Idle,
                b'T' => TransactionStatus::InTransaction,
                _ => TransactionStatus::Failed,
            };
            prop_assert_eq!(tracker.status(), expected);
        }
        if awaits_data.is_none() {
            prop_assert_eq!(tracker.awaits_sync(), backend.unsynced || backend.ignore_till_sync);
        }
        Ok(())
    }

    fn run(&mut self, turns: &[u8]) -> Result<(), TestCaseError> {
        for turn in turns {
            self.act(*turn);
            self.check()?;
        }
        while (0..3).any(|who| self.act(who)) {
            self.check()?;
        }
        self.check_end()
    }
}

fn any_fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        4 => Just(Fate::Fine),
        2 => Just(Fate::Rows),
        2 => Just(Fate::Fails),
        1 => prop::sample::select(vec![
            Fate::RowsThenFails, Fate::Empty, Fate::Suspends, Fate::Begin, Fate::Commit, Fate::CopyIn,
            Fate::CopyInFailsAtOnce, Fate::CopyInTwice, Fate::CopyOut, Fate::CopyOutFails, Fate::CopyBoth,
        ]),
    ]
}

fn any_message() -> impl Strategy<Value = Message> {
    (prop::sample::select(b"QQSSSFPBDECHdddcf".to_vec()), any_fate())
}

/// A fate that reads no data from the client.
fn plain_fate() -> impl Strategy<Value = Fate> {
    any_fate().prop_filter("reads no data", |fate| {
        !matches!(fate, Fate::CopyIn | Fate::CopyInFailsAtOnce | Fate::CopyInTwice | Fate::CopyBoth)
    })
}

/// What well-behaved drivers send at a time.
fn polite_group() -> impl Strategy<Value = Vec<Message>> {
    let data = |fates: Vec<bool>, end: u8| {
        let part = |fails: bool| (b'd', if fails { Fate::Fails } else { Fate::Fine });
        fates.into_iter().map(part).chain([(end, Fate::Fine)]).collect::<Vec<_>>()
    };
    let some_data = prop::collection::vec(prop::bool::weighted(0.2), 0..3);
    let end = prop::sample::select(b"cccf".to_vec());
    let copy = prop::sample::select(vec![Fate::CopyIn, Fate::CopyIn, Fate::CopyInFailsAtOnce]);
    let command = prop::sample::select(b"QE".to_vec());
    prop_oneof![
        4 => (prop::sample::select(b"QF".to_vec()), plain_fate()).prop_map(|m| vec![m]),
        4 => prop::collection::vec((prop::sample::select(b"PBDEECH".to_vec()), plain_fate()), 0..5),
        4 => any_fate().prop_map(|fate| vec![(b'S', fate)]),
        // A COPY that may fail anywhere, all its data sent ahead.
        2 => (command.clone(), copy, some_data.clone(), end).prop_map(move |(command, fate, fails, end)| {
            [vec![(command, fate)], data(fails, end)].concat()
        }),
        1 => (some_data.clone(), some_data).prop_map(move |(one, two)| {
            [vec![(b'Q', Fate::CopyInTwice)], data(one, b'c'), data(two, b'c')].concat()
        }),
        // As drivers do that send Bind, Execute, Sync, and then find out that it is a COPY; it succeeds.
        2 => (command, prop::collection::vec(prop::sample::select(b"dSH".to_vec()), 0..4)).prop_map(|(command, inside)| {
            let inside = inside.into_iter().map(|tag| (tag, Fate::Fine));
            [(command, Fate::CopyIn), (b'S', Fate::Fine)].into_iter().chain(inside).chain([(b'c', Fate::Fine)]).collect()
        }),
        // Data that nobody reads, after a COPY that has failed long ago.
        1 => prop::sample::select(b"dcf".to_vec()).prop_map(|tag| vec![(tag, Fate::Fine)]),
        1 => Just(vec![(b'Q', Fate::CopyBoth), (b'd', Fate::Fine), (b'c', Fate::Fine)]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn the_tracker_is_never_idle_while_the_backend_is_busy(
        script in prop::collection::vec(any_message(), 0..24),
        turns in prop::collection::vec(0u8..3, 0..120),
        old in any::<bool>(),
    ) {
        World::new(script, old).run(&turns)?;
    }

    #[test]
    fn what_drivers_do_is_never_lost(
        groups in prop::collection::vec(polite_group(), 0..10),
        turns in prop::collection::vec(0u8..3, 0..150),
    ) {
        let mut world = World::new(groups.concat(), false);
        world.run(&turns)?;
        prop_assert_ne!(world.backend.mode, Mode::Dead, "the script is not polite");
        prop_assert!(!world.tracker.is_lost(), "lost");
    }
}
