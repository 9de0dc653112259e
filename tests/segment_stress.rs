//! Many processes over one segment, killed at random: no slot is lost, no client stuck, no limit exceeded.
//!
//! A program of its own (`harness = false`), as it forks: what is to be tested is the death of a process by SIGKILL
//! between any two instructions, and a test harness has threads. The order of service is checked without deaths.

#![cfg_attr(loom, allow(unused))]

#[cfg(loom)]
fn main() {}

#[cfg(not(loom))]
fn main() {
    // The harness that this is not would only list its tests.
    if std::env::args().any(|a| a == "--list") {
        return;
    }
    order::clients_are_served_in_order_of_arrival();
    storm::nothing_is_lost_when_processes_are_killed();
}

#[cfg(not(loom))]
mod order {
    use std::cell::RefCell;
    use std::collections::VecDeque;
    use std::sync::atomic::Ordering::Relaxed;

    use howdah::segment::{Claim, ClientIndex, Dimensions, Owner, PoolIndex, Release, Segment};

    const CLIENTS: u32 = 2_000;
    const SLOTS: u32 = 20;

    /// 2,000 clients over 20 slots, every seventh of which leaves while it waits.
    pub fn clients_are_served_in_order_of_arrival() {
        let segment = Segment::create(Dimensions { slots: SLOTS, clients: CLIENTS, pools: 1 }).unwrap();
        let pool = PoolIndex(0);
        segment.pool(pool).used.store(1, Relaxed);
        segment.pool(pool).size.store(SLOTS, Relaxed);
        let woken = RefCell::new(Vec::new());
        let wake = |client: ClientIndex| woken.borrow_mut().push(client.0);
        let mut working = VecDeque::new();
        let mut waiting = VecDeque::new();
        for client in 0..CLIENTS {
            let owner = Owner::Client(ClientIndex(client));
            match segment.claim(owner, pool, 0, &wake) {
                Claim::Open(held) => {
                    assert!(segment.slot(held.slot).word.opened(owner).is_done());
                    working.push_back((client, held));
                }
                Claim::Idle(held) => panic!("{held:?} was never opened"),
                Claim::Wait => {
                    assert_eq!(segment.enqueue(ClientIndex(client), pool, &wake), Ok(None));
                    waiting.push_back(client);
                }
            }
        }
        assert_eq!((working.len(), waiting.len()), (20, 1_980));
        for client in (0..CLIENTS).filter(|c| c % 7 == 0) {
            if let Some(at) = waiting.iter().position(|w| *w == client) {
                assert_eq!(segment.leave_queue(ClientIndex(client), pool), None);
                waiting.remove(at);
            }
        }
        while let Some((client, held)) = working.pop_front() {
            let released = segment.release(Owner::Client(ClientIndex(client)), held, 1, &wake);
            let Some(next) = waiting.pop_front() else {
                assert_eq!(released, Release::Free);
                continue;
            };
            assert_eq!(released, Release::Granted(ClientIndex(next)));
            assert_eq!(woken.borrow_mut().drain(..).collect::<Vec<_>>(), [next], "exactly that one is woken");
            working.push_back((next, segment.granted(ClientIndex(next)).expect("it was granted").0));
        }
        println!("{CLIENTS} clients were served in order over {SLOTS} slots");
    }
}

#[cfg(not(loom))]
mod storm {
    use std::convert::Infallible;
    use std::os::fd::AsFd;
    use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
    use std::time::{Duration, Instant};

    use howdah::segment::{
        Claim, ClientIndex, Dimensions, Held, Owner, PoolIndex, Release, Segment, ServerIndex, SlotState,
        Wake,
    };
    use howdah::sys::process::{Ended, Pid, exit_now, reap_one, spawn};
    use nix::poll::{PollFd, PollFlags, poll};
    use nix::sys::eventfd::{EfdFlags, EventFd};
    use nix::sys::signal::{Signal, kill};

    const SLOTS: u32 = 10;
    const CLIENTS: u32 = 16;
    /// Together more than the slots; the first two are on a server with a limit of its own.
    const SIZES: [u32; 3] = [5, 4, 6];
    const SERVER_LIMIT: u32 = 7;
    const STORM: Duration = Duration::from_secs(6);
    const STUCK_AFTER_MS: u16 = 10_000;

    struct Shared {
        segment: Segment,
        bells: Vec<EventFd>,
    }

    impl Wake for Shared {
        fn wake(&self, client: ClientIndex) {
            let _ = self.bells[client.at()].write(1);
        }
    }

    /// A small generator of numbers that are random enough (xorshift).
    struct Dice(u64);

    impl Dice {
        fn below(&mut self, n: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % n
        }
    }

