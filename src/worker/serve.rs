//! A client's life, from its first packet to the clean-up behind it.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::Relaxed;

use log::{debug, info};

use super::authenticate::authenticate;
use super::cancel;
use super::claim::{self, Wanted};
use super::clean_up;
use super::client::{Client, Ending};
use super::context::Context;
use super::control::Stop;
use super::session_mode::{Session, SessionEnd};
use super::startup::{Arrival, arrive};
use super::welcome::{backend_pid, welcome};
use crate::config::{PoolRule, RouteError};
use crate::net::{Stream, timeout};
use crate::protocol::settings::StartupSettings;
use crate::protocol::startup::{Replication, StartupMessage};
use crate::protocol::{Report, SqlState, write};
use crate::segment::{ClientState, Held, SlotIndex};
use crate::server::{self, ServerConnection};
use crate::sys::socket::PeerAddress;
use crate::sys::{clock, descriptors};

/// A client that has been welcomed.
struct Welcomed<'a> {
    connection: ServerConnection,
    rule: &'a PoolRule,
    /// Not to be given to another client.
    is_replication: bool,
}

/// Serves a client to its end.
pub async fn serve(context: &Context<'_>, socket: OwnedFd, peer: PeerAddress) {
    context.socket_options().apply(std::os::fd::AsFd::as_fd(&socket));
    let Ok(stream) = Stream::new(socket) else { return };
    let mut client = Client::new(stream, peer);
    let beginning = context.control.unless_stopped(Box::pin(begin(context, &mut client)));
    match beginning.await {
        Ok(Ok(Some(welcomed))) => Box::pin(run_session(context, client, welcomed)).await,
        Ok(Ok(None)) => {}
        Ok(Err(ending)) => client.dismiss(&ending).await,
        Err(stop) => client.dismiss(&Ending::Report(stop.report())).await,
    }
    context.finish().await;
}

/// Everything up to ReadyForQuery. `None`: the client had come to cancel.
async fn begin<'a>(context: &Context<'a>, client: &mut Client) -> Result<Option<Welcomed<'a>>, Ending> {
    let limit = context.config.timeouts.authentication_timeout;
    let logged_in = timeout(limit, Box::pin(log_in(context, client))).await;
    let Ok(logged_in) = logged_in else {
        info!("client {} did not log in within {} s", client.peer, limit.as_secs_f64());
        return Err(Ending::Silent);
    };
    let Some((wanted, last, message)) = logged_in? else { return Ok(None) };
    let mut connection = claim::acquire(context, client, &wanted).await?;
    if !wanted.rule.set_on_claim.is_empty() {
        Box::pin(apply_own_settings(context, &mut connection, &wanted, &message)).await?;
    }
    let minor = message.effective_minor();
    welcome(context, client, last, &connection.parameters, backend_pid(context), minor).await?;
    context.set_state(ClientState::Active);
    Ok(Some(Welcomed { connection, rule: wanted.rule, is_replication: wanted.replication.is_some() }))
}

type LoggedIn<'a> = (Wanted<'a>, Vec<u8>, StartupMessage);

async fn log_in<'a>(context: &Context<'a>, client: &mut Client) -> Result<Option<LoggedIn<'a>>, Ending> {
    let message = match arrive(client).await? {
        Arrival::Cancel { process_id, key } => {
            cancel::cancel(context, process_id, &key).await;
            return Ok(None);
        }
        Arrival::Session(message) => message,
    };
    let user = cut_name(message.user().map_err(|e| e.report())?).to_owned();
    let database = cut_name(message.database().map_err(|e| e.report())?).to_owned();
    introduce(context, &message, &user, &database);
    if let Some(negotiation) = message.negotiate() {
        client.stream.write_all(&negotiation).await?;
    }
    let admitted = authenticate(context, client, &message, &user, &database).await?;
    // Whoever is known from here on may know what is there.
    let route = context.config.route(&database, &user).map_err(|e| unknown(e, &database, &user))?;
    let rule = &context.config.pools[route.rule_index];
    let pool = claim::pool_of(context, &database, &user).await?;
    if context.segment.is_disabled(pool) {
        let text = format!("database {database:?} is disabled");
        return Err(Report::fatal(SqlState::CANNOT_CONNECT_NOW, text).into());
    }
    let settings = StartupSettings::from_message(&message);
    let soft: Vec<&str> = rule.set_on_claim.iter().map(String::as_str).collect();
    let signature = settings.sign(&soft).signature;
    let replication = (message.replication() != Replication::No)
        .then(|| message.get(b"replication").unwrap_or_default().to_vec());
    let settings = settings.without(&soft);
    let mut wanted = Wanted::new(rule, &route, pool, settings, signature);
    wanted.replication = replication;
    wanted.proven = admitted.proven;
    Ok(Some((wanted, admitted.last, message)))
}

