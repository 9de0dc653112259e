//! Reads the tables of `howdah.toml` by the table of keys: type, range and default of every value.
//!
//! A mistake is put into the [`Report`] and the default taken in its place, so that one pass finds all mistakes.
#![forbid(unsafe_code)]

use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{self, Default, Key, Kind};
use super::problem::{Place, Report, line_of};
use super::units::parse_duration;

/// The whole file.
pub(super) struct Document<'a> {
    root: Option<Spanned<DeTable<'a>>>,
}

/// One table of a section with what its keys are called in errors.
pub(super) struct Table<'a> {
    section: &'static str,
    /// `pools.0`, `servers.main`, `howdah`.
    pub(super) path: String,
    /// The `NAME` of `[servers.NAME]`; empty elsewhere.
    pub(super) name: String,
    /// Where its header stands; none when it is not written.
    pub(super) place: Place,
    entries: Option<&'a DeTable<'a>>,
}

/// A string that was written, and where.
#[derive(Clone)]
pub(super) struct Text {
    pub(super) text: String,
    pub(super) place: Place,
}

/// A value of a key: written, or its default.
struct Value<'a> {
    value: DeValue<'a>,
    place: Place,
}

impl<'a> Document<'a> {
    /// Parses TOML; syntax errors go to the report.
    pub(super) fn parse(text: &'a str, report: &mut Report<'_>) -> Self {
        let (root, errors) = DeTable::parse_recoverable(text);
        let mut told = None;
        for error in &errors {
            let line = error.span().map(|it| line_of(text, it.start));
            // What follows in the same line is mostly a consequence.
            if line.is_none() || told != line {
                report.error("", &error.span(), syntax_message(text, error));
            }
            told = line;
        }
        Document { root: errors.is_empty().then_some(root) }
    }

    /// Whether there was no syntax error.
    pub(super) fn is_readable(&self) -> bool {
        self.root.is_some()
    }

    /// Reports sections that do not exist.
    pub(super) fn check_sections(&self, report: &mut Report<'_>) {
        for (name, value) in self.root.iter().flat_map(|it| it.get_ref().iter()) {
            let written = name.get_ref().as_ref();
            if keys::SECTIONS.iter().any(|it| it.name == written) {
                continue;
            }
            let place = Some(name.span());
            if value.get_ref().is_table() || value.get_ref().is_array() {
                let known = keys::SECTIONS.iter().map(|it| it.name);
                report.error(written, &place, format!("unknown section{}", suggestion(written, known)));
            } else {
                report.error(written, &place, stray_key(written));
            }
        }
    }

