//! Sockets: listening, connecting and the options that Howdah sets. All are non-blocking and close-on-exec.

#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::sockopt;
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, SockaddrLike, SockaddrStorage, UnixAddr, accept4,
    bind, connect, getpeername, getsockopt, listen, recv, send, setsockopt, socket,
};

const FLAGS: SockFlag = SockFlag::SOCK_CLOEXEC.union(SockFlag::SOCK_NONBLOCK);

/// Where a client connects from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerAddress {
    /// A Unix socket.
    Unix,
    /// TCP.
    Tcp(SocketAddr),
}

impl std::fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            PeerAddress::Unix => f.write_str("[local]"),
            PeerAddress::Tcp(address) => address.fmt(f),
        }
    }
}

/// Listens on a TCP address.
///
/// # Errors
/// It is in use, or not of this machine.
pub fn listen_tcp(address: SocketAddr, backlog: u32) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, SockType::Stream, FLAGS, None)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    if address.is_ipv6() {
        // An IPv4 socket may listen on the same port.
        setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    }
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
    listen(&fd, backlog_of(backlog))?;
    Ok(fd)
}

/// Listens on a Unix socket. A socket file that nobody listens on is replaced.
///
/// # Errors
/// Somebody listens on it, or the directory cannot be written.
pub fn listen_unix(path: &Path, mode: u32, backlog: u32) -> io::Result<OwnedFd> {
    let fd = socket(AddressFamily::Unix, SockType::Stream, FLAGS, None)?;
    let address = UnixAddr::new(path)?;
    match bind(fd.as_raw_fd(), &address) {
        Err(Errno::EADDRINUSE) if !is_listened_on(&address) => {
            fs::remove_file(path)?;
            bind(fd.as_raw_fd(), &address)?;
        }
        other => other?,
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    listen(&fd, backlog_of(backlog))?;
    Ok(fd)
}

fn is_listened_on(address: &UnixAddr) -> bool {
    let Ok(fd) = socket(AddressFamily::Unix, SockType::Stream, FLAGS, None) else { return true };
    !matches!(connect(fd.as_raw_fd(), address), Err(Errno::ECONNREFUSED | Errno::ENOENT))
}

fn backlog_of(backlog: u32) -> Backlog {
    Backlog::new(i32::try_from(backlog).unwrap_or(i32::MAX)).unwrap_or(Backlog::MAXCONN)
}

/// Accepts one connection. Never waits.
///
/// # Errors
/// `WouldBlock`: none is there. Others may be of the connection (gone again) or of the process (too many descriptors).
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let raw = accept4(listener.as_raw_fd(), FLAGS)?;
    // SAFETY: the kernel has just made this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Where the other end of a connection is.
#[must_use]
pub fn peer_address(fd: BorrowedFd<'_>) -> PeerAddress {
    let Ok(storage) = getpeername::<SockaddrStorage>(fd.as_raw_fd()) else { return PeerAddress::Unix };
    if let Some(v4) = storage.as_sockaddr_in() {
        return PeerAddress::Tcp(SocketAddr::V4((*v4).into()));
    }
    match storage.as_sockaddr_in6() {
        Some(v6) => PeerAddress::Tcp(SocketAddr::V6((*v6).into())),
        None => PeerAddress::Unix,
    }
}

/// The address that a socket is bound to, for sockets bound to port 0.
#[must_use]
pub fn local_address(fd: BorrowedFd<'_>) -> Option<SocketAddr> {
    let storage = nix::sys::socket::getsockname::<SockaddrStorage>(fd.as_raw_fd()).ok()?;
    match storage.as_sockaddr_in() {
        Some(v4) => Some(SocketAddr::V4((*v4).into())),
        None => storage.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into())),
    }
}

/// The user on the other end of a Unix socket.
///
/// # Errors
/// What the kernel says.
pub fn peer_credentials(fd: BorrowedFd<'_>) -> io::Result<(u32, i32)> {
    let credentials = getsockopt(&fd, sockopt::PeerCredentials)?;
    Ok((credentials.uid(), credentials.pid()))
}

/// Begins to connect to a TCP address. The socket becomes writable when it is done; ask [`take_error`] then.
///
/// # Errors
/// It cannot even begin.
pub fn begin_connect(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    begin(family, &SockaddrStorage::from(address))
}

/// Begins to connect to a Unix socket.
///
/// # Errors
/// Nobody listens there; `WouldBlock` when the listener's backlog is full.
pub fn begin_connect_unix(path: &Path) -> io::Result<OwnedFd> {
    begin(AddressFamily::Unix, &UnixAddr::new(path)?)
}

