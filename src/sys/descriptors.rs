//! The table of descriptors: limits, copies, and closing many at once.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// What main alone uses gets numbers from here on: a child closes all of it with two system calls. Below are what
/// children keep (log, signals, the socket to main) and sockets of clients.
pub const OWN_FROM: RawFd = 64;
/// Keeper descriptors get numbers from here on, so that a worker can close all but its own with two system calls.
pub const KEEPERS_FROM: RawFd = 256;

/// Runs `make` while every number below [`OWN_FROM`] is taken, so that the descriptors which it opens get numbers from
/// there on.
///
/// # Errors
/// What `make` says, or the table is full.
pub fn among_own<T>(make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let mut fillers: Vec<OwnedFd> = Vec::new();
    loop {
        let filler: OwnedFd = std::fs::File::open("/dev/null")?.into();
        if filler.as_raw_fd() >= OWN_FROM {
            break;
        }
        fillers.push(filler);
    }
    make()
}

/// A copy with a number of at least [`OWN_FROM`], close-on-exec; the original is closed.
///
/// # Errors
/// The table is full; the original is closed all the same.
pub fn move_to_own(fd: OwnedFd) -> io::Result<OwnedFd> {
    let raw = fcntl(&fd, FcntlArg::F_DUPFD_CLOEXEC(OWN_FROM))?;
    // SAFETY: the kernel has just made this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Closes what is main's alone, [`OWN_FROM`] to [`KEEPERS_FROM`], but `keep`.
///
/// Only a child that has just been forked may call it: the owners in the parent's data structures are never dropped in
/// this process.
pub fn close_own_of_main_but(keep: Option<BorrowedFd<'_>>) {
    close_range_but(OWN_FROM, u32::try_from(KEEPERS_FROM - 1).unwrap_or(0), keep);
}

/// A copy with a number of at least [`KEEPERS_FROM`], close-on-exec; the original is closed.
///
/// # Errors
/// The table is full; the original is closed all the same.
pub fn move_to_keepers(fd: OwnedFd) -> io::Result<OwnedFd> {
    let raw = fcntl(&fd, FcntlArg::F_DUPFD_CLOEXEC(KEEPERS_FROM))?;
    // SAFETY: the kernel has just made this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Closes every descriptor from [`KEEPERS_FROM`] on but `keep`.
///
/// Only a worker that has just been forked may call it, before it uses any inherited keeper: their owners in the
/// parent's data structures are never dropped in this process.
pub fn close_keepers_but(keep: Option<BorrowedFd<'_>>) {
    close_range_but(KEEPERS_FROM, u32::MAX, keep);
}

fn close_range_but(from: RawFd, to: u32, keep: Option<BorrowedFd<'_>>) {
    let from = u32::try_from(from).unwrap_or(u32::MAX);
    let close = |from: u32, to: u32| {
        if from <= to {
            // SAFETY: `close_range` takes integers. The callers' contract is that no `OwnedFd` of this process that is
            // used afterwards has a number in the range.
            unsafe { libc::close_range(from, to, 0) };
        }
    };
    match keep.and_then(|fd| u32::try_from(fd.as_raw_fd()).ok()).filter(|keep| (from..=to).contains(keep)) {
        Some(keep) => {
            if keep > from {
                close(from, keep - 1);
            }
            if keep < to {
                close(keep + 1, to);
            }
        }
        None => close(from, to),
    }
}

/// Raises the soft limit of open descriptors to the hard one if it is below `wanted`; what it is then.
pub fn raise_limit(wanted: u64) -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 0 };
    if soft >= wanted {
        return soft;
    }
    let raised = wanted.min(hard);
    match setrlimit(Resource::RLIMIT_NOFILE, raised, hard) {
        Ok(()) => raised,
        Err(_) => soft,
    }
}