    /// A section that stands once: `[howdah]`.
    pub(super) fn single(&'a self, section: &'static str, report: &mut Report<'_>) -> Table<'a> {
        let Some((place, value)) = self.section(section) else { return Table::absent(section, section) };
        match value.as_table() {
            Some(entries) => {
                let table = Table::new(section, section.to_owned(), String::new(), place, Some(entries));
                table.check_keys(report);
                table
            }
            None => {
                report.error(section, &place, format!("must be a section: [{section}]"));
                Table::absent(section, section)
            }
        }
    }

    /// The tables of `[servers.NAME]`, in the order of the file.
    pub(super) fn named(&'a self, section: &'static str, report: &mut Report<'_>) -> Vec<Table<'a>> {
        let Some((place, value)) = self.section(section) else { return Vec::new() };
        let Some(entries) = value.as_table() else {
            report.error(section, &place, format!("must be sections with names: [{section}.NAME]"));
            return Vec::new();
        };
        let mut tables = Vec::new();
        for (name, value) in entries {
            let (name, place) = (name.get_ref().to_string(), Some(name.span()));
            let path = format!("{section}.{name}");
            if name.is_empty() {
                report.error(section, &place, "the name is empty");
            }
            match value.get_ref().as_table() {
                Some(entries) => tables.push(Table::new(section, path, name, place, Some(entries))),
                None => report.error(
                    &path,
                    &place,
                    format!("must stand in a section with a name: [{section}.NAME]"),
                ),
            }
        }
        tables.sort_by_key(|it| it.place.as_ref().map(|it| it.start));
        tables.iter().for_each(|it| it.check_keys(report));
        tables
    }

    /// The tables of `[[pools]]`.
    pub(super) fn repeated(&'a self, section: &'static str, report: &mut Report<'_>) -> Vec<Table<'a>> {
        let Some((place, value)) = self.section(section) else { return Vec::new() };
        let message = format!("must be written with two brackets: [[{section}]]");
        let Some(items) = value.as_array() else {
            report.error(section, &place, message);
            return Vec::new();
        };
        let mut tables = Vec::new();
        for (number, item) in items.iter().enumerate() {
            let (path, place) = (format!("{section}.{number}"), Some(item.span()));
            match item.get_ref().as_table() {
                Some(entries) => tables.push(Table::new(section, path, String::new(), place, Some(entries))),
                None => report.error(&path, &place, message.clone()),
            }
        }
        tables.iter().for_each(|it| it.check_keys(report));
        tables
    }

    fn section(&'a self, section: &str) -> Option<(Place, &'a DeValue<'a>)> {
        let (name, value) = self.root.as_ref()?.get_ref().get_key_value(section)?;
        // A header's span covers the whole line; that of the name is right for inline tables and dotted keys too.
        Some((Some(name.span()), value.get_ref()))
    }
}

impl<'a> Table<'a> {
    fn new(
        section: &'static str,
        path: String,
        name: String,
        place: Place,
        entries: Option<&'a DeTable<'a>>,
    ) -> Self {
        Table { section, path, name, place, entries }
    }

    /// A table that is not written: every key has its default.
    pub(super) fn absent(section: &'static str, path: &str) -> Self {
        Table::new(section, path.to_owned(), String::new(), None, None)
    }

    /// The string as written, before it is checked in any way.
    pub(super) fn written_text(&self, name: &str) -> Option<String> {
        self.written(name).and_then(|it| it.value.as_str().map(str::to_owned))
    }

    /// `pools.0.size`.
    pub(super) fn path_of(&self, name: &str) -> String {
        format!("{}.{name}", self.path)
    }

    /// Where the value of the key stands; none when it is not written.
    pub(super) fn place_of(&self, name: &str) -> Place {
        self.entries.and_then(|it| it.get(name)).map(Spanned::span)
    }

    /// Where the key's value stands, or else the header.
    pub(super) fn place_near(&self, name: &str) -> Place {
        self.place_of(name).or_else(|| self.place.clone())
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self, name: &str, report: &mut Report<'_>) -> bool {
        self.read(name, report, |_, value| value.as_bool().ok_or_else(String::new)).unwrap_or(false)
    }

    /// A number within the key's range.
    pub(super) fn integer(&self, name: &str, report: &mut Report<'_>) -> u32 {
        self.read(name, report, |key, value| {
            let Kind::Integer(min, max) = key.kind else { return Err(String::new()) };
            let integer = value.as_integer().ok_or_else(String::new)?;
            let number = u32::from_str_radix(integer.as_str(), integer.radix()).ok();
            number.filter(|it| (min..=max).contains(it)).ok_or_else(|| "is out of range".to_owned())
        })
        .unwrap_or(0)
    }

    /// A duration within the key's range.
    pub(super) fn duration(&self, name: &str, report: &mut Report<'_>) -> Duration {
        self.optional_duration(name, report).unwrap_or(Duration::ZERO)
    }

    /// A duration within the key's range, or none.
    pub(super) fn optional_duration(&self, name: &str, report: &mut Report<'_>) -> Option<Duration> {
        self.read(name, report, read_duration).flatten()
    }

    /// One of the key's words.
    pub(super) fn word(&self, name: &str, report: &mut Report<'_>) -> &'static str {
        self.read(name, report, |key, value| {
            let Kind::Word(words) = key.kind else { return Err(String::new()) };
            let written = value.as_str().ok_or_else(String::new)?;
            let found = words.iter().find(|it| **it == written).copied();
            found.ok_or_else(|| format!("is not known{}", suggestion(written, words.iter().copied())))
        })
        .unwrap_or("")
    }

    /// A string, when there is one.
    pub(super) fn text(&self, name: &str, report: &mut Report<'_>) -> Option<Text> {
        self.read(name, report, |_, value| without_nul(value.as_str().ok_or_else(String::new)?))
            .map(|text| Text { text, place: self.place_of(name) })
    }

    /// Strings, one or an array of them.
    pub(super) fn list(&self, name: &str, report: &mut Report<'_>) -> Vec<Text> {
        let place = self.place_of(name);
        self.read(name, report, |key, value| match (value, key.kind) {
            (DeValue::String(text), Kind::TextOrList(_)) => {
                Ok(vec![Text { text: without_nul(text)?, place: place.clone() }])
            }
            (DeValue::Array(items), _) => items
                .iter()
                .map(|item| {
                    let text = without_nul(item.get_ref().as_str().ok_or_else(String::new)?)?;
                    // The items of a default have places in the default's text, not in the file.
                    Ok(Text { text, place: place.as_ref().map(|_| item.span()) })
                })
                .collect(),
            _ => Err(String::new()),
        })
        .unwrap_or_default()
    }

    /// Says that a value is wrong and what would be accepted.
    pub(super) fn refuse(&self, name: &str, place: &Place, message: &str, report: &mut Report<'_>) {
        let message = match keys::find(self.section, name) {
            Some(key) => format!("{message}; accepted: {}", key.accepted()),
            None => message.to_owned(),
        };
        report.error_with_value(&self.path_of(name), place, message);
    }

    /// Reads what is written, or else the default, which also stands in for a value that is wrong. An empty error text means that the type is wrong.
    fn read<T>(
        &self,
        name: &str,
        report: &mut Report<'_>,
        read: impl Fn(&Key, &DeValue<'_>) -> Result<T, String>,
    ) -> Option<T> {
        let key = keys::find(self.section, name)?;
        let given = match self.written(name) {
            Some(given) => given,
            None => default(key)?,
        };
        match read(key, &given.value) {
            Ok(value) => Some(value),
            Err(message) => {
                let wrong_type = || format!("must be {}", with_article(key.type_name()));
                let message = if message.is_empty() { wrong_type() } else { message };
                self.refuse(name, &given.place, &message, report);
                default(key).and_then(|it| read(key, &it.value).ok())
            }
        }
    }

    fn written(&self, name: &str) -> Option<Value<'a>> {
        let value = self.entries?.get(name)?;
        Some(Value { value: value.get_ref().clone(), place: Some(value.span()) })
    }

    /// Reports keys that do not exist, and required ones that are missing.
    fn check_keys(&self, report: &mut Report<'_>) {
        let Some(entries) = self.entries else { return };
        for name in entries.keys() {
            let (written, place) = (name.get_ref().as_ref(), Some(name.span()));
            if keys::find(self.section, written).is_some() {
                continue;
            }
            let known = keys::of_section(self.section).map(|it| it.name);
            let message = match suggestion(written, known) {
                text if text.is_empty() => elsewhere(written),
                text => format!("unknown key{text}"),
            };
            report.error(&self.path_of(written), &place, message);
        }
        for key in keys::of_section(self.section) {
            if matches!(key.default, Default::Required(_)) && !entries.contains_key(key.name) {
                let message = format!("is missing; accepted: {}", key.accepted());
                report.error(&self.path_of(key.name), &self.place, message);
            }
        }
    }
}

/// What is wrong with the TOML; of a word without quotes the parser's own message is a guess at what else it might be.
fn syntax_message(text: &str, error: &toml::de::Error) -> String {
    let span = error.span().unwrap_or(0..0);
    if error.message() == "duplicate key" {
        return format!("`{}` is written twice", text.get(span).unwrap_or("").trim());
    }
    let line = line_of(text, span.start).checked_sub(1).and_then(|it| text.lines().nth(it)).unwrap_or("");
    let bare = |it: &&str| {
        it.starts_with(|first: char| first.is_alphanumeric() || first == '/' || first == '*')
            && !it.contains(['"', '\'', '=', '['])
            && DeValue::parse(it).is_err()
    };
    let value =
        line.split_once('=').map(|(key, value)| (key.trim(), value.split('#').next().unwrap_or("").trim()));
    match value.filter(|(_, value)| bare(value)) {
        Some((key, value)) => format!("TOML syntax: a string needs double quotes: {key} = \"{value}\""),
        None => format!("TOML syntax: {}", error.message()),
    }
}

/// No path, name or query can contain NUL.
fn without_nul(text: &str) -> Result<String, String> {
    if text.contains('\0') { Err("contains a NUL character".to_owned()) } else { Ok(text.to_owned()) }
}

fn default(key: &Key) -> Option<Value<'static>> {
    let Default::Is(text) = key.default else { return None };
    let value = DeValue::parse(text).ok()?.into_inner();
    Some(Value { value, place: None })
}

fn read_duration(key: &Key, value: &DeValue<'_>) -> Result<Option<Duration>, String> {
    let Kind::Duration(min, max, none) = key.kind else { return Err(String::new()) };
    let duration = match value {
        DeValue::String(text) if !none.is_empty() && text.as_ref() == none => return Ok(None),
        DeValue::String(text) => parse_duration(text).map_err(|it| it.to_string())?,
        DeValue::Integer(number) if number.as_str() == "0" => Duration::ZERO,
        DeValue::Integer(number) => {
            return Err(format!("a unit is missing; did you mean \"{}s\"?", number.as_str()));
        }
        _ => return Err(String::new()),
    };
    if duration.is_zero() && !none.is_empty() {
        return Ok(None);
    }
    let bound = |text: &str| parse_duration(text).map_err(|it| it.to_string());
    if duration < bound(min)? || duration > bound(max)? {
        return Err("is out of range".to_owned());
    }
    Ok(Some(duration))
}

/// `; did you mean `x`?`, or nothing.
pub(super) fn suggestion<'n>(written: &str, known: impl Iterator<Item = &'n str>) -> String {
    keys::did_you_mean(written, known).map(|it| format!("; did you mean `{it}`?")).unwrap_or_default()
}

/// The message for a key that its section does not have: it may belong to another one.
fn elsewhere(written: &str) -> String {
    match keys::all().find(|it| it.name == written) {
        Some(key) => format!("unknown key here; it belongs to {}", header(key.section)),
        None => "unknown key".to_owned(),
    }
}

/// The message for a key before the first section.
fn stray_key(written: &str) -> String {
    match keys::all().find(|it| it.name == written) {
        Some(key) => format!("stands in no section; it belongs to {}", header(key.section)),
        None => "unknown key, and it stands in no section".to_owned(),
    }
}

pub(super) fn header(section: &str) -> &'static str {
    keys::SECTIONS.iter().find(|it| it.name == section).map_or("", |it| it.header)
}

fn with_article(noun: &str) -> String {
    let article = if noun.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {noun}")
}
