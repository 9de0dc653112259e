//! Getting a server connection for a client: claim, wait, adopt an idle one or open one.

use std::future::poll_fn;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::Duration;

use log::{debug, info, warn};

use super::client::{Client, Ending};
use super::context::{Context, end, random};
use crate::auth::client_login::Proven;
use crate::auth::secret::Secret;
use crate::auth::server_login::{Credential, ServerLogin};
use crate::config::{PoolRule, Route, ServerConfig, Validation};
use crate::management::worker::{Denied, Id};
use crate::net::{Stream, timeout};
use crate::protocol::parameters::ParameterSet;
use crate::protocol::settings::StartupSettings;
use crate::protocol::{Report, SqlState};
use crate::segment::text::{load_bytes, store_bytes};
use crate::segment::{Claim, ClientState, Held, PoolIndex, SETTINGS_MAX_BYTES, ServerIndex, SlotState};
use crate::server::{self, Login, OpenError, Opened, ServerConnection};
use crate::sys::{clock, socket};

/// What a server connection is wanted for.
pub struct Wanted<'a> {
    /// The pool rule.
    pub rule: &'a PoolRule,
    /// Index of the server in the configuration.
    pub server_index: usize,
    /// The database's name on the server.
    pub server_database: String,
    /// The user to log in to the server as.
    pub server_user: String,
    /// The pool.
    pub pool: PoolIndex,
    /// The startup parameters that the connection is to have been opened with.
    pub settings: StartupSettings,
    /// Their signature.
    pub signature: u64,
    /// `replication` as the client wrote it: a connection of its own, never pooled.
    pub replication: Option<Vec<u8>>,
    /// What the client's login has shown.
    pub proven: Proven,
}

impl<'a> Wanted<'a> {
    /// A connection for `route` that is opened with `settings` and found again by `signature`.
    pub fn new(
        rule: &'a PoolRule,
        route: &Route<'_>,
        pool: PoolIndex,
        settings: StartupSettings,
        signature: u64,
    ) -> Self {
        Wanted {
            rule,
            server_index: route.server_index,
            server_database: route.server_database.to_owned(),
            server_user: route.server_user.to_owned(),
            pool,
            settings,
            signature,
            replication: None,
            proven: Proven::Nothing,
        }
    }
}

/// The pool of the client's database and user, made by main if it is not there.
///
/// # Errors
/// All pools are taken, or main is gone.
pub async fn pool_of(context: &Context<'_>, database: &str, user: &str) -> Result<PoolIndex, Ending> {
    let entry = context.segment.client(context.me);
    if let Some(pool) = context.segment.pool_of(database, user) {
        entry.pool.store(pool.stored(), Relaxed);
        // Main gives up a pool only if no entry names it: look again, now that this one does.
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        if context.segment.pool_of(database, user) == Some(pool) {
            return Ok(pool);
        }
    }
    let pool = context.main.make_pool().await.map_err(|denied| {
        let report =
            Report::fatal(SqlState::TOO_MANY_CONNECTIONS, format!("no pool for this session: {denied}"));
        match denied {
            Denied::TooManyPools => {
                report.with_hint("Raise max_pools, or let fewer users and databases connect.")
            }
            _ => report,
        }
    })?;
    entry.pool.store(pool.stored(), Relaxed);
    Ok(pool)
}

/// A server connection for the client, in a slot that [`Context`] holds.
///
/// # Errors
/// None can be had; the client is told why.
pub async fn acquire(
    context: &Context<'_>,
    client: &Client,
    wanted: &Wanted<'_>,
) -> Result<ServerConnection, Ending> {
    let (held, state) = claim_or_wait(context, client, wanted).await?;
    context.hold(held);
    context.segment.pool(wanted.pool).claims.fetch_add(1, Relaxed);
    let fits = wanted.replication.is_none()
        && context.segment.slot(held.slot).signature.load(Relaxed) == wanted.signature;
    match state {
        // What is rare is boxed: the future of a client that finds an idle connection stays small.
        SlotState::Init => Box::pin(open_in(context, wanted, held)).await,
        SlotState::InUse if fits => match adopt(context, wanted, held).await {
            Some(connection) => Ok(connection),
            None => Box::pin(open_anew(context, wanted, held)).await,
        },
        _ => {
            debug!("slot {} has other startup parameters: opening it anew", held.slot);
            Box::pin(open_anew(context, wanted, held)).await
        }
    }
}

async fn open_anew(
    context: &Context<'_>,
    wanted: &Wanted<'_>,
    held: Held,
) -> Result<ServerConnection, Ending> {
    let held = reopen(context, held).await?;
    open_in(context, wanted, held).await
}

