//! The sockets that clients connect to.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use log::warn;

use crate::config::Config;
use crate::sys::socket;
use crate::sys::user::{self, Account};

/// A socket that clients connect to.
pub struct Listener {
    /// The socket.
    pub fd: OwnedFd,
    /// The file of a Unix socket, removed at the end.
    pub path: Option<PathBuf>,
    /// What it is called in the log.
    pub name: String,
}

/// One of the configured addresses cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}{hint}")]
pub struct ListenError {
    address: String,
    source: io::Error,
    hint: &'static str,
}

impl ListenError {
    fn new(address: String, source: io::Error) -> Self {
        let hint = match source.kind() {
            io::ErrorKind::AddrInUse => " (is another howdah, or another program, using this port?)",
            io::ErrorKind::AddrNotAvailable => " (this address is not one of this machine)",
            io::ErrorKind::PermissionDenied => " (ports below 1024 and foreign directories need more rights)",
            io::ErrorKind::NotFound => " (does the directory exist?)",
            _ => "",
        };
        ListenError { address, source, hint }
    }
}

/// Listens on everything that is configured, or on nothing.
///
/// # Errors
/// The first address that cannot be listened on.
pub fn open_all(config: &Config, owner: Option<&Account>) -> Result<Vec<Listener>, ListenError> {
    let mut listeners = Vec::new();
    for address in &config.listen_addresses {
        let fd = match socket::listen_tcp(*address, config.listen_backlog) {
            Ok(fd) => fd,
            Err(e)
                if is_without_ipv6(*address, &e) && config.listen_addresses.iter().any(|a| a.is_ipv4()) =>
            {
                warn!("not listening on {address}: this machine has no IPv6");
                continue;
            }
            Err(e) => return Err(ListenError::new(address.to_string(), e)),
        };
        let name = socket::local_address(std::os::fd::AsFd::as_fd(&fd)).unwrap_or(*address).to_string();
        listeners.push(Listener { fd, path: None, name });
    }
    for directory in &config.unix_socket_directories {
        let path = directory.join(format!(".s.PGSQL.{}", config.port));
        let listen = || {
            let fd = socket::listen_unix(&path, config.unix_socket_permissions, config.listen_backlog)?;
            if let Some(owner) = owner {
                user::give(&path, owner)?;
            }
            Ok(fd)
        };
        let fd = listen().map_err(|e| ListenError::new(path.display().to_string(), e))?;
        listeners.push(Listener { fd, name: path.display().to_string(), path: Some(path) });
    }
    Ok(listeners)
}

/// "localhost" and "*" mean an IPv6 address too, which a machine need not have.
fn is_without_ipv6(address: SocketAddr, error: &io::Error) -> bool {
    let is_general = address.is_ipv6() && (address.ip().is_loopback() || address.ip().is_unspecified());
    is_general && matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

/// Closes them, and removes the files of Unix sockets.
pub fn close_all(listeners: &mut Vec<Listener>) {
    for listener in listeners.drain(..) {
        if let Some(path) = &listener.path {
            let _ = std::fs::remove_file(path);
        }
    }
}