/// Says in the segment who this client is, once it has said so.
fn introduce(context: &Context<'_>, message: &StartupMessage, user: &str, database: &str) {
    let entry = context.segment.client(context.me);
    entry.user.set(user);
    entry.database.set(database);
    let name = message.get(b"application_name").unwrap_or_default();
    entry.application_name.set(&String::from_utf8_lossy(name));
}

/// PostgreSQL cuts names at 63 bytes (NAMEDATALEN), so longer ones mean the same database and user.
fn cut_name(name: &str) -> &str {
    let mut end = name.len().min(63);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}

fn unknown(error: RouteError, database: &str, user: &str) -> Ending {
    info!("no pool for user {user:?} of database {database:?}: {error}");
    match error {
        RouteError::UnknownDatabase => {
            Report::fatal(SqlState::UNDEFINED_DATABASE, format!("database {database:?} does not exist"))
                .into()
        }
        RouteError::NoPoolForUser => {
            let text = format!("user {user:?} has no pool for database {database:?}");
            Report::fatal(SqlState::INVALID_AUTHORIZATION, text).into()
        }
    }
}

/// Sets what the pool rule lets connections differ in (`set_on_claim`).
async fn apply_own_settings(
    context: &Context<'_>,
    connection: &mut ServerConnection,
    wanted: &Wanted<'_>,
    message: &StartupMessage,
) -> Result<(), Ending> {
    let soft: Vec<&str> = wanted.rule.set_on_claim.iter().map(String::as_str).collect();
    if soft.is_empty() {
        return Ok(());
    }
    let own = StartupSettings::from_message(message).sign(&soft).excluded;
    let queries: Vec<String> = own.iter().filter_map(|(name, value)| set_query(name, value)).collect();
    let queries: Vec<&str> = queries.iter().map(String::as_str).collect();
    if queries.is_empty() {
        return Ok(());
    }
    let limit = context.config.timeouts.connect_timeout;
    let failed = match timeout(limit, server::reset(connection, &queries)).await {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(e)) => e.to_string(),
        Err(_) => "the server did not answer in time".to_owned(),
    };
    Err(Report::fatal(
        SqlState::INVALID_PARAMETER_VALUE,
        format!("cannot apply startup parameters: {failed}"),
    )
    .into())
}

/// `SET name TO 'value'`, quoted; `None` when it is no text.
fn set_query(name: &[u8], value: &[u8]) -> Option<String> {
    let (name, value) = (std::str::from_utf8(name).ok()?, std::str::from_utf8(value).ok()?);
    let name = name
        .split('.')
        .map(|part| format!("\"{}\"", part.replace('"', "\"\"")))
        .collect::<Vec<_>>()
        .join(".");
    // E'' with doubled backslashes means the same whatever standard_conforming_strings says.
    let value = value.replace('\\', "\\\\").replace('\'', "''");
    Some(format!("SET {name} TO E'{value}'"))
}

