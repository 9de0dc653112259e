//! A client that came to cancel the query of another: to that client's query, or to nothing.

use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::time::Duration;

use log::{debug, info};

use super::clean_up::carry_cancel;
use super::context::Context;
use crate::net::sleep;
use crate::segment::{ClientIndex, Pinned, Wake};

/// Two cancels for one client are carried one after the other; how often the second looks whether it may.
const TRY_EVERY: Duration = Duration::from_millis(10);
/// How often it looks before it gives up.
const TRIES: u32 = 100;

/// Carries the cancel, if the key is that of a client with a server connection. The claim is pinned meanwhile, so it
/// cannot be another client's by the time that the server acts.
pub async fn cancel(context: &Context<'_>, process_id: i32, key: &[u8]) {
    let Some(target) = find(context, process_id, key) else {
        info!("a cancel request for process {process_id} matches no client");
        return;
    };
    let Some(pinned) = pin(context, target, process_id).await else { return };
    let slot = context.segment.slot(pinned.slot);
    let server_process = slot.backend_pid.load(Relaxed);
    let server_key = context.secrets.server_key(pinned.slot);
    // A key that came back to another client between the look and the pin is seen here.
    if is_key_of(context, target, key) {
        debug!("cancelling for client {target} in slot {}", pinned.slot);
        if let Err(e) = carry_cancel(context, pinned.slot, server_process, &server_key).await {
            info!("cannot carry a cancel request: {e}");
        }
    }
    context.segment.unpin(pinned, context.me);
    context.wake(target);
}

async fn pin(context: &Context<'_>, target: ClientIndex, process_id: i32) -> Option<Pinned> {
    for _ in 0..TRIES {
        if let Some(pinned) = context.segment.pin(target, process_id, context.me, context) {
            return Some(pinned);
        }
        if !context.segment.is_pinned(target) {
            return None;
        }
        sleep(TRY_EVERY).await;
    }
    None
}

fn find(context: &Context<'_>, process_id: i32, key: &[u8]) -> Option<ClientIndex> {
    context
        .segment
        .used_clients()
        .filter(|(_, client)| process_id != 0 && client.cancel_pid.load(Acquire) == process_id)
        .map(|(index, _)| index)
        .find(|index| is_key_of(context, *index, key))
}

fn is_key_of(context: &Context<'_>, client: ClientIndex, key: &[u8]) -> bool {
    let its = context.secrets.client_key(client);
    !its.is_empty() && its.len() == key.len() && openssl::memcmp::eq(&its, key)
}
