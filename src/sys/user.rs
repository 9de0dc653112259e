//! Users: who runs this, and giving up root.

use std::io;

use nix::unistd::{Gid, Uid, User, chown, geteuid, setgroups, setresgid, setresuid};

/// Whether the process runs as root.
#[must_use]
pub fn is_root() -> bool {
    geteuid().is_root()
}

/// The effective user id.
#[must_use]
pub fn current_uid() -> u32 {
    geteuid().as_raw()
}

/// A user of this system.
#[derive(Clone, Debug)]
pub struct Account {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
}

/// Looks up a user by name. Reads files, may ask a directory service: not for main's loop.
///
/// # Errors
/// There is no such user, or the system cannot tell.
pub fn find(name: &str) -> io::Result<Account> {
    match User::from_name(name)? {
        Some(user) => Ok(Account { uid: user.uid.as_raw(), gid: user.gid.as_raw() }),
        None => Err(io::Error::new(io::ErrorKind::NotFound, format!("no user {name:?} on this system"))),
    }
}

/// Becomes `account` for good: real, effective and saved ids, and no supplementary groups.
///
/// # Errors
/// The process is not root.
pub fn become_user(account: &Account) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
    setgroups(&[gid])?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    Ok(())
}

/// Gives a file to `account`.
///
/// # Errors
/// What the kernel says.
pub fn give(path: &std::path::Path, account: &Account) -> io::Result<()> {
    Ok(chown(path, Some(Uid::from_raw(account.uid)), Some(Gid::from_raw(account.gid)))?)
}
