//! Work that main may not wait for, done by children that it forks: opening connections ahead of demand, finding out
//! whether idle ones still answer, cancelling what the dead left running, looking up names.

use std::sync::atomic::Ordering::{Relaxed, Release};

use log::{debug, info, warn};

use super::claim::{self, Wanted};
use super::context::{Context, end};
use crate::config::{Config, ServerHost};
use crate::management::seed::CancelTarget;
use crate::net::{SocketOptions, Stream, timeout};
use crate::protocol::parameters::ParameterSet;
use crate::segment::{Held, PoolIndex, Segment, ServerIndex};
use crate::server::{self, ServerConnection};
use crate::sys::{clock, socket};

/// Opens up to `count` connections in `pool`.
pub async fn prefill(context: &Context<'_>, pool: PoolIndex, count: u32) {
    let table = context.segment.pool(pool);
    let (database, user) = (table.database.get(), table.user.get());
    for _ in 0..count {
        let Ok(route) = context.config.route(&database, &user) else { return };
        let soft: Vec<&str> = route.rule.set_on_claim.iter().map(String::as_str).collect();
        let (settings, signature) = claim::remembered_settings(context, pool, &soft);
        let wanted = Wanted::new(route.rule, &route, pool, settings, signature);
        let Some(held) = context.segment.claim_to_prefill(context.owner(), pool, context) else { return };
        context.hold(held);
        match claim::open_in(context, &wanted, held).await {
            Ok(connection) => context.release(connection.stream).await,
            Err(_) => {
                info!("pool of database {database:?}, user {user:?}: min_size is not reached");
                return;
            }
        }
    }
}

/// Sends each idle connection an empty query; those that do not answer are closed.
pub async fn check(context: &Context<'_>, slots: &[Held]) {
    for held in slots {
        let taken = context.segment.slot(held.slot).word.begin_check(context.owner());
        let Some(s) = taken.done() else { continue };
        let held = Held { slot: held.slot, generation: s.generation };
        context.hold(held);
        let connection = answers(context, held).await;
        let now = clock::monotonic_ms();
        if let Some(connection) = &connection {
            context.segment.set_parameters(held.slot, connection.parameters.as_bytes());
            if context.segment.checked(context.owner(), held, now, context) {
                context.forget();
                continue;
            }
        }
        info!("slot {}: the idle connection does not answer, closing it", held.slot);
        context.close(connection.as_ref().map(|c| &c.stream)).await;
    }
}

async fn answers(context: &Context<'_>, held: Held) -> Option<ServerConnection> {
    let fd = context.descriptor(held).await?;
    let parameters = ParameterSet::from_bytes(&context.segment.parameters(held.slot)).ok()?;
    let mut connection = ServerConnection::new(Stream::new(fd).ok()?, parameters);
    let limit = context.config.timeouts.connect_timeout;
    if matches!(timeout(limit, server::run_quietly(&mut connection, "")).await, Ok(Ok(()))) {
        return Some(connection);
    }
    end(&connection.stream).await;
    None
}

/// Cancels what runs on connections whose worker died.
pub async fn cancel_left_running(config: &Config, segment: &Segment, targets: &[CancelTarget]) {
    let limit = config.timeouts.cancel_timeout;
    for target in targets {
        let Some(server) = config.servers.get(target.server.at()) else { continue };
        let sending = async {
            let address = server::target_of(server, segment.server(target.server))
                .await
                .map_err(std::io::Error::other)?;
            let options = SocketOptions(config.tcp);
            server::send_cancel(&address, options, target.process_id, &target.key, limit).await
        };
        match timeout(limit, sending).await {
            Ok(Ok(())) => debug!("cancelled server process {} of a dead worker", target.process_id),
            _ => info!("cannot cancel server process {} of a dead worker", target.process_id),
        }
    }
}

/// Looks up a server's name and writes what it finds into the segment. Waits for the name service.
pub fn resolve(config: &Config, segment: &Segment, index: ServerIndex) {
    let Some(server) = config.servers.get(index.at()) else { return };
    let ServerHost::Name(name) = &server.host else { return };
    let table = segment.server(index);
    let now = clock::monotonic_ms().max(1);
    match socket::resolve(name) {
        Ok(addresses) if !addresses.is_empty() => server::store_addresses(table, &addresses, now),
        found => {
            // What was found before stays in use.
            warn!("cannot find the address of server host {name:?}: {found:?}");
            if table.resolved_at_ms.load(Relaxed) == 0 {
                table.resolve_failed_at_ms.store(now, Release);
            }
        }
    }
}