    fn shared() -> Shared {
        let segment = Segment::create(Dimensions { slots: SLOTS, clients: CLIENTS, pools: 3 }).unwrap();
        segment.header().clients_high.store(CLIENTS, Relaxed);
        segment.header().pools_high.store(3, Relaxed);
        for server in [0, 1].map(ServerIndex) {
            segment.server(server).used.store(1, Relaxed);
        }
        segment.server(ServerIndex(0)).max_connections.store(SERVER_LIMIT, Relaxed);
        for (pool, size) in (0..).map(PoolIndex).zip(SIZES) {
            let table = segment.pool(pool);
            table.used.store(1, Relaxed);
            table.size.store(size, Relaxed);
            table.server.store(ServerIndex(u32::from(pool.0 == 2)).stored(), Relaxed);
        }
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        let bells = (0..CLIENTS).map(|_| EventFd::from_flags(flags).unwrap()).collect();
        Shared { segment, bells }
    }

    /// A worker: sessions until main says that it is enough, or kills it. Ends with 0, or with the line of what failed.
    struct Worker<'a> {
        shared: &'a Shared,
        me: ClientIndex,
        dice: Dice,
    }

    macro_rules! require {
        ($condition:expr) => {
            if !$condition {
                eprintln!("segment_stress.rs:{}: {}", line!(), stringify!($condition));
                exit_now(1);
            }
        };
    }

    impl Worker<'_> {
        fn owner(&self) -> Owner {
            Owner::Client(self.me)
        }

        fn run(mut self) -> Infallible {
            while self.shared.segment.header().phase.load(Relaxed) == 0 {
                let pool = PoolIndex(u32::try_from(self.dice.below(3)).unwrap());
                self.shared.segment.client(self.me).pool.store(pool.stored(), Relaxed);
                if let Some((held, state)) = self.claim(pool) {
                    self.use_and_give_back(pool, held, state);
                }
                self.shared.segment.header().accepted.fetch_add(1, Relaxed);
            }
            exit_now(0)
        }

        fn claim(&mut self, pool: PoolIndex) -> Option<(Held, SlotState)> {
            let segment = &self.shared.segment;
            match segment.claim(self.owner(), pool, 1 + self.dice.below(2), self.shared) {
                Claim::Idle(held) => return Some((held, SlotState::InUse)),
                Claim::Open(held) => return Some((held, SlotState::Init)),
                Claim::Wait => {}
            }
            match segment.enqueue(self.me, pool, self.shared) {
                Ok(Some(evicted)) => segment.close(self.owner(), evicted.slot, self.shared),
                Ok(None) => {}
                Err(_) => return None,
            }
            let impatient = self.dice.below(8) == 0;
            loop {
                if let Some(granted) = segment.granted(self.me) {
                    return Some(granted);
                }
                if impatient {
                    return segment.leave_queue(self.me, pool);
                }
                let mut bell = [PollFd::new(self.shared.bells[self.me.at()].as_fd(), PollFlags::POLLIN)];
                let rung = poll(&mut bell, STUCK_AFTER_MS);
                if rung != Ok(1) && segment.granted(self.me).is_none() {
                    self.tell_why_stuck(pool);
                }
                let _ = self.shared.bells[self.me.at()].read();
            }
        }

        fn tell_why_stuck(&self, pool: PoolIndex) {
            let segment = &self.shared.segment;
            eprintln!(
                "client {} is stuck in pool {pool}: {:?}",
                self.me,
                segment.client(self.me).wait.load()
            );
            for (index, slot) in segment.used_slots() {
                eprintln!("slot {index}: {:?}, pool {}", slot.word.snapshot(), slot.pool.load(Relaxed));
            }
            exit_now(1);
        }

        fn use_and_give_back(&mut self, pool: PoolIndex, held: Held, state: SlotState) {
            let segment = &self.shared.segment;
            let slot = segment.slot(held.slot);
            let mut held = held;
            if state == SlotState::Gracefully {
                held.generation = slot.word.reopen(self.owner()).done().unwrap().generation;
            }
            if state != SlotState::InUse {
                slot.signature.store(1 + self.dice.below(2), Relaxed);
                require!(slot.word.opened(self.owner()).is_done());
            }
            // Alone in it, on seats of its own.
            let mine = i32::try_from(self.me.stored()).unwrap();
            require!(slot.backend_pid.compare_exchange(0, mine, AcqRel, Relaxed).is_ok());
            self.check_seats(pool, held);
            for _ in 0..self.dice.below(2_000) {
                std::hint::spin_loop();
            }
            require!(slot.backend_pid.swap(0, AcqRel) == mine);
            let broken = self.dice.below(10) == 0;
            if broken || segment.release(self.owner(), held, 1, self.shared) == Release::ToClose {
                segment.close(self.owner(), held.slot, self.shared);
            }
        }

        fn check_seats(&self, pool: PoolIndex, held: Held) {
            let segment = &self.shared.segment;
            let slot = segment.slot(held.slot);
            let (seat, server_seat) = (slot.pool_seat.load(Relaxed), slot.server_seat.load(Relaxed));
            require!(slot.pool.load(Relaxed) == pool.stored());
            require!((1..=SIZES[pool.at()]).contains(&seat));
            require!(if pool.0 == 2 { server_seat == 0 } else { (1..=SERVER_LIMIT).contains(&server_seat) });
            for (index, other) in segment.used_slots().filter(|(index, _)| *index != held.slot) {
                let same_seat =
                    other.pool.load(Acquire) == pool.stored() && other.pool_seat.load(Acquire) == seat;
                // A seat is forgotten before it is given back, so two that note one have both taken it.
                require!(!same_seat || other.pool.load(Acquire) != pool.stored());
                require!(
                    server_seat == 0 || other.server_seat.load(Acquire) != server_seat || index == held.slot
                );
            }
        }
    }

    fn start(shared: &Shared, client: ClientIndex, seed: u64) -> Pid {
        let _ = shared.bells[client.at()].read();
        spawn(|| Worker { shared, me: client, dice: Dice(seed | 1) }.run()).unwrap()
    }

    /// What main does when a process has ended.
    fn recover(shared: &Shared, dead: ClientIndex) {
        let recovered = shared.segment.recover(dead, 1, shared);
        for (held, _) in recovered.to_close {
            shared.segment.close(Owner::Main, held.slot, shared);
        }
    }

    fn housekeeping(shared: &Shared) {
        for held in shared.segment.left_to_main().collect::<Vec<_>>() {
            shared.segment.close(Owner::Main, held.slot, shared);
        }
        for held in shared.segment.make_room_for_waiters(shared) {
            shared.segment.close(Owner::Main, held.slot, shared);
        }
    }

    pub fn nothing_is_lost_when_processes_are_killed() {
        let shared = &shared();
        let seed = u64::from(std::process::id()) << 20 | 0x9e37;
        println!("seed {seed}");
        let mut dice = Dice(seed);
        let mut pids: Vec<Pid> =
            (0..CLIENTS).map(|c| start(shared, ClientIndex(c), dice.below(u64::MAX))).collect();
        let end = Instant::now() + STORM;
        let mut kills = 0;
        let mut beat = Instant::now();
        while Instant::now() < end {
            std::thread::sleep(Duration::from_micros(dice.below(4_000)));
            let victim = usize::try_from(dice.below(u64::from(CLIENTS))).unwrap();
            if dice.below(4) == 0 {
                let slot = howdah::segment::SlotIndex(u32::try_from(dice.below(u64::from(SLOTS))).unwrap());
                let _ = shared.segment.slot(slot).word.mark_gracefully();
            }
            kill(pids[victim], Signal::SIGKILL).unwrap();
            kills += 1;
            reap(shared, &mut pids, |client| Some(start(shared, client, dice.below(u64::MAX))));
            if beat.elapsed() > Duration::from_millis(500) {
                beat = Instant::now();
                housekeeping(shared);
            }
        }
        shared.segment.header().phase.store(1, Relaxed);
        while !pids.is_empty() {
            reap(shared, &mut pids, |_| None);
            housekeeping(shared);
            std::thread::sleep(Duration::from_millis(5));
        }
        let sessions = shared.segment.header().accepted.load(Relaxed);
        assert_all_is_there(shared);
        println!("{sessions} sessions, {kills} kills: nothing lost");
        assert!(sessions > 1_000, "the storm was a calm: {sessions} sessions");
    }

    fn reap(shared: &Shared, pids: &mut Vec<Pid>, mut again: impl FnMut(ClientIndex) -> Option<Pid>) {
        while let Some((pid, ended)) = reap_one() {
            assert!(matches!(ended, Ended::Killed(9) | Ended::Exited(0)), "a worker failed: {ended:?}");
            // Entries keep their place while the storm lasts; afterwards it does not matter which one is recovered.
            let at = pids.iter().position(|p| *p == pid).unwrap();
            let client = match ended {
                Ended::Killed(_) => Some(ClientIndex(u32::try_from(at).unwrap())),
                Ended::Exited(_) => None,
            };
            if let Some(client) = client {
                recover(shared, client);
            }
            match client.and_then(&mut again) {
                Some(pid) => pids[at] = pid,
                None if pids.iter().filter(|p| p.as_raw() != 0).count() == 1 => pids.clear(),
                None => pids[at] = Pid::from_raw(0),
            }
        }
    }

    fn assert_all_is_there(shared: &Shared) {
        let segment = &shared.segment;
        for (index, slot) in segment.used_slots() {
            let s = slot.word.snapshot();
            assert!(matches!(s.state, SlotState::Free | SlotState::NotInit), "slot {index} is left {s:?}");
            if let Some(s) = slot.word.begin_flush(Owner::Main).done() {
                assert_eq!(s.owner, Owner::Main);
                segment.close(Owner::Main, index, shared);
            }
        }
        for client in (0..CLIENTS).map(ClientIndex) {
            assert!(!segment.is_waiting(client), "client {client} is left waiting");
        }
        // Exactly as many as the limits say can be opened: 5 of 5, then 2 of 4 for the server, then 3 of 6 for the slots.
        let owner = Owner::Client(ClientIndex(0));
        let mut opened = [0; 3];
        for pool in 0..3 {
            while let Claim::Open(_) = segment.claim(owner, PoolIndex(pool), 0, shared) {
                opened[pool as usize] += 1;
            }
        }
        assert_eq!(opened, [5, 2, 3]);
    }
}
