//! Connections to servers.

use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::Duration;

use super::stream::Stream;
use super::timer::sleep;
use crate::config::TcpConfig;
use crate::sys::socket::{self, KeepAlive};

/// Where to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// TCP, the addresses in the order in which to try them.
    Tcp(Vec<SocketAddr>),
    /// A Unix socket.
    Unix(PathBuf),
}

/// No address could be connected to.
#[derive(Debug, thiserror::Error)]
#[error("cannot connect to {target}: {source}")]
pub struct ConnectError {
    /// The last address tried.
    pub target: String,
    /// What it said.
    pub source: io::Error,
}

/// Socket options of a TCP connection, on either side.
#[derive(Clone, Copy, Debug)]
pub struct SocketOptions(pub TcpConfig);

impl SocketOptions {
    /// Applies them. What a socket does not know (a Unix socket) is passed over.
    pub fn apply(&self, fd: BorrowedFd<'_>) {
        let tcp = &self.0;
        if tcp.nodelay && socket::set_nodelay(fd).is_err() {
            return; // not TCP
        }
        if tcp.keepalive {
            let keep_alive = KeepAlive {
                idle: tcp.keepalives_idle,
                interval: tcp.keepalives_interval,
                count: tcp.keepalives_count,
            };
            let _ = socket::set_keep_alive(fd, keep_alive);
        }
        if let Some(limit) = tcp.user_timeout {
            let _ = socket::set_user_timeout(fd, limit);
        }
    }
}

/// Connects, trying one address after the other. The caller sets the time limit.
///
/// # Errors
/// What the last address said.
pub async fn connect(target: &Target, options: SocketOptions) -> Result<Stream, ConnectError> {
    match target {
        Target::Unix(path) => {
            let failed = |source| ConnectError { target: path.display().to_string(), source };
            connect_unix(path).await.map_err(failed)
        }
        Target::Tcp(addresses) => {
            let mut last = ConnectError {
                target: "a server without addresses".to_owned(),
                source: io::ErrorKind::AddrNotAvailable.into(),
            };
            for address in addresses {
                match connect_tcp(*address, options).await {
                    Ok(stream) => return Ok(stream),
                    Err(source) => last = ConnectError { target: address.to_string(), source },
                }
            }
            Err(last)
        }
    }
}

async fn connect_tcp(address: SocketAddr, options: SocketOptions) -> io::Result<Stream> {
    let fd = socket::begin_connect(address)?;
    let stream = Stream::new(fd)?;
    stream.connected().await?;
    options.apply(stream.descriptor());
    Ok(stream)
}

async fn connect_unix(path: &std::path::Path) -> io::Result<Stream> {
    loop {
        match socket::begin_connect_unix(path) {
            Ok(fd) => return Stream::new(fd),
            // The listener's backlog is full; Unix sockets tell no event for that.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => sleep(Duration::from_millis(10)).await,
            Err(e) => return Err(e),
        }
    }
}
