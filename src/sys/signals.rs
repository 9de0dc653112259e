//! Signals as a descriptor that becomes readable.
//!
//! Main blocks the signals once and makes the descriptor; children inherit both. A signal descriptor reports the
//! signals of the process that *reads* it, so each process registers the inherited one with a poller of its own.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

pub use nix::sys::signal::Signal;

use nix::sys::signal::{SigSet, SigmaskHow, kill, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

/// The signal that says "look at your wait word". Harmless to a process that happens to have inherited the number of a
/// worker that is gone: its default action is to be ignored.
pub const WAKE: Signal = Signal::SIGURG;

/// The signals that the daemon's processes handle.
const HANDLED: [Signal; 9] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGHUP,
    Signal::SIGTRAP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGCHLD,
    WAKE,
];

/// Size and offsets of `struct signalfd_siginfo` (signalfd(2)).
const INFO_LEN: usize = 128;
const SIGNO_AT: usize = 0;
const PID_AT: usize = 12;

/// The handled signals.
pub struct Signals {
    fd: SignalFd,
}

impl Signals {
    /// Blocks the handled signals and opens the descriptor.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open() -> io::Result<Self> {
        let mask: SigSet = HANDLED.into_iter().collect();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&mask), None)?;
        Ok(Signals { fd: SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)? })
    }

    /// The signals that are pending for this process, each with who sent it. Never waits.
    #[must_use]
    pub fn take(&self) -> Vec<(Signal, Pid)> {
        let mut taken = Vec::new();
        // As many as there can be at once, so that one read is enough.
        let mut infos = [0u8; INFO_LEN * HANDLED.len()];
        let n = nix::unistd::read(&self.fd, &mut infos).unwrap_or(0);
        for info in infos[..n].chunks_exact(INFO_LEN) {
            let field = |at: usize| i32::from_ne_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]]);
            if let Ok(signal) = Signal::try_from(field(SIGNO_AT)) {
                taken.push((signal, Pid::from_raw(field(PID_AT))));
            }
        }
        taken
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Sends `signal` to a process, if it is there.
pub fn send(pid: i32, signal: Signal) {
    // 0 and below mean groups of processes: never here.
    if pid > 0 {
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// Whether a process of that number exists.
#[must_use]
pub fn is_alive(pid: i32) -> bool {
    pid > 0 && !matches!(kill(Pid::from_raw(pid), None), Err(nix::errno::Errno::ESRCH))
}
