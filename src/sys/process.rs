//! Processes: fork, exit, reap, and the checks that make fork safe.

#![allow(unsafe_code)]

use std::convert::Infallible;
use std::io;

pub use nix::unistd::Pid;

use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::ForkResult;

/// Starts a child that runs `child` and nothing else. The child never comes back: what `child` returns is [`Infallible`].
///
/// Standard output and error hold nothing back in this project, so there is nothing to flush before.
///
/// # Errors
/// The kernel has no process or memory for it.
///
/// # Panics
/// In debug builds, if the process has more than one thread: only the calling one would exist in the child.
pub fn spawn(child: impl FnOnce() -> Infallible) -> io::Result<Pid> {
    debug_assert_eq!(threads(), 1, "fork is only safe in a process with a single thread");
    // SAFETY: the process has a single thread (no part of the daemon starts one; a test reads the task list), so the
    // child finds every lock free and every data structure whole.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(child),
        #[expect(unreachable_code, reason = "there is no way back from the child's code")]
        ForkResult::Child => match child() {},
    }
}

/// Ends the process at once: no destructor, no `atexit` function of a library that expects the parent's state.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` takes any integer and does not return.
    unsafe { libc::_exit(code) }
}

/// This process.
#[must_use]
pub fn current_pid() -> i32 {
    nix::unistd::getpid().as_raw()
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this code.
    Exited(i32),
    /// By this signal.
    Killed(i32),
}

/// Reaps one child that has ended, if there is one. Never waits.
#[must_use]
pub fn reap_one() -> Option<(Pid, Ended)> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => return Some((pid, Ended::Exited(code))),
            Ok(WaitStatus::Signaled(pid, signal, _)) => return Some((pid, Ended::Killed(signal as i32))),
            Ok(WaitStatus::StillAlive) => return None,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return None,
        }
    }
}

/// How many threads the process has; 1 when `/proc` cannot tell.
#[must_use]
pub fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count)
}

/// The name that `ps` and `top` show, cut at 15 bytes.
pub fn set_name(name: &str) {
    let mut bytes = [0u8; 16];
    for (to, from) in bytes.iter_mut().take(15).zip(name.bytes().filter(|&b| b != 0)) {
        *to = from;
    }
    // SAFETY: PR_SET_NAME reads up to 16 bytes from a buffer that ends with NUL: `bytes` is 16 with the last one zero.
    unsafe {
        libc::prctl(libc::PR_SET_NAME, bytes.as_ptr());
    }
}

/// No program that this process starts can gain privileges (`no_new_privs`).
///
/// # Errors
/// What the kernel says.
pub fn forbid_new_privileges() -> io::Result<()> {
    // SAFETY: PR_SET_NO_NEW_PRIVS takes integers only.
    let done = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1u64, 0u64, 0u64, 0u64) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Lets SIGABRT write a core dump although the process has changed its user.
pub fn allow_core_dumps() {
    // SAFETY: PR_SET_DUMPABLE takes integers only.
    unsafe {
        libc::prctl(libc::PR_SET_DUMPABLE, 1u64, 0u64, 0u64, 0u64);
    }
}

/// Random bytes from the kernel, fresh in every process (a generator of a library would go on alike after fork).
///
/// # Errors
/// The kernel's generator is not ready or not there.
pub fn random_bytes(into: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while filled < into.len() {
        let rest = &mut into[filled..];
        // SAFETY: the pointer and length are those of `rest`, which is writable.
        let n = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match usize::try_from(n) {
            Ok(n) => filled += n,
            Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Err(io::Error::last_os_error()),
        }
    }
    Ok(())
}
