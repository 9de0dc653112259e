//! The wait queue alone: joining, leaving, being served and compacting, with death at every step.

use loom::thread::{self, JoinHandle};
use std::sync::Arc;

use super::{check, check_deaths};
use crate::segment::atomic::{AtomicU64, death};
use crate::segment::index::{ClientIndex, PoolIndex, SlotIndex};
use crate::segment::state::Generation;
use crate::segment::wait_queue::{QueueFull, Ticket, Wait, WaitQueue, WaitWord};

struct Model {
    head: AtomicU64,
    tail: AtomicU64,
    compactor: AtomicU64,
    ring: Vec<AtomicU64>,
    words: Vec<WaitWord>,
}

impl Model {
    fn new(cells: usize, clients: usize) -> Arc<Self> {
        Arc::new(Model {
            head: AtomicU64::new(0),
            tail: AtomicU64::new(0),
            compactor: AtomicU64::new(0),
            ring: (0..cells).map(|_| AtomicU64::new(0)).collect(),
            words: (0..clients).map(|_| WaitWord::default()).collect(),
        })
    }

    fn queue(&self) -> WaitQueue<'_> {
        WaitQueue {
            pool: PoolIndex(0),
            head: &self.head,
            tail: &self.tail,
            compactor: &self.compactor,
            ring: &self.ring,
        }
    }

    fn word(&self, client: ClientIndex) -> Option<&WaitWord> {
        self.words.get(client.at())
    }

    fn join(&self, client: u32) -> Result<Ticket, QueueFull> {
        self.queue().enqueue(ClientIndex(client), &self.words[client as usize], |c| self.word(c))
    }

    /// Serves the head with `slot`.
    fn serve(&self, slot: u32) -> Option<ClientIndex> {
        let chosen = self.queue().choose(SlotIndex(slot), Generation(1), |c| self.word(c))?;
        self.queue().pass(chosen);
        Some(chosen.client)
    }

    /// Leaves the queue; `false`: it was served before.
    fn leave(&self, client: u32) -> bool {
        let word = &self.words[client as usize];
        loop {
            let waiting = word.load();
            if !matches!(waiting, Wait::Waiting { .. }) {
                return false;
            }
            if word.change(waiting, Wait::Idle).is_ok() {
                self.queue().trim(&|c| self.word(c));
                return true;
            }
        }
    }

    /// What main does for a client that died.
    fn recover(&self, client: u32) {
        self.leave(client);
        self.queue().end_compaction_of(ClientIndex(client));
    }

    /// Serves all that wait, with slots from 100 on.
    fn serve_all(&self) -> Vec<u32> {
        (100..).map_while(|slot| self.serve(slot)).map(|c| c.0).collect()
    }

    fn was_served(&self, client: u32) -> bool {
        matches!(self.words[client as usize].load(), Wait::Granted { .. })
    }
}

fn start<T: 'static>(model: &Arc<Model>, work: impl FnOnce(&Model) -> T + 'static) -> JoinHandle<T> {
    let model = Arc::clone(model);
    thread::spawn(move || work(&model))
}

#[test]
fn loom_queue_serves_each_once_and_in_order() {
    check("two join, one serves", Some(4), || {
        let model = Model::new(4, 3);
        let a = start(&model, |m| m.join(0).unwrap());
        let b = start(&model, |m| m.join(1).unwrap());
        let mut served: Vec<u32> = model.serve(1).into_iter().map(|c| c.0).collect();
        let (a, b) = (a.join().unwrap(), b.join().unwrap());
        served.extend(model.serve_all());
        let expected = if a < b { [0, 1] } else { [1, 0] };
        assert_eq!(served, expected);
        assert!(model.was_served(0) && model.was_served(1) && model.queue().is_empty());
    });
}

#[test]
fn loom_queue_two_servers_serve_two_clients() {
    check("two serve two", None, || {
        let model = Model::new(4, 2);
        model.join(0).unwrap();
        model.join(1).unwrap();
        let other = start(&model, |m| m.serve(1));
        let (mine, other) = (model.serve(2), other.join().unwrap());
        let mut both = [mine.unwrap().0, other.unwrap().0];
        both.sort_unstable();
        assert_eq!(both, [0, 1]);
        assert!(model.queue().is_empty());
    });
}

