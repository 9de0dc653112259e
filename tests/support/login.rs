//! Who connects to what: the same for PostgreSQL and for Howdah, so that a test can run against either.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::{Background, Outcome, PgError, RawClient, run};

/// How long psql and pgbench may take, unless a test says otherwise.
const LIMIT: Duration = Duration::from_secs(60);

/// Connection parameters, and the programs and drivers that use them.
#[derive(Clone, Debug)]
pub struct Login {
    /// A host's name or address, or the folder of a Unix socket.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The user.
    pub user: String,
    /// The password, if one is needed.
    pub password: Option<String>,
    /// The database.
    pub database: String,
    /// Further startup parameters of [`RawClient`].
    pub parameters: Vec<(String, String)>,
    /// What libpq takes from PGOPTIONS.
    pub options: Option<String>,
}

impl Login {
    /// `postgres` on 127.0.0.1, database `postgres`, no password.
    pub fn to(port: u16) -> Self {
        Self {
            host: "127.0.0.1".into(),
            port,
            user: "postgres".into(),
            password: None,
            database: "postgres".into(),
            parameters: Vec::new(),
            options: None,
        }
    }

    /// As another user.
    pub fn user(mut self, user: &str) -> Self {
        self.user = user.into();
        self
    }

    /// With a password.
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.into());
        self
    }

    /// As another user whose password is the name with `_secret`.
    pub fn known(self, user: &str) -> Self {
        self.user(user).password(&format!("{user}_secret"))
    }

    /// To another database.
    pub fn database(mut self, database: &str) -> Self {
        self.database = database.into();
        self
    }

    /// To another host, or through the Unix socket in a folder.
    pub fn host(mut self, host: &str) -> Self {
        self.host = host.into();
        self
    }

    /// With a startup parameter, for [`RawClient`].
    pub fn parameter(mut self, name: &str, value: &str) -> Self {
        self.parameters.push((name.into(), value.into()));
        self
    }

    /// With command line options for the backend: `-c work_mem=1MB`.
    pub fn options(mut self, options: &str) -> Self {
        self.options = Some(options.into());
        self
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(client_program(name));
        command
            .env("PGHOST", &self.host)
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", &self.user)
            .env("PGDATABASE", &self.database)
            .env("PGSSLMODE", "disable")
            .env("PGCONNECT_TIMEOUT", "30")
            .env("PGPASSFILE", "/nowhere/pgpass")
            .env("PGAPPNAME", name)
            .env_remove("PGOPTIONS")
            .env_remove("PGPASSWORD");
        if let Some(password) = &self.password {
            command.env("PGPASSWORD", password);
        }
        if let Some(options) = &self.options {
            command.env("PGOPTIONS", options);
        }
        command
    }

    /// The psql command for one session: columns parted by `|`, no headings, stops at the first error.
    pub fn psql_command(&self, sql: &str) -> Command {
        let mut command = self.program("psql");
        command.args([
            "-X",
            "-w",
            "-q",
            "-A",
            "-t",
            "-v",
            "ON_ERROR_STOP=1",
            "-v",
            "VERBOSITY=verbose",
            "-c",
            sql,
        ]);
        command
    }

    /// Runs SQL with psql.
    #[track_caller]
    pub fn psql(&self, sql: &str) -> Outcome {
        run(LIMIT, &self.psql_command(sql))
    }

    /// Runs psql on a script, one session, each statement and backslash command on its own.
    #[track_caller]
    pub fn psql_script(&self, script: &str) -> Outcome {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
        std::io::Write::write_all(&mut file, script.as_bytes()).expect("a temporary file can be written");
        let mut command = self.program("psql");
        command.args(["-X", "-w", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-f"]).arg(file.path());
        run(LIMIT, &command)
    }

    /// Runs SQL with psql beside the test.
    pub fn psql_background(&self, sql: &str) -> Background {
        Background::start(LIMIT, &self.psql_command(sql))
    }

    fn pgbench_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.program("pgbench");
        command.args(arguments);
        command
    }

    /// Runs pgbench.
    #[track_caller]
    pub fn pgbench(&self, arguments: &[&str]) -> Outcome {
        run(LIMIT * 2, &self.pgbench_command(arguments))
    }

    /// Runs pgbench beside the test.
    pub fn pgbench_background(&self, arguments: &[&str]) -> Background {
        Background::start(LIMIT * 2, &self.pgbench_command(arguments))
    }

    /// Creates pgbench's tables in the database.
    pub fn pgbench_tables(&self) {
        self.pgbench(&["-i", "-q", "-s", "1"]).ok();
    }

    /// Runs another of PostgreSQL's client programs.
    #[track_caller]
    pub fn client(&self, name: &str, arguments: &[&str]) -> Outcome {
        let mut command = self.program(name);
        command.args(arguments);
        run(LIMIT, &command)
    }

    /// Logs in with the raw client.
    ///
    /// # Errors
    /// The ErrorResponse that came instead of ReadyForQuery.
    #[track_caller]
    pub fn try_raw(&self) -> Result<RawClient, PgError> {
        RawClient::log_in(self)
    }

    /// Logs in with the raw client, which must succeed.
    #[track_caller]
    pub fn raw(&self) -> RawClient {
        match self.try_raw() {
            Ok(client) => client,
            Err(error) => panic!("{}@{}:{}: {error:?}", self.user, self.host, self.port),
        }
    }

    /// The configuration of tokio-postgres for this login.
    pub fn tokio(&self) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config
            .host(&self.host)
            .port(self.port)
            .user(&self.user)
            .dbname(&self.database)
            .ssl_mode(tokio_postgres::config::SslMode::Disable)
            .connect_timeout(Duration::from_secs(60));
        if let Some(password) = &self.password {
            config.password(password);
        }
        if let Some(options) = &self.options {
            config.options(options);
        }
        config
    }
}

/// The program beside the server's own if it is not on PATH, as Debian keeps most of them.
fn client_program(name: &str) -> PathBuf {
    let on_path = std::env::var_os("PATH")
        .and_then(|path| std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.exists()));
    on_path.unwrap_or_else(|| PathBuf::from("/usr/lib/postgresql/15/bin").join(name))
}
