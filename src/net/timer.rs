//! Time limits. A deadline that nothing waits for costs nothing; one that is not set (`None`) never wakes anybody.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use super::runtime::{TaskId, add_timer, remove_timer, wake_task};
use crate::sys::clock;

/// The time was up.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the time was up")]
pub struct Elapsed;

/// The timers of the executor, by time.
#[derive(Default)]
pub(super) struct Timers {
    next_id: u64,
    by_time: BTreeMap<(Duration, u64), TaskId>,
}

impl Timers {
    pub(super) fn add(&mut self, at: Duration, task: TaskId) -> u64 {
        self.next_id += 1;
        self.by_time.insert((at, self.next_id), task);
        self.next_id
    }

    pub(super) fn remove(&mut self, at: Duration, id: u64) {
        self.by_time.remove(&(at, id));
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Duration> {
        self.by_time.keys().next().map(|(at, _)| *at)
    }

    /// Wakes the tasks of those that are due.
    pub(super) fn expire(&mut self, now: Duration) {
        while let Some(entry) = self.by_time.first_entry() {
            if entry.key().0 > now {
                return;
            }
            wake_task(entry.remove());
        }
    }
}

/// Waits for a moment.
#[must_use = "futures do nothing unless polled"]
pub struct Sleep {
    at: Duration,
    /// Some iff a timer is set.
    timer: Option<u64>,
}

/// Waits until `at` by [`clock::monotonic`].
pub fn sleep_until(at: Duration) -> Sleep {
    Sleep { at, timer: None }
}

/// Waits for `duration`.
pub fn sleep(duration: Duration) -> Sleep {
    sleep_until(clock::monotonic() + duration)
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        if clock::monotonic() >= self.at {
            return Poll::Ready(());
        }
        if let Some(id) = self.timer.take() {
            remove_timer(self.at, id);
        }
        self.timer = Some(add_timer(self.at));
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(id) = self.timer.take() {
            remove_timer(self.at, id);
        }
    }
}

/// Runs `future` for no longer than `limit`.
///
/// # Errors
/// [`Elapsed`]; the future is dropped where it stood.
pub async fn timeout<T>(limit: Duration, future: impl Future<Output = T>) -> Result<T, Elapsed> {
    let mut future = pin!(future);
    let mut sleep = sleep(limit);
    std::future::poll_fn(|context| {
        if let Poll::Ready(output) = future.as_mut().poll(context) {
            return Poll::Ready(Ok(output));
        }
        Pin::new(&mut sleep).poll(context).map(|()| Err(Elapsed))
    })
    .await
}
