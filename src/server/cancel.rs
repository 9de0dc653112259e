//! Cancelling what runs on a server connection: a connection of its own that carries the server's key.

use std::io;
use std::time::Duration;

use crate::net::{SocketOptions, Target, connect, timeout};
use crate::protocol::write;

/// Sends a CancelRequest and waits until the server has closed that connection, which it does after the signal is
/// sent. So what is done afterwards on the cancelled connection comes after the cancel.
///
/// # Errors
/// The server cannot be reached, or does not close in time.
pub async fn send_cancel(
    target: &Target,
    options: SocketOptions,
    process_id: i32,
    key: &[u8],
    limit: Duration,
) -> io::Result<()> {
    let mut request = Vec::with_capacity(32);
    write::cancel_request(&mut request, process_id, key).map_err(io::Error::other)?;
    let exchange = async {
        let stream = connect(target, options).await.map_err(|e| e.source)?;
        stream.write_all(&request).await?;
        let mut nothing = [0u8; 64];
        while stream.read(&mut nothing).await? > 0 {}
        Ok(())
    };
    timeout(limit, exchange).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}
