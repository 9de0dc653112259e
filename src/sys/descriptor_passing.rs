//! One descriptor with a message over a Unix socket.
//!
//! What is received is close-on-exec and owned; more descriptors than one, or a message that was cut, is an error, and
//! all that came is closed.

#![allow(unsafe_code)]

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg,
    socketpair,
};

/// A pair of connected sockets that keep messages apart, non-blocking and close-on-exec.
///
/// # Errors
/// The table of descriptors is full.
pub fn message_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?)
}

/// Sends `bytes` as one message, with `descriptor` if there is one.
///
/// # Errors
/// `WouldBlock`: the receiver is behind; nothing was sent. Anything else: the receiver is gone.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let raw: Option<[RawFd; 1]> = descriptor.map(|d| [d.as_raw_fd()]);
    let rights = raw.as_ref().map(|fds| ControlMessage::ScmRights(fds));
    let control = rights.as_slice();
    let sent =
        sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(bytes)], control, MsgFlags::MSG_NOSIGNAL, None)?;
    if sent == bytes.len() {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::WriteZero, "a message to another process was cut"))
    }
}

/// Receives one message into `buffer`; 0 bytes: the other side is gone.
///
/// # Errors
/// `WouldBlock`: none is there. `InvalidData`: it was longer than `buffer`, or more than one descriptor came with it.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = cmsg_space!([RawFd; 4]);
    let mut parts = [IoSliceMut::new(buffer)];
    let message =
        recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut received: Vec<OwnedFd> = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control {
            // SAFETY: the kernel has just made these descriptors for this process; nobody else owns them.
            received.extend(fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    let cut = message.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC);
    if cut || received.len() > 1 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a message was cut or had too many descriptors",
        ));
    }
    Ok((message.bytes, received.pop()))
}