async fn run_session(context: &Context<'_>, mut client: Client, welcomed: Welcomed<'_>) {
    let Welcomed { mut connection, rule, is_replication } = welcomed;
    let Some(slot) = SlotIndex::from_stored(context.segment.client(context.me).slot.load(Relaxed)) else {
        return;
    };
    let held = Held { slot, generation: context.segment.slot(slot).word.snapshot().generation };
    // Nobody else's connections are of use to this process any more.
    descriptors::close_keepers_but(Some(connection.stream.descriptor()));
    connection.forget_buffer();
    let table = context.segment.slot(slot);
    table.sessions.fetch_add(1, Relaxed);
    if context.config.log.log_connections {
        let entry = context.segment.client(context.me);
        let (user, database) = (entry.user.get(), entry.database.get());
        let process = table.backend_pid.load(Relaxed);
        info!(
            "connection authorized: user {user:?}, database {database:?}, host {}, server process {process}",
            client.peer
        );
    }
    let early = std::mem::take(&mut client.inbound);
    let timeout = rule.client_idle_timeout;
    let mut session = Session::new(&client.stream, &mut connection, &context.control, table, timeout);
    let end = session.relay(early).await;
    context.set_state(ClientState::Closing);
    debug!("session of {} ended: {end:?}", client.peer);
    if context.config.log.log_disconnections {
        let entry = context.segment.client(context.me);
        let seconds = clock::monotonic_ms().saturating_sub(entry.since_ms.load(Relaxed)) / 1000;
        let (user, database) = (entry.user.get(), entry.database.get());
        info!(
            "disconnection: session time {seconds} s, user {user:?}, database {database:?}, host {}",
            client.peer
        );
    }
    let farewell = farewell(&end);
    let unpinned = clean_up::wait_for_cancels(context).await;
    let usable = unpinned && !is_replication && is_usable_after(&end);
    if let Some(report) = &farewell {
        // The error is for a client that reads it; what it has not read of its results comes first or not at all.
        let mut bytes = Vec::new();
        write::error(&mut bytes, report);
        if session.is_client_between_messages() {
            Box::pin(client.last_words(&bytes)).await;
        }
    }
    let rested =
        usable && (session.is_at_rest() || Box::pin(clean_up::settle(context, &mut session, held)).await);
    if !rested && !matches!(end, SessionEnd::ServerGone { .. }) {
        Box::pin(clean_up::stop_query(context, &session, held)).await;
    }
    let status = session.tracker.status();
    drop(session);
    drop(client);
    if rested && clean_up::reset(context, &mut connection, status, &rule.reset_query, held).await {
        context.release(connection.stream).await;
    } else {
        context.close(Some(&connection.stream)).await;
    }
}

/// What the client is told at the end, if it is owed something.
fn farewell(end: &SessionEnd) -> Option<Report> {
    match end {
        SessionEnd::Terminated | SessionEnd::ClientGone | SessionEnd::ServerGone { told: true } => None,
        SessionEnd::ServerGone { told: false } => Some(
            Report::fatal(SqlState::CONNECTION_FAILURE, "the server closed the connection unexpectedly")
                .with_detail(
                    "PostgreSQL terminated abnormally, was restarted, or cannot be reached any more.",
                ),
        ),
        SessionEnd::ClientBroke(e) => Some(
            Report::fatal(SqlState::PROTOCOL_VIOLATION, "invalid message length").with_detail(e.to_string()),
        ),
        SessionEnd::ServerBroke(e) => Some(
            Report::fatal(SqlState::PROTOCOL_VIOLATION, "the server sent an invalid message")
                .with_detail(e.to_string()),
        ),
        SessionEnd::Idle(limit) => Some(Report::fatal(
            SqlState::IDLE_SESSION_TIMEOUT,
            format!("terminating connection due to client_idle_timeout ({} s)", limit.as_secs_f64()),
        )),
        SessionEnd::Stopped(stop) => Some(stop.report()),
    }
}

fn is_usable_after(end: &SessionEnd) -> bool {
    match end {
        SessionEnd::Terminated
        | SessionEnd::ClientGone
        | SessionEnd::Idle(_)
        | SessionEnd::Stopped(Stop::ThisClient) => true,
        SessionEnd::ClientBroke(_)
        | SessionEnd::ServerGone { .. }
        | SessionEnd::ServerBroke(_)
        | SessionEnd::Stopped(Stop::Shutdown) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_quoted() {
        assert_eq!(
            set_query(b"a.b\"c", b"it's \\").as_deref(),
            Some("SET \"a\".\"b\"\"c\" TO E'it''s \\\\'")
        );
        assert_eq!(set_query(b"a", b"\xff"), None);
    }

    #[test]
    fn long_names_are_cut_as_postgresql_does() {
        assert_eq!(cut_name(&"x".repeat(70)).len(), 63);
        assert_eq!(cut_name(&format!("{}é", "x".repeat(62))).len(), 62);
        assert_eq!(cut_name("short"), "short");
    }
}
