//! What a client's startup message says about the session itself, apart from who and where: the settings.
//!
//! A server connection was opened with one client's settings; it serves another client as it is only if that client's
//! settings are the same. [`StartupSettings::sign`] turns them into a number that can be compared in a slot.

use super::options::Options;
use super::startup::{Parameter, StartupMessage, is_protocol_option};
use super::write::{self, WriteError};

/// The settings of a startup message: all parameters besides `user`, `database`, `replication` and protocol options,
/// in the client's order and as the client wrote them, `options` included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StartupSettings {
    entries: Vec<Parameter>,
}

/// The outcome of [`StartupSettings::sign`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// Equal settings have equal signatures; never 0.
    pub signature: u64,
    /// The settings that the signature leaves out, in the order in which the server would apply them; the names are
    /// in lower case.
    pub excluded: Vec<Parameter>,
}

impl StartupSettings {
    /// Takes the settings out of a startup message.
    #[must_use]
    pub fn from_message(message: &StartupMessage) -> Self {
        let who_and_where = |name: &[u8]| matches!(name, b"user" | b"database" | b"replication");
        let entries = message.parameters().filter(|(n, _)| !who_and_where(n) && !is_protocol_option(n));
        Self { entries: entries.map(|(n, v)| (n.into(), v.into())).collect() }
    }

    /// Makes settings of names and values, for connections that Howdah opens on its own.
    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Self {
        Self { entries: pairs.into_iter().map(|(n, v)| (n.into(), v.into())).collect() }
    }

    /// Gives the settings as bytes: `name NUL value NUL …`.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (name, value) in self.iter() {
            for part in [name, value] {
                bytes.extend_from_slice(part);
                bytes.push(0);
            }
        }
        bytes
    }

    /// Takes settings from what [`Self::to_bytes`] gave; what is left over at the end is passed over.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut parts = bytes.split(|byte| *byte == 0);
        let pairs = std::iter::from_fn(|| {
            let name = parts.next().filter(|name| !name.is_empty())?;
            Some((name, parts.next()?))
        });
        Self::from_pairs(pairs)
    }

    /// Gives the settings as the client wrote them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&[u8], &[u8])> {
        self.entries.iter().map(|(n, v)| (&**n, &**v))
    }

    /// Appends the startup packet for the server: `user`, `database`, `replication` if asked for, and the settings as
    /// the client wrote them.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn write_startup(
        &self,
        out: &mut Vec<u8>,
        minor: u16,
        user: &[u8],
        database: &[u8],
        replication: Option<&[u8]>,
    ) -> Result<(), WriteError> {
        let who = [(&b"user"[..], user), (b"database", database)];
        let replication = replication.map(|value| (&b"replication"[..], value));
        write::startup(out, minor, who.into_iter().chain(replication).chain(self.iter()))
    }

    /// The same settings without those named in `names`, which are set by other means.
    #[must_use]
    pub fn without(&self, names: &[&str]) -> Self {
        let is_named = |name: &[u8]| names.iter().any(|n| n.as_bytes().eq_ignore_ascii_case(name));
        if names.is_empty() {
            return self.clone();
        }
        let kept = self.entries.iter().filter(|(n, _)| !is_named(n));
        let entries = kept.map(|(n, v)| match &**n {
            b"options" => (n.clone(), options_without(v, is_named)),
            _ => (n.clone(), v.clone()),
        });
        Self { entries: entries.collect() }
    }

    /// Computes the signature over all settings except those named in `excluded` (in lower case).
    ///
    /// Names are compared as PostgreSQL does, without regard to ASCII case; the order of different names does not
    /// count. The order of repeated settings of one name does, as some are cumulative (`DateStyle`). `options` is
    /// read and its settings count like the others, which the server applies after them; what else is in it counts
    /// as it is written.
    ///
    /// FNV-1a with 64 bits: stable across builds, as the number stands in shared memory. It is no defence against a
    /// client that looks for collisions; whoever has to withstand that compares the settings themselves.
    #[must_use]
    pub fn sign(&self, excluded: &[&str]) -> Signed {
        let mut applied = Vec::new();
        let mut hash = Fnv::new();
        // PostgreSQL takes the last `options` alone.
        if let Some((_, value)) = self.entries.iter().rev().find(|(n, _)| **n == *b"options") {
            let options = Options::parse(value);
            if options.other {
                hash.field(b"options");
                hash.field(value);
            }
            applied.extend(options.settings.into_iter().map(|(n, v)| (n.into(), v.into())));
        }
        let direct = self.entries.iter().filter(|(n, _)| **n != *b"options");
        applied.extend(direct.map(|(n, v)| (n.to_ascii_lowercase().into_boxed_slice(), v.clone())));

        let is_excluded = |name: &[u8]| excluded.iter().any(|e| e.as_bytes().eq_ignore_ascii_case(name));
        let (left_out, mut counted): (Vec<Parameter>, Vec<Parameter>) =
            applied.into_iter().partition(|(n, _)| is_excluded(n));
        counted.sort_by(|(a, _), (b, _)| sort_key(a).cmp(sort_key(b)));
        for (name, value) in &counted {
            hash.field(name);
            hash.field(value);
        }
        Signed { signature: hash.finish(), excluded: left_out }
    }
}

