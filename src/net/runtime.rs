//! The executor: one per process, in its only thread.
//!
//! A task is polled when something it waits for has happened. Futures that wait for a descriptor or for time note the
//! running task ([`current_task`]) where the event will find it, and return `Pending`; the
//! `Context` they are given carries a waker that does nothing.
//!
//! ```text
//! block_on ─▶ poll ready tasks ─▶ none left: epoll_wait until the next timer ─▶ events mark sources ready, push tasks ─┐
//!     ▲                                                                                                            │
//!     └────────────────────────────────────────────────────────────────────────────────────────────────────────────┘
//! ```

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Token};

use super::timer::Timers;
use crate::sys::clock;

/// Events taken from the kernel at a time: 768 bytes, as larger blocks make the allocator of a fresh child tidy up.
const EVENTS: usize = 64;

/// Names a task. [`TaskId::NONE`] is nobody.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TaskId(u32);

impl TaskId {
    /// Nobody.
    pub const NONE: TaskId = TaskId(u32::MAX);
    /// The future given to [`block_on`].
    const MAIN: TaskId = TaskId(u32::MAX - 1);
}

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// What the events of one descriptor have told so far, and who waits for them.
pub struct Source {
    token: usize,
    pub(super) readable: Cell<bool>,
    pub(super) writable: Cell<bool>,
    /// The other side will send no more: reading never blocks again, so `readable` stays set.
    pub(super) read_closed: Cell<bool>,
    reader: Cell<TaskId>,
    writer: Cell<TaskId>,
}

impl Source {
    /// Notes the running task as the one to poll when the descriptor becomes readable.
    pub fn wait_readable(&self) {
        self.reader.set(current_task());
    }

    /// Notes the running task as the one to poll when the descriptor becomes writable.
    pub fn wait_writable(&self) {
        self.writer.set(current_task());
    }

    /// Whether an event has said so since the last [`Source::clear_readable`].
    #[must_use]
    pub fn is_readable(&self) -> bool {
        self.readable.get()
    }

    /// All there was has been read: wait for the next event. (Events are edge-triggered.)
    pub fn clear_readable(&self) {
        self.readable.set(self.read_closed.get());
    }

    /// Whether the other side has said that it will send no more.
    #[must_use]
    pub fn is_read_closed(&self) -> bool {
        self.read_closed.get()
    }
}

struct Runtime {
    poll: RefCell<mio::Poll>,
    sources: RefCell<Vec<Option<Rc<Source>>>>,
    free_sources: RefCell<Vec<usize>>,
    tasks: RefCell<Vec<Option<Task>>>,
    free_tasks: RefCell<Vec<u32>>,
    ready: RefCell<VecDeque<TaskId>>,
    timers: RefCell<Timers>,
}

thread_local! {
    /// Lives as long as the process. Without a destructor: registering one in each child would have the dynamic linker
    /// look symbols up in each child, a tenth of all its page faults.
    static RUNTIME: ManuallyDrop<RefCell<Option<Rc<Runtime>>>> = const { ManuallyDrop::new(RefCell::new(None)) };
    /// The task that is being polled.
    static CURRENT: Cell<TaskId> = const { Cell::new(TaskId::NONE) };
}

/// Makes the executor of this process, in a child right after fork: a poller inherited from the parent would be shared
/// with it.
///
/// # Errors
/// The table of descriptors is full.
pub fn start() -> io::Result<()> {
    let poll = mio::Poll::new()?;
    let runtime = Runtime {
        poll: RefCell::new(poll),
        sources: RefCell::default(),
        free_sources: RefCell::default(),
        tasks: RefCell::default(),
        free_tasks: RefCell::default(),
        ready: RefCell::default(),
        timers: RefCell::default(),
    };
    RUNTIME.with(|cell| *cell.borrow_mut() = Some(Rc::new(runtime)));
    Ok(())
}

fn runtime() -> Rc<Runtime> {
    RUNTIME.with(|cell| cell.borrow().clone()).expect("start() is the first act of every process that waits")
}

/// The task that is being polled.
#[must_use]
pub fn current_task() -> TaskId {
    CURRENT.get()
}

/// Has `task` polled soon.
pub fn wake_task(task: TaskId) {
    if task != TaskId::NONE {
        let runtime = runtime();
        let mut ready = runtime.ready.borrow_mut();
        if ready.back() != Some(&task) {
            ready.push_back(task);
        }
    }
}

/// Runs `future` beside the others of this process.
pub fn spawn(future: impl Future<Output = ()> + 'static) -> TaskId {
    let runtime = runtime();
    let mut tasks = runtime.tasks.borrow_mut();
    let index = runtime.free_tasks.borrow_mut().pop().unwrap_or_else(|| {
        tasks.push(None);
        u32::try_from(tasks.len() - 1).expect("fewer tasks than descriptors")
    });
    tasks[index as usize] = Some(Box::pin(future));
    drop(tasks);
    wake_task(TaskId(index));
    TaskId(index)
}

/// Runs until `future` is done, and the spawned tasks meanwhile.
///
/// # Errors
/// The poller broke.
pub fn block_on<T>(future: impl Future<Output = T>) -> io::Result<T> {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    let runtime = runtime();
    let mut events = Events::with_capacity(EVENTS);
    wake_task(TaskId::MAIN);
    loop {
        while let Some(task) = { runtime.ready.borrow_mut().pop_front() } {
            CURRENT.set(task);
            if task == TaskId::MAIN {
                if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
                    CURRENT.set(TaskId::NONE);
                    return Ok(output);
                }
            } else {
                runtime.poll_task(task, &mut context);
            }
            CURRENT.set(TaskId::NONE);
        }
        runtime.wait(&mut events)?;
    }
}

