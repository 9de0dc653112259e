//! The end of a session: the next client must not see a row, a setting or a lock of this one.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use log::{debug, info, warn};

use super::context::Context;
use super::session_mode::Session;
use crate::net::timeout;
use crate::protocol::tracker::{CopyState, TransactionStatus};
use crate::protocol::write;
use crate::segment::{Held, SlotIndex};
use crate::server::{self, ServerConnection};

/// A query that goes on for so long after its cancel was another one, or is cancelled again.
const CANCEL_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// How often the end of a cancel is looked for besides the wake-up that tells it.
const PIN_LOOK_EVERY: Duration = Duration::from_millis(100);

/// Brings a session to rest: what runs is cancelled, what is outstanding is read and thrown away. Whether the
/// connection stands between two messages then, so that it can be cleaned.
pub async fn settle(context: &Context<'_>, session: &mut Session<'_>, held: Held) -> bool {
    if session.tracker.is_lost() || !session.client_at_boundary() {
        return false;
    }
    let mut own = Vec::new();
    let mut tags = Vec::new();
    if session.tracker.copy_state() == CopyState::In {
        let _ = write::message(&mut own, Some(b'f'), |out| {
            out.extend_from_slice(b"the client has left\0");
            Ok(())
        });
        tags.push(b'f');
    }
    // Ends what was sent in the extended protocol without a Sync, and the skipping after an error in it.
    write::sync(&mut own);
    tags.push(b'S');
    if session.tracker.outstanding() > 0 {
        cancel_own_query(context, held).await;
    }
    session.inject(&own, &tags);
    let limit = context.config.timeouts.reset_timeout;
    let settled = timeout(limit, async {
        // A client that had sent several queries ahead has left more than one to cancel.
        loop {
            match timeout(CANCEL_AGAIN_AFTER, session.settle()).await {
                Ok(settled) => return settled.is_ok(),
                Err(_) => cancel_own_query(context, held).await,
            }
        }
    });
    settled.await == Ok(true) && session.tracker.outstanding() == 0 && !session.tracker.is_lost()
}

/// Cancels what a session that will not be cleaned has left running: the server does not notice the end of a
/// connection before it has something to say.
pub async fn stop_query(context: &Context<'_>, session: &Session<'_>, held: Held) {
    if session.tracker.outstanding() > 0 || session.tracker.is_lost() {
        cancel_own_query(context, held).await;
    }
}

/// Cancels what runs on the connection that is held. Comes back when the server has taken notice, so what is sent
/// afterwards is not hit.
async fn cancel_own_query(context: &Context<'_>, held: Held) {
    let slot = context.segment.slot(held.slot);
    let process_id = slot.backend_pid.load(Relaxed);
    let key = context.secrets.server_key(held.slot);
    debug!("slot {}: cancelling what the client left running", held.slot);
    if let Err(e) = carry_cancel(context, held.slot, process_id, &key).await {
        info!("slot {}: cannot cancel: {e}", held.slot);
    }
}

/// Carries a cancel to the server of a slot.
///
/// # Errors
/// The server cannot be reached.
pub async fn carry_cancel(
    context: &Context<'_>,
    slot: SlotIndex,
    process_id: i32,
    key: &[u8],
) -> std::io::Result<()> {
    let limit = context.config.timeouts.cancel_timeout;
    let Some(index) =
        crate::segment::ServerIndex::from_stored(context.segment.slot(slot).server.load(Relaxed))
    else {
        return Ok(());
    };
    let Some(server) = context.config.servers.get(index.at()) else { return Ok(()) };
    let target = timeout(limit, server::target_of(server, context.segment.server(index))).await;
    let target = target.map_err(std::io::Error::other)?.map_err(std::io::Error::other)?;
    server::send_cancel(&target, context.socket_options(), process_id, key, limit).await
}

/// Waits until no cancel for this client is under way: it would hit the next.
pub async fn wait_for_cancels(context: &Context<'_>) -> bool {
    context.segment.forbid_cancel(context.me);
    let limit = context.config.timeouts.cancel_timeout + Duration::from_secs(1);
    let unpinned = async {
        while context.segment.is_pinned(context.me) {
            let woken = std::future::poll_fn(|_| {
                let _ = context.control.stop();
                if context.segment.is_pinned(context.me) {
                    std::task::Poll::Pending
                } else {
                    std::task::Poll::Ready(())
                }
            });
            let _ = timeout(PIN_LOOK_EVERY, woken).await;
        }
    };
    timeout(limit, unpinned).await.is_ok()
}

/// Rolls back what is open and resets the session. Whether the connection can be given to another client.
pub async fn reset(
    context: &Context<'_>,
    connection: &mut ServerConnection,
    status: TransactionStatus,
    reset_query: &str,
    held: Held,
) -> bool {
    let mut queries = Vec::with_capacity(2);
    if status != TransactionStatus::Idle {
        queries.push("ROLLBACK");
    }
    if !reset_query.is_empty() {
        queries.push(reset_query);
    }
    if !queries.is_empty() {
        let limit = context.config.timeouts.reset_timeout;
        match timeout(limit, server::reset(connection, &queries)).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => {
                warn!("slot {}: cannot reset the connection, closing it: {e}", held.slot);
                return false;
            }
            Err(_) => {
                warn!("slot {}: not reset within {} s, closing it", held.slot, limit.as_secs_f64());
                return false;
            }
        }
    }
    if connection.parameters_lost {
        return false;
    }
    context.segment.set_parameters(held.slot, connection.parameters.as_bytes());
    true
}