/// Options of settings alone are written anew without those that are named; others cannot be taken apart and stay.
fn options_without(value: &[u8], is_named: impl Fn(&[u8]) -> bool) -> Box<[u8]> {
    let options = Options::parse(value);
    if options.other || !options.settings.iter().any(|(n, _)| is_named(n)) {
        return value.into();
    }
    let mut written = Vec::with_capacity(value.len());
    for (name, value) in options.settings.iter().filter(|(n, _)| !is_named(n)) {
        written.extend_from_slice(if written.is_empty() { b"-c " } else { b" -c " });
        for &byte in name.iter().chain(b"=").chain(value) {
            if byte == b'\\' || byte.is_ascii_whitespace() {
                written.push(b'\\');
            }
            written.push(byte);
        }
    }
    written.into()
}

/// Settings with the same key keep their order: setting `session_authorization` resets `role`.
fn sort_key(name: &[u8]) -> &[u8] {
    if name == b"session_authorization" { b"role" } else { name }
}

/// FNV-1a, 64 bits.
struct Fnv(u64);

impl Fnv {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    /// Adds a string and its end (a zero byte cannot be part of one).
    fn field(&mut self, bytes: &[u8]) {
        for &byte in bytes.iter().chain(&[0]) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn finish(self) -> u64 {
        self.0.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::super::startup::{FirstPacket, parse};
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> StartupSettings {
        StartupSettings::from_pairs(pairs.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes())))
    }

    fn signature(pairs: &[(&str, &str)]) -> u64 {
        settings(pairs).sign(&["application_name"]).signature
    }

    #[test]
    fn equal_settings_have_equal_signatures() {
        let base = signature(&[("a", "1"), ("b", "2")]);
        for same in [
            &[("b", "2"), ("a", "1")][..],
            &[("A", "1"), ("b", "2")],
            &[("a", "1"), ("b", "2"), ("application_name", "x")],
            &[("options", "-c a=1 --B=2")],
            &[("options", "-cb=2"), ("a", "1")],
            &[("options", "-c b=2 -c application_name=y"), ("a", "1")],
        ] {
            assert_eq!(signature(same), base, "{same:?}");
        }
        assert_ne!(signature(&[]), 0);
    }

    #[test]
    fn different_settings_have_different_signatures() {
        let base = signature(&[("a", "1"), ("b", "2")]);
        for other in [
            &[("a", "1")][..],
            &[("a", "2"), ("b", "1")],
            &[("a", "1"), ("a", "1"), ("b", "2")],
            &[("a1", ""), ("b", "2")],
            &[("options", "-e"), ("a", "1"), ("b", "2")],
            &[],
        ] {
            assert_ne!(signature(other), base, "{other:?}");
        }
        let style = |first, second| signature(&[("datestyle", first), ("DateStyle", second)]);
        assert_ne!(style("ISO", "DMY"), style("SQL", "DMY"));
        let role = [("role", "x"), ("session_authorization", "y")];
        assert_ne!(signature(&role), signature(&[role[1], role[0]]));
    }

    #[test]
    fn the_signature_is_stable_across_builds() {
        // Computed independently.
        assert_eq!(signature(&[]), 0xcbf2_9ce4_8422_2325);
        assert_eq!(signature(&[("client_encoding", "UTF8")]), 0x6596_5f7e_f943_3c43);
    }

    #[test]
    fn excluded_settings_come_back_in_order() {
        let signed =
            settings(&[("Application_Name", "last"), ("options", "-c application_name=first -c a=1")])
                .sign(&["application_name"]);
        let names: Vec<_> = signed.excluded.iter().map(|(n, v)| (&**n, &**v)).collect();
        assert_eq!(names, [(&b"application_name"[..], &b"first"[..]), (b"application_name", b"last")]);
    }

    #[test]
    fn the_server_gets_what_the_client_wrote() {
        let mut packet = Vec::new();
        let pairs: [(&[u8], &[u8]); 6] = [
            (b"TimeZone", b"UTC"),
            (b"user", b"alias"),
            (b"_pq_.x", b"1"),
            (b"options", b"-c a=1"),
            (b"replication", b"off"),
            (b"database", b"d"),
        ];
        write::startup(&mut packet, 2, pairs).expect("writable");
        let Ok(FirstPacket::Startup(message)) = parse(&packet) else { panic!("not a startup message") };
        let settings = StartupSettings::from_message(&message);
        let mut out = Vec::new();
        settings.write_startup(&mut out, 0, b"u", b"db", None).expect("writable");
        assert_eq!(&out[8..], b"user\0u\0database\0db\0TimeZone\0UTC\0options\0-c a=1\0\0");
        assert_eq!(settings.iter().len(), 2);
    }
}