#[test]
fn loom_queue_leaver_is_skipped_or_served() {
    check("leave against serve and join", Some(4), || {
        let model = Model::new(4, 3);
        model.join(0).unwrap();
        model.join(1).unwrap();
        let leaver = start(&model, |m| m.leave(0));
        let joiner = start(&model, |m| m.join(2).unwrap());
        let first = model.serve(1).unwrap().0;
        joiner.join().unwrap();
        if leaver.join().unwrap() {
            assert_eq!(first, 1, "who has left is not served");
            assert_eq!(model.serve_all(), [2]);
        } else {
            assert_eq!(first, 0);
            assert_eq!(model.serve_all(), [1, 2]);
        }
    });
}

#[test]
fn loom_queue_outlives_a_death_while_joining() {
    check_deaths("death while joining", Some(3), |steps| {
        let model = Model::new(4, 3);
        let victim = start(&model, move |m| death::after(steps, || m.join(0).unwrap()).is_none());
        let other = start(&model, |m| m.join(1).unwrap());
        let early = model.serve(1);
        other.join().unwrap();
        let died = victim.join().unwrap();
        if died {
            model.recover(0);
        }
        // The queue goes on round its ring, wherever the tail was left.
        model.serve_all();
        assert!(model.was_served(1));
        assert!(died || model.was_served(0));
        for round in 0..5 {
            assert!(model.words[2].change(model.words[2].load(), Wait::Idle).is_ok());
            model.join(2).unwrap_or_else(|e| panic!("{e:?} in round {round}, served before: {early:?}"));
            assert_eq!(model.serve_all(), [2]);
        }
        died
    });
}

#[test]
fn loom_queue_outlives_a_death_while_serving() {
    check_deaths("death while serving", None, |steps| {
        let model = Model::new(4, 2);
        model.join(0).unwrap();
        model.join(1).unwrap();
        let victim = start(&model, move |m| death::after(steps, || m.serve(1)).is_none());
        let other = model.serve(2).unwrap();
        let died = victim.join().unwrap();
        model.serve_all();
        assert!(model.was_served(0) && model.was_served(1) && model.queue().is_empty(), "{other:?}");
        died
    });
}

/// A ring of eight: clients 0 to 5 in it, of whom 1, 2 and 4 have left, so that 6 is to compact it.
fn with_holes() -> Arc<Model> {
    let model = Model::new(8, 8);
    for client in 0..6 {
        model.join(client).unwrap();
    }
    for client in [1, 2, 4] {
        assert!(model.leave(client));
    }
    model
}

#[test]
fn loom_queue_is_compacted_while_others_are_served_and_leave() {
    check("compaction against serve and leave", Some(2), || {
        let model = with_holes();
        let compactor = start(&model, |m| m.join(6).unwrap());
        let leaver = start(&model, |m| m.leave(3));
        let mut served = vec![model.serve(1).unwrap().0];
        compactor.join().unwrap();
        let left = leaver.join().unwrap();
        served.extend(model.serve_all());
        let expected: &[u32] = if left { &[0, 5, 6] } else { &[0, 3, 5, 6] };
        assert_eq!(served, expected);
    });
}

#[test]
fn loom_queue_outlives_a_death_while_compacting() {
    check_deaths("death while compacting", Some(1), |steps| {
        let model = with_holes();
        let victim = start(&model, move |m| death::after(steps, || m.join(6).unwrap()).is_none());
        let other = start(&model, |m| m.join(7).unwrap());
        let mut served = vec![model.serve(1).unwrap().0];
        let died = victim.join().unwrap();
        if died {
            model.recover(6);
        }
        other.join().unwrap();
        served.extend(model.serve_all());
        served.retain(|c| *c < 6);
        assert_eq!(served, [0, 3, 5]);
        assert!(model.was_served(7) && (died || model.was_served(6)));
        // A dead compactor does not keep others from compacting.
        assert_eq!(model.join(1).map(|_| ()), Ok(()));
        for _ in 0..20 {
            model.join(2).unwrap();
            assert!(model.leave(2));
        }
        assert_eq!(model.serve_all(), [1]);
        died
    });
}
