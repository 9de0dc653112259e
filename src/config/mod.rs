//! The configuration: as written, as valid, and the users file.
//!
//! ```text
//! howdah.toml ─▶ as_written ─▶ validate ─▶ checks ─▶ Config
//!                    ▲  keys (one table of all keys) ─▶ sample file, get, list, difference, the manual
//! ```
//! Main reads it at the start and at each reload, as a whole: it either becomes a [`Config`] or every mistake in it is
//! told. Reading touches `howdah.toml`, the users file and the list of network interfaces, and waits for nothing else.
#![forbid(unsafe_code)]

mod as_written;
mod checks;
mod difference;
mod hba_rules;
pub mod keys;
mod listen;
mod listing;
mod problem;
mod route;
mod sample;
mod set;
mod units;
pub mod user_list;
mod valid;
mod validate;

use std::path::{Path, PathBuf};

pub use difference::{Change, Difference, difference};
pub use listing::UnknownKey;
pub use problem::{Errors, Problem};
pub use route::{Route, RouteError};
pub use sample::{default_config_text, manual_table};
pub use set::set;
pub use units::{UnitError, format_duration, parse_duration};
pub use valid::*;

use problem::Report;
use user_list::UserList;

/// A configuration that was read.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Valid as a whole.
    pub config: Config,
    /// What is allowed but hardly meant.
    pub warnings: Vec<Problem>,
    /// The text of the file, to be changed by `howdah-cli conf set`.
    pub text: String,
}

/// Reads the file and the users file that it names.
///
/// **Blocking**: on files alone. **Errors**: everything that is wrong, at once.
pub fn load(path: &Path) -> Result<Loaded, Errors> {
    let fail = |line, message: String| {
        let (key, value) = (String::new(), String::new());
        Errors(vec![Problem { file: path.to_owned(), line, key, value, message }])
    };
    let bytes = std::fs::read(path).map_err(|it| fail(None, format!("cannot be read: {it}")))?;
    let text = String::from_utf8(bytes).map_err(|it| {
        let valid = it.utf8_error().valid_up_to();
        let line = it.as_bytes().iter().take(valid).filter(|byte| **byte == b'\n').count() + 1;
        fail(Some(line), "is not UTF-8".to_owned())
    })?;
    load_text(text, path)
}

/// Reads a text as if it stood in the file `path`, and the users file that it names.
pub fn load_text(text: impl Into<String>, path: &Path) -> Result<Loaded, Errors> {
    let text = text.into();
    let mut report = Report::new(path, &text);
    let config = read(&text, path, &mut report);
    let warnings = report.finish()?;
    match config {
        Some(config) => Ok(Loaded { config, warnings, text }),
        // Without a configuration there was an error, and `finish` returned it.
        None => Err(Errors(warnings)),
    }
}

fn read(text: &str, path: &Path, report: &mut Report<'_>) -> Option<Config> {
    let document = as_written::Document::parse(text, report);
    if !document.is_readable() {
        return None;
    }
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let (mut config, tables) = validate::config(&document, &absolute, report);
    config.users = users(&config, &tables, report);
    checks::check(&config, &tables, report);
    Some(config)
}

/// Reads the users file. It may belong to root, to whoever runs this, and to the user that root will become.
fn users(config: &Config, tables: &validate::Tables<'_>, report: &mut Report<'_>) -> UserList {
    let Some(path) = &config.users_file else { return UserList::default() };
    let effective = nix::unistd::geteuid();
    let mut owners = vec![0, effective.as_raw()];
    let user = config.user.as_deref().filter(|_| effective.is_root());
    if let Some(Ok(Some(user))) = user.map(nix::unistd::User::from_name) {
        owners.push(user.uid.as_raw());
        warn_of_unreadable(path, user.uid.as_raw(), tables, report);
    }
    UserList::load(path, &owners).unwrap_or_else(|problems| {
        report.errors.extend(problems);
        UserList::default()
    })
}

/// Root can read root's users file, but a reload happens after root has become somebody else.
fn warn_of_unreadable(path: &PathBuf, user: u32, tables: &validate::Tables<'_>, report: &mut Report<'_>) {
    use std::os::unix::fs::MetadataExt;
    if std::fs::metadata(path).is_ok_and(|it| it.uid() != user) && user != 0 {
        let message = "belongs to root: a reload, which happens as [howdah] user, cannot read it";
        report.warning("howdah.users_file", &tables.howdah.place_near("users_file"), message);
    }
}
