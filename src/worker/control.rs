//! What the outside tells a worker while it serves: signals, and wake-ups from other workers.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::os::fd::AsFd;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use mio::Interest;

use crate::net::{TaskId, current_task, register, spawn, wake_task};
use crate::protocol::{Report, SqlState};
use crate::sys::signals::{Signal, Signals};

/// Why a client has to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// This client alone (SIGQUIT to its worker).
    ThisClient,
    /// Howdah stops at once (SIGTERM from main).
    Shutdown,
}

impl Stop {
    /// What the client is told.
    #[must_use]
    pub fn report(self) -> Report {
        Report::fatal(SqlState::ADMIN_SHUTDOWN, "terminating connection due to administrator command")
    }
}

/// Told by the signal task, looked at by whatever the worker waits in.
///
/// A wake-up carries nothing: whoever is polled looks at the truth (the wait word, the pin, [`Control::stop`]).
pub struct Control {
    stop: Cell<Option<Stop>>,
    task: Cell<TaskId>,
}

impl Control {
    /// Starts the task that reads the signals of this process.
    ///
    /// # Errors
    /// What epoll says.
    pub fn start(signals: Rc<Signals>) -> std::io::Result<Rc<Self>> {
        let control = Rc::new(Control { stop: Cell::new(None), task: Cell::new(TaskId::NONE) });
        let source = register(signals.as_fd(), Interest::READABLE)?;
        let told = Rc::clone(&control);
        spawn(poll_fn(move |_| {
            source.clear_readable();
            for (signal, _) in signals.take() {
                match signal {
                    Signal::SIGTERM => told.stop.set(Some(Stop::Shutdown)),
                    Signal::SIGQUIT if told.stop.get().is_none() => told.stop.set(Some(Stop::ThisClient)),
                    // SIGINT comes from a terminal to all of its processes, SIGHUP likewise: main's to handle.
                    _ => {}
                }
            }
            wake_task(told.task.get());
            source.wait_readable();
            Poll::Pending
        }));
        Ok(control)
    }

    /// Whether the client has to go. The running task is polled when that changes, and at each wake-up.
    #[must_use]
    pub fn stop(&self) -> Option<Stop> {
        self.task.set(current_task());
        self.stop.get()
    }

    /// Runs `future` until it is done or the client has to go.
    ///
    /// # Errors
    /// Why the client has to go; the future is dropped where it stood.
    pub async fn unless_stopped<T>(&self, future: impl Future<Output = T>) -> Result<T, Stop> {
        let mut future = pin!(future);
        poll_fn(|context| match self.stop() {
            Some(stop) => Poll::Ready(Err(stop)),
            None => future.as_mut().poll(context).map(Ok),
        })
        .await
    }
}