impl Runtime {
    fn poll_task(&self, id: TaskId, context: &mut Context<'_>) {
        // Taken out meanwhile, so that the task may spawn others.
        let taken = self.tasks.borrow_mut().get_mut(id.0 as usize).and_then(Option::take);
        let Some(mut task) = taken else { return };
        if task.as_mut().poll(context).is_pending() {
            self.tasks.borrow_mut()[id.0 as usize] = Some(task);
        } else {
            self.free_tasks.borrow_mut().push(id.0);
        }
    }

    /// Waits for events or the next timer, and marks what has happened.
    fn wait(&self, events: &mut Events) -> io::Result<()> {
        let limit = self.timers.borrow().next().map(|at| at.saturating_sub(clock::monotonic()));
        match self.poll.borrow_mut().poll(events, limit.map(round_up)) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => other?,
        }
        for event in &*events {
            let source = self.sources.borrow().get(event.token().0).cloned().flatten();
            if let Some(source) = source {
                dispatch(&source, event);
            }
        }
        if limit.is_some() {
            self.timers.borrow_mut().expire(clock::monotonic());
        }
        Ok(())
    }
}

/// The kernel counts milliseconds; a wait that is rounded down would spin.
fn round_up(limit: Duration) -> Duration {
    if limit.subsec_nanos().is_multiple_of(1_000_000) { limit } else { limit + Duration::from_millis(1) }
}

fn dispatch(source: &Source, event: &mio::event::Event) {
    let failed = event.is_error();
    if event.is_readable() || event.is_read_closed() || failed {
        source.readable.set(true);
        source.read_closed.set(source.read_closed.get() || event.is_read_closed() || failed);
        wake_task(source.reader.replace(TaskId::NONE));
    }
    if event.is_writable() || event.is_write_closed() || failed {
        source.writable.set(true);
        wake_task(source.writer.replace(TaskId::NONE));
    }
}

/// Registers a descriptor, edge-triggered. It has to be taken out before it is closed (a [`super::Stream`] does that): copies of
/// it in other processes keep the registration alive.
///
/// # Errors
/// What epoll says.
pub fn register(fd: BorrowedFd<'_>, interest: Interest) -> io::Result<Rc<Source>> {
    let runtime = runtime();
    let mut sources = runtime.sources.borrow_mut();
    let token = runtime.free_sources.borrow_mut().pop().unwrap_or_else(|| {
        sources.push(None);
        sources.len() - 1
    });
    runtime.poll.borrow().registry().register(&mut SourceFd(&fd.as_raw_fd()), Token(token), interest)?;
    let source = Rc::new(Source {
        token,
        readable: Cell::new(false),
        writable: Cell::new(true),
        read_closed: Cell::new(false),
        reader: Cell::new(TaskId::NONE),
        writer: Cell::new(TaskId::NONE),
    });
    sources[token] = Some(Rc::clone(&source));
    Ok(source)
}

/// Changes what a registered descriptor is watched for.
pub(super) fn reregister(fd: BorrowedFd<'_>, source: &Source, interest: Interest) -> io::Result<()> {
    runtime().poll.borrow().registry().reregister(
        &mut SourceFd(&fd.as_raw_fd()),
        Token(source.token),
        interest,
    )
}

/// Takes a descriptor out, before it is closed.
pub(super) fn deregister(fd: BorrowedFd<'_>, source: &Source) {
    let runtime = runtime();
    let _ = runtime.poll.borrow().registry().deregister(&mut SourceFd(&fd.as_raw_fd()));
    runtime.sources.borrow_mut()[source.token] = None;
    runtime.free_sources.borrow_mut().push(source.token);
}

pub(super) fn add_timer(at: Duration) -> u64 {
    let runtime = runtime();
    runtime.timers.borrow_mut().add(at, current_task())
}

pub(super) fn remove_timer(at: Duration, id: u64) {
    runtime().timers.borrow_mut().remove(at, id);
}

#[cfg(test)]
mod tests {
    use super::super::{sleep, timeout};
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_task_is_polled_when_its_descriptor_is_readable() {
        start().unwrap();
        let (a, b) = UnixStream::pair().unwrap();
        a.set_nonblocking(true).unwrap();
        let source = register(a.as_fd(), Interest::READABLE).unwrap();
        let written = Rc::new(Cell::new(false));
        let flag = Rc::clone(&written);
        spawn(async move {
            sleep(Duration::from_millis(5)).await;
            flag.set(true);
            std::io::Write::write_all(&mut &b, b"x").unwrap();
            std::mem::forget(b);
        });
        block_on(std::future::poll_fn(|_| {
            if source.is_readable() {
                return Poll::Ready(());
            }
            source.wait_readable();
            Poll::Pending
        }))
        .unwrap();
        assert!(written.get());
        deregister(a.as_fd(), &source);
    }

    #[test]
    fn a_time_limit_ends_what_never_comes() {
        start().unwrap();
        let never = std::future::pending::<()>();
        let ended = block_on(timeout(Duration::from_millis(3), never)).unwrap();
        assert!(ended.is_err());
    }
}
