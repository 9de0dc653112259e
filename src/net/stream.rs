//! A non-blocking stream socket of the executor.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::task::Poll;

use mio::Interest;

use super::runtime::{Source, deregister, register, reregister};
use crate::sys::{descriptor_passing, socket};

/// A connected stream socket. Reading and writing take `&self`: both directions may be under way in one task.
pub struct Stream {
    fd: OwnedFd,
    source: Rc<Source>,
    /// Whether events of writability are asked for: only after a write that did not fit, as a Unix socket tells them
    /// each time its peer reads.
    watches_writing: Cell<bool>,
}

impl Stream {
    /// Takes a connected socket in. Bytes may be there already.
    ///
    /// # Errors
    /// What epoll says.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let source = register(fd.as_fd(), Interest::READABLE)?;
        Ok(Stream { fd, source, watches_writing: Cell::new(false) })
    }

    /// The descriptor.
    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Reads what is there; 0: the other side has closed.
    pub fn poll_read(&self, into: &mut [u8]) -> Poll<io::Result<usize>> {
        if !self.source.is_readable() {
            self.source.wait_readable();
            return Poll::Pending;
        }
        match socket::receive(self.fd.as_fd(), into) {
            Ok(n) => {
                // Less than there was room for: the socket is empty, and what comes next makes a new event.
                if n < into.len() {
                    self.source.clear_readable();
                }
                Poll::Ready(Ok(n))
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                self.source.readable.set(false);
                self.source.wait_readable();
                Poll::Pending
            }
            Err(e) => Poll::Ready(Err(e)),
        }
    }

    /// Says that the next read is worth a try before any event has told so.
    pub fn expect_bytes(&self) {
        self.source.readable.set(true);
    }

    /// Whether the other side has closed, as far as events have told, read or unread bytes aside. The running task is
    /// polled when it does (or when bytes come).
    #[must_use]
    pub fn is_hung_up(&self) -> bool {
        self.source.wait_readable();
        self.source.is_read_closed()
    }

    /// Writes what fits.
    pub fn poll_write(&self, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if !self.source.writable.get() {
            self.source.wait_writable();
            return Poll::Pending;
        }
        match socket::transmit(self.fd.as_fd(), bytes) {
            Ok(n) => Poll::Ready(Ok(n)),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                self.source.writable.set(false);
                self.source.wait_writable();
                match self.watch_writing() {
                    Ok(()) => Poll::Pending,
                    Err(e) => Poll::Ready(Err(e)),
                }
            }
            Err(e) => Poll::Ready(Err(e)),
        }
    }

    /// Asks for events of writability; one that is due already is told at once.
    fn watch_writing(&self) -> io::Result<()> {
        if !self.watches_writing.replace(true) {
            reregister(self.fd.as_fd(), &self.source, Interest::READABLE | Interest::WRITABLE)?;
        }
        Ok(())
    }

    /// Reads what is there, waiting for something.
    ///
    /// # Errors
    /// What the socket says.
    pub async fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        poll_fn(|_| self.poll_read(into)).await
    }

    /// Fills `into`.
    ///
    /// # Errors
    /// `UnexpectedEof` when the other side closes before.
    pub async fn read_exact(&self, into: &mut [u8]) -> io::Result<()> {
        let mut filled = 0;
        while filled < into.len() {
            match self.read(&mut into[filled..]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => filled += n,
            }
        }
        Ok(())
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// What the socket says.
    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let n = poll_fn(|_| self.poll_write(bytes)).await?;
            bytes = &bytes[n..];
        }
        Ok(())
    }

    /// Receives a five-byte message and the descriptor that came with it, if one did.
    ///
    /// # Errors
    /// `UnexpectedEof`: the other side is gone; `InvalidData`: it was something else.
    pub async fn receive_message(&self) -> io::Result<([u8; 5], Option<OwnedFd>)> {
        poll_fn(|_| {
            let mut bytes = [0u8; 5];
            match descriptor_passing::receive(self.fd.as_fd(), &mut bytes) {
                Ok((5, descriptor)) => Poll::Ready(Ok((bytes, descriptor))),
                Ok((0, _)) => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                Ok(_) => Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.source.wait_readable();
                    Poll::Pending
                }
                Err(e) => Poll::Ready(Err(e)),
            }
        })
        .await
    }

    /// Waits until the socket is writable, for a connect that is under way.
    ///
    /// # Errors
    /// What epoll says.
    pub async fn connected(&self) -> io::Result<()> {
        self.source.writable.set(false);
        self.watch_writing()?;
        poll_fn(|_| {
            if self.source.writable.get() {
                return Poll::Ready(());
            }
            self.source.wait_writable();
            Poll::Pending
        })
        .await;
        socket::take_error(self.fd.as_fd())
    }

    /// Ends the connection for every copy of its descriptor.
    pub fn shut_down(&self) {
        socket::shut_down(self.fd.as_fd(), Shutdown::Both);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // Copies in other processes keep the registration alive: it has to go before this copy is closed.
        deregister(self.fd.as_fd(), &self.source);
    }
}