async fn claim_or_wait(
    context: &Context<'_>,
    client: &Client,
    wanted: &Wanted<'_>,
) -> Result<(Held, SlotState), Ending> {
    match context.segment.claim(context.owner(), wanted.pool, wanted.signature, context) {
        Claim::Idle(held) => return Ok((held, SlotState::InUse)),
        Claim::Open(held) => return Ok((held, SlotState::Init)),
        Claim::Wait => {}
    }
    Box::pin(wait(context, client, wanted)).await
}

async fn wait(
    context: &Context<'_>,
    client: &Client,
    wanted: &Wanted<'_>,
) -> Result<(Held, SlotState), Ending> {
    context.set_state(ClientState::Waiting);
    let since = clock::monotonic();
    let queued = context.segment.enqueue(context.me, wanted.pool, context);
    let Ok(evicted) = queued else {
        let report =
            Report::fatal(SqlState::TOO_MANY_CONNECTIONS, "too many clients wait for a server connection");
        return Err(report.into());
    };
    if let Some(evicted) = evicted
        && let Err(e) = context.main.tell(Id::Evict, Some(evicted), None).await
    {
        leave(context, wanted.pool).await;
        return Err(e.into());
    }
    let granted = wait_for_grant(context, client, wanted).await;
    let pool = context.segment.pool(wanted.pool);
    let waited = clock::monotonic().saturating_sub(since);
    pool.waited_us.fetch_add(u64::try_from(waited.as_micros()).unwrap_or(0), Relaxed);
    granted
}

async fn wait_for_grant(
    context: &Context<'_>,
    client: &Client,
    wanted: &Wanted<'_>,
) -> Result<(Held, SlotState), Ending> {
    let granted = poll_fn(|_| {
        // Wake-ups of this process poll the running task, as `stop` has told them.
        let _ = context.control.stop();
        if let Some(granted) = context.segment.granted(context.me) {
            return Poll::Ready(Some(granted));
        }
        if client.stream.is_hung_up() { Poll::Ready(None) } else { Poll::Pending }
    });
    let limit = wanted.rule.wait_timeout;
    let outcome = context.control.unless_stopped(async {
        match limit {
            Some(limit) => timeout(limit, granted).await,
            None => Ok(granted.await),
        }
    });
    match outcome.await {
        Ok(Ok(Some(granted))) => Ok(granted),
        Ok(Ok(None)) => {
            leave(context, wanted.pool).await;
            Err(Ending::Silent)
        }
        Err(stop) => {
            leave(context, wanted.pool).await;
            Err(stop.report().into())
        }
        // Served at the last moment is served.
        Ok(Err(_)) => match context.segment.leave_queue(context.me, wanted.pool) {
            Some(granted) => Ok(granted),
            None => Err(waited_too_long(context, wanted, limit.unwrap_or_default())),
        },
    }
}

fn waited_too_long(context: &Context<'_>, wanted: &Wanted<'_>, limit: Duration) -> Ending {
    let pool = context.segment.pool(wanted.pool);
    pool.wait_timeouts.fetch_add(1, Relaxed);
    let size = pool.size.load(Relaxed);
    let text = format!("no server connection became free within {} s", limit.as_secs_f64());
    info!("{text}");
    Report::fatal(SqlState::TOO_MANY_CONNECTIONS, text)
        .with_detail(format!(
            "All {size} server connections of this pool, or all that other limits allow, are in use."
        ))
        .with_hint(
            "Raise the pool's size or wait_timeout, or look for sessions that hold connections for long.",
        )
        .into()
}

/// Leaves the queue; what was granted at the same moment is given back.
async fn leave(context: &Context<'_>, pool: PoolIndex) {
    let Some((held, state)) = context.segment.leave_queue(context.me, pool) else { return };
    context.hold(held);
    if state == SlotState::InUse
        && let Some(fd) = context.descriptor(held).await
        && let Ok(stream) = Stream::new(fd)
    {
        context.release(stream).await;
    } else {
        context.close(None).await;
    }
}

/// Takes over an idle connection, if it is still good.
async fn adopt(context: &Context<'_>, wanted: &Wanted<'_>, held: Held) -> Option<ServerConnection> {
    let fd = context.descriptor(held).await?;
    let parameters = ParameterSet::from_bytes(&context.segment.parameters(held.slot)).ok()?;
    let is_quiet = socket::is_quiet(std::os::fd::AsFd::as_fd(&fd));
    let stream = Stream::new(fd).ok()?;
    let mut connection = ServerConnection::new(stream, parameters);
    if !is_quiet && !Box::pin(take_news(context, &mut connection, held)).await {
        debug!("slot {}: the idle connection is stale", held.slot);
        end(&connection.stream).await;
        return None;
    }
    if wanted.rule.validation == Validation::Foreground {
        let limit = context.config.timeouts.connect_timeout;
        if !matches!(timeout(limit, server::run_quietly(&mut connection, "")).await, Ok(Ok(()))) {
            debug!("slot {}: the idle connection does not answer", held.slot);
            end(&connection.stream).await;
            return None;
        }
    }
    Some(connection)
}