fn begin(family: AddressFamily, address: &dyn SockaddrLikeRef) -> io::Result<OwnedFd> {
    let fd = socket(family, SockType::Stream, FLAGS, None)?;
    match address.connect(fd.as_fd()) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(fd),
        Err(e) => Err(e.into()),
    }
}

/// `SockaddrLike` is not object-safe.
trait SockaddrLikeRef {
    fn connect(&self, fd: BorrowedFd<'_>) -> nix::Result<()>;
}

impl<T: SockaddrLike> SockaddrLikeRef for T {
    fn connect(&self, fd: BorrowedFd<'_>) -> nix::Result<()> {
        connect(fd.as_raw_fd(), self)
    }
}

/// The error that is pending on a socket.
///
/// # Errors
/// That error.
pub fn take_error(fd: BorrowedFd<'_>) -> io::Result<()> {
    match getsockopt(&fd, sockopt::SocketError)? {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

/// Reads what is there; 0: the other side has closed. Never waits.
///
/// # Errors
/// `WouldBlock`: nothing is there.
pub fn receive(fd: BorrowedFd<'_>, into: &mut [u8]) -> io::Result<usize> {
    Ok(recv(fd.as_raw_fd(), into, MsgFlags::empty())?)
}

/// Reads what is there and leaves it there.
///
/// # Errors
/// As [`receive`].
pub fn peek(fd: BorrowedFd<'_>, into: &mut [u8]) -> io::Result<usize> {
    Ok(recv(fd.as_raw_fd(), into, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT)?)
}

/// Writes what fits. Never waits, raises no SIGPIPE.
///
/// # Errors
/// `WouldBlock`: nothing fits.
pub fn transmit(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    Ok(send(fd.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL)?)
}

/// Ends a connection for all copies of its descriptor, in this process and others.
pub fn shut_down(fd: BorrowedFd<'_>, how: Shutdown) {
    let how = match how {
        Shutdown::Read => nix::sys::socket::Shutdown::Read,
        Shutdown::Write => nix::sys::socket::Shutdown::Write,
        Shutdown::Both => nix::sys::socket::Shutdown::Both,
    };
    // Already closed by the other side is as good.
    let _ = nix::sys::socket::shutdown(fd.as_raw_fd(), how);
}

/// Whether nothing waits to be read and the other side is there. Makes one system call.
#[must_use]
pub fn is_quiet(fd: BorrowedFd<'_>) -> bool {
    matches!(peek(fd, &mut [0u8; 1]), Err(e) if e.kind() == io::ErrorKind::WouldBlock)
}

/// TCP_NODELAY.
///
/// # Errors
/// It is no TCP socket.
pub fn set_nodelay(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(setsockopt(&fd, sockopt::TcpNoDelay, &true)?)
}

/// SO_KEEPALIVE and its times; `None`: the system's.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeepAlive {
    /// TCP_KEEPIDLE.
    pub idle: Option<Duration>,
    /// TCP_KEEPINTVL.
    pub interval: Option<Duration>,
    /// TCP_KEEPCNT.
    pub count: Option<u32>,
}

/// Switches keep-alive on.
///
/// # Errors
/// It is no TCP socket.
pub fn set_keep_alive(fd: BorrowedFd<'_>, keep_alive: KeepAlive) -> io::Result<()> {
    setsockopt(&fd, sockopt::KeepAlive, &true)?;
    if let Some(idle) = keep_alive.idle {
        setsockopt(&fd, sockopt::TcpKeepIdle, &whole_seconds(idle))?;
    }
    if let Some(interval) = keep_alive.interval {
        setsockopt(&fd, sockopt::TcpKeepInterval, &whole_seconds(interval))?;
    }
    if let Some(count) = keep_alive.count {
        setsockopt(&fd, sockopt::TcpKeepCount, &count)?;
    }
    Ok(())
}

/// TCP_USER_TIMEOUT: how long sent data may stay without an answer.
///
/// # Errors
/// It is no TCP socket.
pub fn set_user_timeout(fd: BorrowedFd<'_>, limit: Duration) -> io::Result<()> {
    let ms = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX);
    Ok(setsockopt(&fd, sockopt::TcpUserTimeout, &ms)?)
}

fn whole_seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs().max(1)).unwrap_or(u32::MAX)
}

/// The addresses of a host name. Waits for the name service: only in a child made for it.
///
/// # Errors
/// The name is not known, or the service does not answer.
pub fn resolve(name: &str) -> io::Result<Vec<IpAddr>> {
    let mut found: Vec<IpAddr> = Vec::new();
    for address in std::net::ToSocketAddrs::to_socket_addrs(&(name, 0))? {
        if !found.contains(&address.ip()) {
            found.push(address.ip());
        }
    }
    Ok(found)
}
