//! A client's first packets: encryption requests, then who it is, or whom to cancel.

use super::client::{Client, Ending};
use crate::protocol::startup::{FirstPacket, StartupError, StartupMessage, first_packet_length, parse};

/// What a client came for.
pub enum Arrival {
    /// A session.
    Session(StartupMessage),
    /// To cancel a query.
    Cancel {
        /// The process id that the other session was given.
        process_id: i32,
        /// Its key.
        key: Vec<u8>,
    },
}

/// Encryption requests that a client may make before its startup packet: one of each kind.
const REQUESTS_MAX: u32 = 2;

/// Reads packets until the client has said what it wants.
///
/// # Errors
/// It is gone, or what it sent cannot be understood.
pub async fn arrive(client: &mut Client) -> Result<Arrival, Ending> {
    let mut requests = 0;
    loop {
        let packet = first_packet(client).await?;
        match parse(&packet).map_err(unparsed)? {
            FirstPacket::Ssl | FirstPacket::Gss => {
                requests += 1;
                if requests > REQUESTS_MAX {
                    return Err(Ending::Silent);
                }
                client.stream.write_all(b"N").await?;
            }
            FirstPacket::Cancel { process_id, secret } => {
                return Ok(Arrival::Cancel { process_id, key: secret.to_vec() });
            }
            FirstPacket::Startup(message) => return Ok(Arrival::Session(message)),
        }
    }
}

/// A cancel request is answered by nothing, whatever is wrong with it.
fn unparsed(error: StartupError) -> Ending {
    match error {
        StartupError::CancelLength | StartupError::CancelKeyLength => Ending::Silent,
        error => error.report().into(),
    }
}

async fn first_packet(client: &mut Client) -> Result<Vec<u8>, Ending> {
    loop {
        let length = first_packet_length(&client.inbound).map_err(|e| e.report())?;
        if let Some(packet) = length.and_then(|n| client.inbound.get(..n)) {
            let packet = packet.to_vec();
            client.inbound.drain(..packet.len());
            return Ok(packet);
        }
        client.read_more().await?;
    }
}