/// Reads what an idle connection has to say: changed parameters and notices are fine, anything else (an error, the end
/// of the stream) is its end.
async fn take_news(context: &Context<'_>, connection: &mut ServerConnection, held: Held) -> bool {
    connection.stream.expect_bytes();
    let reading = async {
        while !connection.is_drained() || !socket::is_quiet(connection.stream.descriptor()) {
            let Ok(message) = connection.read_message().await else { return false };
            match message.tag {
                b'S' => {
                    let body = connection.body(&message).to_vec();
                    connection.note_parameter(&body);
                }
                b'N' => {}
                _ => return false,
            }
        }
        true
    };
    let good =
        matches!(timeout(Duration::from_secs(1), reading).await, Ok(true)) && !connection.parameters_lost;
    if good {
        context.segment.set_parameters(held.slot, connection.parameters.as_bytes());
    }
    good
}

/// Gives up the connection in a slot that is held, to open another in it.
async fn reopen(context: &Context<'_>, held: Held) -> Result<Held, Ending> {
    if let Some(fd) = context.descriptor(held).await
        && let Ok(stream) = Stream::new(fd)
    {
        end(&stream).await;
    }
    let Some(s) = context.segment.slot(held.slot).word.reopen(context.owner()).done() else {
        return Err(Report::fatal(SqlState::INTERNAL_ERROR, "the claimed slot was lost").into());
    };
    let anew = Held { slot: held.slot, generation: s.generation };
    context.hold(anew);
    let header = context.segment.header();
    header.closed.fetch_add(1, Relaxed);
    context.main.tell(Id::Closed, Some(held), None).await?;
    Ok(anew)
}

/// Opens a connection in a slot that is held in state Init. On failure the slot is given back.
///
/// # Errors
/// It cannot be opened.
pub async fn open_in(
    context: &Context<'_>,
    wanted: &Wanted<'_>,
    held: Held,
) -> Result<ServerConnection, Ending> {
    let limit = context.config.timeouts.connect_timeout;
    let opening = context.control.unless_stopped(timeout(limit, open(context, wanted, held)));
    let failed = match opening.await {
        Ok(Ok(Ok(opened))) => return keep(context, wanted, held, opened).await,
        Ok(Ok(Err(ending))) => ending,
        Ok(Err(_)) => {
            let server = &context.config.servers[wanted.server_index].name;
            warn!("server {server:?} did not answer within {} s", limit.as_secs_f64());
            let text = format!("the server did not answer within {} s", limit.as_secs_f64());
            Report::fatal(SqlState::CONNECTION_FAILURE, text).into()
        }
        Err(stop) => stop.report().into(),
    };
    let pool = context.segment.pool(wanted.pool);
    pool.open_failures.fetch_add(1, Relaxed);
    pool.failed_at_ms.store(clock::monotonic_ms(), Relaxed);
    context.close(None).await;
    Err(failed)
}

async fn open(context: &Context<'_>, wanted: &Wanted<'_>, held: Held) -> Result<Opened, Ending> {
    let server = &context.config.servers[wanted.server_index];
    let table = context.segment.server(server_index(wanted));
    let login = Login {
        user: &wanted.server_user,
        database: &wanted.server_database,
        replication: wanted.replication.as_deref(),
        settings: &wanted.settings,
        login: ServerLogin::new(wanted.server_user.as_str(), credential(context, wanted), random()),
        // Protocol 3.2 came with PostgreSQL 18; older ones are not asked for it.
        minor: if table.major_version.load(Relaxed) >= 18 { 2 } else { 0 },
    };
    let opened = async {
        let target = server::target_of(server, table)
            .await
            .map_err(|e| Ending::Report(Report::fatal(SqlState::CONNECTION_FAILURE, e.to_string())))?;
        server::open(&target, context.socket_options(), login).await.map_err(|e| could_not_open(server, e))
    };
    let opened = opened.await;
    if let Ok(opened) = &opened {
        debug!("slot {}: opened a connection to {:?}, process {}", held.slot, server.name, opened.process_id);
    }
    opened
}

