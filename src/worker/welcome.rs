//! The last messages before a session: as PostgreSQL sends them, in one write.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::client::{Client, Ending};
use super::context::{Context, random};
use crate::protocol::parameters::ParameterSet;
use crate::protocol::write;
use crate::protocol::{Report, SqlState};

/// Sends the rest of the login, the server's parameters, a cancel key of Howdah's own and ReadyForQuery.
///
/// The process id in the key is the server's own, so that `pg_backend_pid()` and the client's library agree. The secret
/// has 32 bytes from protocol 3.2 on, and the 4 that fit before.
///
/// # Errors
/// The client is gone.
pub async fn welcome(
    context: &Context<'_>,
    client: &Client,
    mut bytes: Vec<u8>,
    parameters: &ParameterSet,
    process_id: i32,
    minor: u16,
) -> Result<(), Ending> {
    let key: [u8; 32] = random();
    let key = if minor >= 2 { &key[..] } else { &key[..4] };
    let too_long = |_| Report::fatal(SqlState::INTERNAL_ERROR, "a parameter of the server is too long");
    parameters.write_all(&mut bytes).map_err(too_long)?;
    write::backend_key_data(&mut bytes, process_id, key).map_err(too_long)?;
    write::ready_for_query(&mut bytes, b'I');
    context.secrets.set_client_key(context.me, key);
    // Release: whoever finds the process id finds the key.
    context.segment.client(context.me).cancel_pid.store(process_id, Release);
    client.stream.write_all(&bytes).await?;
    Ok(())
}

/// The server's process id of the connection that is held.
#[must_use]
pub fn backend_pid(context: &Context<'_>) -> i32 {
    let held = crate::segment::SlotIndex::from_stored(context.segment.client(context.me).slot.load(Acquire));
    held.and_then(|slot| context.segment.find_slot(slot)).map_or(0, |slot| slot.backend_pid.load(Relaxed))
}
