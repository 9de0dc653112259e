//! Changes one key in the text of a configuration: `howdah-cli conf set`.
//!
//! The text stays as people wrote it, comments included, but for the one value. What comes out has been validated as a
//! whole. No file is written.
#![forbid(unsafe_code)]

use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::as_written::{header, suggestion};
use super::keys::{self, Key, Kind};
use super::listing::quote;
use super::problem::{Errors, Problem};
use super::{Loaded, load_text};

/// Sets a key such as `pools.0.size` in the text of the file `path`, and reads the result as a whole.
///
/// A value may be written as in TOML, or bare: `2min`, `info`. A key that is not in the text is added to its section;
/// the sections `howdah`, `log`, `tcp` and `timeouts` are added as well, others must be there.
///
/// **Errors**: the key is none, its section is not in the text, or the result is not valid.
pub fn set(text: &str, path: &Path, key: &str, value: &str) -> Result<Loaded, Errors> {
    let fail = |message: String| {
        Errors(vec![Problem {
            file: path.to_owned(),
            line: None,
            key: key.to_owned(),
            value: String::new(),
            message,
        }])
    };
    let target = Target::parse(key).ok_or_else(|| fail(unknown(key)))?;
    let document = DeTable::parse(text).map_err(|it| fail(format!("TOML syntax: {}", it.message())))?;
    let (range, replacement) = target.edit(text, document.get_ref(), value).map_err(fail)?;
    let mut edited = text.to_owned();
    edited.replace_range(range, &replacement);
    load_text(edited, path)
}

/// A key with the table in which it stands.
struct Target<'a> {
    key: &'static Key,
    /// `NAME` or number of a section that may stand there several times.
    item: Option<&'a str>,
}

impl<'a> Target<'a> {
    /// `howdah.port`, `servers.NAME.host` (a name may hold dots), `pools.0.size`.
    fn parse(text: &'a str) -> Option<Target<'a>> {
        let (path, name) = text.rsplit_once('.')?;
        let (section, item) = match path.split_once('.') {
            Some((section, item)) => (section, Some(item)),
            None => (path, None),
        };
        let key = keys::find(section, name)?;
        (is_single(section) == item.is_none()).then_some(Target { key, item })
    }

    /// What to replace in the text, and with what.
    fn edit(
        &self,
        text: &str,
        document: &DeTable<'_>,
        value: &str,
    ) -> Result<(Range<usize>, String), String> {
        let value = as_toml(self.key, value);
        let line = format!("{} = {value}\n", self.key.name);
        let Some(table) = self.table(document)? else {
            let newline = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
            let addition = format!("{newline}\n{}\n{line}", header(self.key.section));
            return Ok((text.len()..text.len(), addition));
        };
        let entries = table.get_ref().as_table().ok_or("its section is not a table")?;
        if let Some(present) = entries.get(self.key.name) {
            return Ok((present.span(), value));
        }
        // The place of a table with a header is that of the header.
        let span = table.span();
        if !text.get(span.clone()).is_some_and(|it| it.starts_with('[')) {
            return Err("its section has no header of its own in the file; write the key there".to_owned());
        }
        match text.get(span.end..).and_then(|it| it.find('\n')) {
            Some(end) => {
                let after_header = span.end + end + 1;
                Ok((after_header..after_header, line))
            }
            None => Ok((text.len()..text.len(), format!("\n{line}"))),
        }
    }

    /// The table in the document; none when a section that may be added is not there.
    fn table<'d>(&self, document: &'d DeTable<'d>) -> Result<Option<&'d Spanned<DeValue<'d>>>, String> {
        let section = document.get(self.key.section);
        let Some(item) = self.item else { return Ok(section) };
        let found = match section.map(Spanned::get_ref) {
            Some(DeValue::Array(items)) => item.parse().ok().and_then(|it: usize| items.get(it)),
            Some(DeValue::Table(entries)) => entries.get(item),
            _ => None,
        };
        let missing = || format!("there is no {} {item} in the file", header(self.key.section));
        found.map(Some).ok_or_else(missing)
    }
}

fn is_single(section: &str) -> bool {
    keys::SECTIONS.iter().any(|it| it.name == section && it.header == format!("[{section}]"))
}

/// The value as TOML: what is to be a string may come without quotes.
fn as_toml(key: &Key, value: &str) -> String {
    let is_written_as_toml = || {
        let begins = value.trim_start().starts_with(['"', '\'', '[']);
        begins && DeValue::parse(value).is_ok()
    };
    match key.kind {
        // A line break would begin another key.
        Kind::Boolean | Kind::Integer(..) => value.trim().replace(['\n', '\r', '#'], " "),
        Kind::List(_) if !is_written_as_toml() => format!("[{}]", quote(value)),
        _ if is_written_as_toml() => value.to_owned(),
        _ => quote(value),
    }
}

fn unknown(key: &str) -> String {
    let known: Vec<String> = keys::all()
        .map(|it| match (is_single(it.section), it.section) {
            (true, section) => format!("{section}.{}", it.name),
            (false, section @ ("pools" | "hba")) => format!("{section}.0.{}", it.name),
            (false, section) => format!("{section}.NAME.{}", it.name),
        })
        .collect();
    let by_last_part = known.iter().find(|it| it.rsplit('.').next() == Some(key));
    let suggestion = match by_last_part {
        Some(found) => format!("; did you mean `{found}`?"),
        None => suggestion(key, known.iter().map(String::as_str)),
    };
    format!("unknown key{suggestion}")
}