fn could_not_open(server: &ServerConfig, error: OpenError) -> Ending {
    warn!("cannot open a connection to server {:?}: {error}", server.name);
    match error {
        OpenError::Refused { body, .. } => Ending::ServerError(body),
        OpenError::Login(e) => {
            Report::fatal(SqlState::INVALID_PASSWORD, format!("cannot log in to the server: {e}"))
                .with_hint("Howdah logs in to the server with the secret in its users file.")
                .into()
        }
        e => Report::fatal(SqlState::CONNECTION_FAILURE, e.to_string()).into(),
    }
}

/// What Howdah can prove to the server with: the users file's secret of the server user, or what the client has shown.
fn credential(context: &Context<'_>, wanted: &Wanted<'_>) -> Credential {
    let own = wanted.rule.server_user.is_none();
    match (&wanted.proven, context.config.users.get(&wanted.server_user)) {
        (_, Some(Secret::Plain(password))) => Credential::Plain(password),
        (Proven::Password(password), _) if own => Credential::Plain(password.clone()),
        (Proven::ScramKeys(keys), _) if own => Credential::ScramKeys(keys.clone()),
        (_, Some(Secret::Md5(stored))) => Credential::Md5(stored),
        _ => Credential::None,
    }
}

fn server_index(wanted: &Wanted<'_>) -> ServerIndex {
    ServerIndex(u32::try_from(wanted.server_index).unwrap_or(u32::MAX))
}

/// Notes what was opened in the slot and hands the descriptor to main.
async fn keep(
    context: &Context<'_>,
    wanted: &Wanted<'_>,
    held: Held,
    opened: Opened,
) -> Result<ServerConnection, Ending> {
    let slot = context.segment.slot(held.slot);
    let now = clock::monotonic_ms();
    let connection = opened.connection;
    slot.signature.store(wanted.signature, Relaxed);
    slot.backend_pid.store(opened.process_id, Relaxed);
    slot.opened_at_ms.store(now, Relaxed);
    slot.checked_at_ms.store(now, Relaxed);
    slot.used_at_ms.store(now, Relaxed);
    slot.epoch.store(context.config_epoch, Relaxed);
    let unpooled = wanted.replication.is_some() || connection.parameters_lost;
    slot.unpooled.store(u32::from(unpooled), Relaxed);
    context.segment.set_parameters(held.slot, connection.parameters.as_bytes());
    context.secrets.set_server_key(held.slot, &opened.cancel_key);
    note_version(context, wanted, &connection);
    remember_settings(context, wanted);
    context.segment.header().opened.fetch_add(1, Relaxed);
    if context.main.tell(Id::Keep, Some(held), Some(connection.stream.descriptor())).await.is_err() {
        // Main is gone: serve this client, and close the connection afterwards.
        slot.unpooled.store(1, Relaxed);
    }
    if slot.word.opened(context.owner()).is_done() {
        return Ok(connection);
    }
    end(&connection.stream).await;
    Err(Report::fatal(SqlState::INTERNAL_ERROR, "the slot was taken away while its connection was opened")
        .into())
}

/// So that what is opened ahead of demand fits whoever comes next.
fn remember_settings(context: &Context<'_>, wanted: &Wanted<'_>) {
    let pool = context.segment.pool(wanted.pool);
    let bytes = wanted.settings.to_bytes();
    let known = pool.settings_signature.load(Relaxed) == wanted.signature;
    if known || wanted.replication.is_some() || bytes.len() > SETTINGS_MAX_BYTES {
        return;
    }
    store_bytes(pool.settings.as_flattened(), &bytes);
    pool.settings_length.store(u32::try_from(bytes.len()).unwrap_or(0), Relaxed);
    pool.settings_signature.store(wanted.signature, Relaxed);
}

/// The settings that were used last in a pool, and their signature; none where none are known.
pub fn remembered_settings(context: &Context<'_>, index: PoolIndex, soft: &[&str]) -> (StartupSettings, u64) {
    let pool = context.segment.pool(index);
    let mut bytes = Vec::new();
    load_bytes(pool.settings.as_flattened(), pool.settings_length.load(Relaxed) as usize, &mut bytes);
    let settings = StartupSettings::from_bytes(&bytes);
    let signature = settings.sign(soft).signature;
    if signature == pool.settings_signature.load(Relaxed) {
        return (settings, signature);
    }
    // Two workers wrote at once, or nobody has yet.
    let none = StartupSettings::from_pairs([]);
    let signature = none.sign(soft).signature;
    (none, signature)
}

fn note_version(context: &Context<'_>, wanted: &Wanted<'_>, connection: &ServerConnection) {
    let version = connection.parameters.get(b"server_version").and_then(|v| std::str::from_utf8(v).ok());
    let digits = |v: &str| v.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<u32>().ok();
    if let Some(major) = version.and_then(digits) {
        context.segment.server(server_index(wanted)).major_version.store(major, Relaxed);
    }
}
