//! The startup parameter `options`: command-line switches for one session.
//!
//! **Source**: PostgreSQL `pg_split_opts` (postinit.c), `process_postgres_switches` (postgres.c), `ParseLongOption`
//! (guc.c), and the C library's getopt, which lets switches be clustered (`-ecname=value`).

/// What an `options` value says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The settings in order: name in lower case with `-` as `_`, and value.
    pub settings: Vec<(Vec<u8>, Vec<u8>)>,
    /// Something other than settings is in it (`-e`, `-d 2`, a word without a dash, a setting without a value).
    pub other: bool,
}

/// The switches that take an argument in postgres.c's getopt string; `-` stands for `--name=value`.
const WITH_ARGUMENT: &[u8] = b"BcCDdfhkNprStvWl-";

impl Options {
    /// Reads an `options` value. It cannot fail: what PostgreSQL would refuse is `other`.
    #[must_use]
    pub fn parse(text: &[u8]) -> Self {
        let mut options = Self::default();
        let mut words = split(text).into_iter();
        while let Some(word) = words.next() {
            match word.strip_prefix(b"-") {
                // getopt stops at the first word that is no switch, and at `--`.
                None | Some([] | b"-") => {
                    options.other = true;
                    break;
                }
                Some(cluster) => options.switches(cluster, &mut words),
            }
        }
        options
    }

    /// Reads one word's switches, taking the next word for an argument that is not attached.
    fn switches(&mut self, cluster: &[u8], words: &mut impl Iterator<Item = Vec<u8>>) {
        let mut rest = cluster;
        while let Some((&switch, tail)) = rest.split_first() {
            if !WITH_ARGUMENT.contains(&switch) {
                self.other = true;
                rest = tail;
                continue;
            }
            let argument = if tail.is_empty() { words.next() } else { Some(tail.to_vec()) };
            match argument.as_deref().and_then(long_option) {
                Some(setting) if matches!(switch, b'c' | b'-') => self.settings.push(setting),
                _ => self.other = true,
            }
            return;
        }
    }
}

/// Splits at unescaped white space; a backslash takes the next byte as it is.
fn split(text: &[u8]) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut escaped = false;
    for &byte in text {
        if escaped {
            word.get_or_insert_default().push(byte);
            escaped = false;
        } else if matches!(byte, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r') {
            words.extend(word.take());
        } else {
            let word = word.get_or_insert_default();
            escaped = byte == b'\\';
            if !escaped {
                word.push(byte);
            }
        }
    }
    words.extend(word);
    words
}

/// `name=value`, with the name as PostgreSQL compares it.
fn long_option(text: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let at = text.iter().position(|&b| b == b'=')?;
    let (name, value) = text.split_at_checked(at)?;
    let name = name.iter().map(|&b| if b == b'-' { b'_' } else { b.to_ascii_lowercase() }).collect();
    Some((name, value.get(1..)?.to_vec()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, settings: &[(&str, &str)], other: bool) {
        let found = Options::parse(text.as_bytes());
        let expected: Vec<_> =
            settings.iter().map(|(n, v)| (n.as_bytes().to_vec(), v.as_bytes().to_vec())).collect();
        assert_eq!((found.settings, found.other), (expected, other), "{text:?}");
    }

    #[test]
    fn settings_are_found_in_every_spelling() {
        check("", &[], false);
        check("  \t", &[], false);
        check("-c a=1", &[("a", "1")], false);
        check("-ca=1 --b=2\n-c\tC=3", &[("a", "1"), ("b", "2"), ("c", "3")], false);
        check("--Work-Mem=64MB", &[("work_mem", "64MB")], false);
        check("-c a=x=y", &[("a", "x=y")], false);
        check("-c a=", &[("a", "")], false);
        check(r"-c search_path=one,\ two -c b=c:\\d", &[("search_path", "one, two"), ("b", r"c:\d")], false);
        check(r"-c a=1\", &[("a", "1")], false);
    }

    #[test]
    fn what_is_no_setting_is_told() {
        check("-e -c a=1", &[("a", "1")], true);
        check("-eca=1", &[("a", "1")], true);
        check("-d 2 -c a=1", &[("a", "1")], true);
        check("-d2", &[], true);
        check("-c", &[], true);
        check("-c a", &[], true);
        check("--a", &[], true);
        check("word -c a=1", &[], true);
        check("-c a=1 -- -c b=2", &[("a", "1")], true);
        check("-", &[], true);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(text in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = Options::parse(&text);
        }

        #[test]
        fn escaped_values_come_back(value in "[ -~]{0,12}") {
            let escaped: String = value.chars()
                .flat_map(|c| (c == ' ' || c == '\\').then_some('\\').into_iter().chain([c])).collect();
            let found = Options::parse(format!("-c a={escaped} -c b=1").as_bytes());
            prop_assert_eq!(&found.settings[0].1, value.as_bytes());
            prop_assert!(!found.other && found.settings.len() == 2);
        }
    }
}
