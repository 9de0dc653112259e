//! The users file: names and secrets, in the format of PgBouncer's `userlist.txt`.
//!
//! ```text
//! ; a comment
//! "alice" "SCRAM-SHA-256$4096:c2FsdA==$…:…"
//! "bob"   "md5…"
//! "a ""quoted"" name" "a plain password"
//! ```
//! The list lives in main, from which every worker is forked, so it must be small and in few pages: one block of bytes
//! with all entries, and their offsets in the order of the names. A secret is decoded when it is looked up. The block
//! is wiped when it is dropped. No error tells a secret.
#![forbid(unsafe_code)]

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use zeroize::Zeroizing;

use super::problem::{Problem, line_of};
use crate::auth::secret::{ScramVerifier, Secret};

/// Mode bits that nobody but the owner may have.
const OTHERS: u32 = 0o077;
/// PostgreSQL's NAMEDATALEN less the final NUL: no user's name is longer.
const LONGEST_NAME: usize = 63;
const KEY_LENGTH: usize = 32;

const KIND_NONE: u8 = 3;
const KIND_PLAIN: u8 = 0;
const KIND_MD5: u8 = 1;
const KIND_SCRAM: u8 = 2;

/// Users and their secrets.
#[derive(Clone, Default)]
pub struct UserList {
    /// Entries, each: length of the name (u8), name, kind (u8), secret up to the next entry. Of a SCRAM verifier:
    /// iterations (u32, little-endian), StoredKey, ServerKey (`[32 × u8]` each), salt.
    entries: Zeroizing<Vec<u8>>,
    /// Where each entry begins and ends, in the order of the names.
    index: Box<[(u32, u32)]>,
    has_md5_users: bool,
}

impl UserList {
    /// Reads the file, which must belong to one of `owners` (user ids) and be closed to everyone else.
    ///
    /// **Blocking**: reads a regular file, nothing else.
    pub fn load(path: &Path, owners: &[u32]) -> Result<UserList, Vec<Problem>> {
        let fail = |message: String| vec![whole_file(path, message)];
        // Not blocking: a FIFO would make the open wait for a writer.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
        let mut file = file.map_err(|it| fail(format!("the users file cannot be opened: {it}")))?;
        check_access(path, &file, owners).map_err(fail)?;
        let mut bytes = Zeroizing::new(Vec::with_capacity(capacity_for(&file)));
        file.read_to_end(&mut bytes).map_err(|it| fail(format!("the users file cannot be read: {it}")))?;
        match std::str::from_utf8(&bytes) {
            Ok(text) => UserList::parse(text, path),
            Err(error) => {
                let valid = bytes.get(..error.valid_up_to()).and_then(|it| std::str::from_utf8(it).ok());
                let line = line_of(valid.unwrap_or(""), error.valid_up_to());
                Err(vec![in_line(path, line, "is not UTF-8")])
            }
        }
    }

    /// Reads the text of such a file; `path` is for the errors.
    pub fn parse(text: &str, path: &Path) -> Result<UserList, Vec<Problem>> {
        if u32::try_from(text.len()).is_err() {
            return Err(vec![whole_file(path, "the users file is larger than 4 GiB".to_owned())]);
        }
        // An encoded entry is never longer than its line, so this never grows and leaves no copies behind.
        let mut entries = Zeroizing::new(Vec::with_capacity(text.len()));
        let (mut index, mut problems, mut has_md5_users) = (Vec::new(), Vec::new(), false);
        for (number, line) in (1..).zip(text.lines()) {
            match parse_line(line) {
                Ok(None) => {}
                Ok(Some((name, secret))) => {
                    let begin = entries.len();
                    has_md5_users |= matches!(secret, Some(Secret::Plain(_) | Secret::Md5(_)));
                    encode(&name, secret.as_ref(), &mut entries);
                    index.push((position(begin), position(entries.len()), number));
                }
                Err(message) => problems.push(in_line(path, number, message)),
            }
        }
        index.sort_by(|one, other| {
            let name = |it: &(u32, u32, usize)| name_of(slice(&entries, (it.0, it.1)));
            name(one).cmp(name(other)).then(one.2.cmp(&other.2))
        });
        for pair in index.windows(2) {
            let [one, other] = pair else { continue };
            let name = name_of(slice(&entries, (one.0, one.1)));
            if name == name_of(slice(&entries, (other.0, other.1))) {
                let shown = String::from_utf8_lossy(name);
                let message = format!("\"{shown}\" stands in line {} already", one.2);
                problems.push(in_line(path, other.2, message));
            }
        }
        if !problems.is_empty() {
            problems.sort_by_key(|it| it.line);
            return Err(problems);
        }
        let index = index.into_iter().map(|(begin, end, _)| (begin, end)).collect();
        Ok(UserList { entries: Zeroizing::new(entries.to_vec()), index, has_md5_users })
    }

    /// The secret of a user; none for one that is not there or has none.
    pub fn get(&self, name: &str) -> Option<Secret> {
        self.entry(name).and_then(decode)
    }

    /// Whether method md5 means md5 for any user: one whose secret is no SCRAM verifier.
    pub fn has_md5_users(&self) -> bool {
        self.has_md5_users
    }

    /// Whether there is such a user.
    pub fn contains(&self, name: &str) -> bool {
        self.entry(name).is_some()
    }

    /// The number of users.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there is no user at all.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// All names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.index.iter().filter_map(|it| std::str::from_utf8(name_of(slice(&self.entries, *it))).ok())
    }

    /// Whether both lists hold the same secret for the user, or neither holds any.
    pub(super) fn agrees_with(&self, other: &UserList, name: &str) -> bool {
        self.entry(name) == other.entry(name)
    }

    fn entry(&self, name: &str) -> Option<&[u8]> {
        let found = self.index.binary_search_by(|it| name_of(slice(&self.entries, *it)).cmp(name.as_bytes()));
        let range = self.index.get(found.ok()?)?;
        Some(slice(&self.entries, *range))
    }
}

impl fmt::Debug for UserList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserList({} users)", self.len())
    }
}

/// Refuses a file that others may read or that others own.
fn check_access(path: &Path, file: &File, owners: &[u32]) -> Result<(), String> {
    let metadata = file.metadata().map_err(|it| format!("the users file cannot be examined: {it}"))?;
    if !metadata.is_file() {
        return Err("the users file is not a regular file".to_owned());
    }
    let mode = metadata.mode() & 0o7777;
    if mode & OTHERS != 0 {
        let path = path.display();
        return Err(format!(
            "the users file has mode {mode:04o}; nobody but its owner may have access: chmod 0600 {path}"
        ));
    }
    if !owners.contains(&metadata.uid()) {
        return Err(format!(
            "the users file belongs to user id {}; it must belong to the user that howdah runs as, or to root",
            metadata.uid()
        ));
    }
    Ok(())
}

fn capacity_for(file: &File) -> usize {
    // One more than the size, so that the read which finds the end does not make the buffer grow.
    let size = file.metadata().map_or(0, |it| it.len());
    usize::try_from(size).unwrap_or(0).saturating_add(64)
}

/// `None` for a user without a secret, written `""`: no method but trust lets it in.
type Entry = (Zeroizing<String>, Option<Secret>);

/// One line: nothing, or a name and a secret.
fn parse_line(line: &str) -> Result<Option<Entry>, String> {
    let line = line.trim_start();
    if is_end(line) {
        return Ok(None);
    }
    let (name, rest) = parse_quoted(line).ok_or("a line must be: \"name\" \"secret\"")?;
    let (secret, rest) = parse_quoted(rest.trim_start()).ok_or("the secret in double quotes is missing")?;
    if !is_end(rest.trim_start()) {
        return Err("text follows the secret; write a double quote within it twice".to_owned());
    }
    if name.is_empty() {
        return Err("the name is empty".to_owned());
    }
    if name.len() > LONGEST_NAME {
        return Err(format!("the name is longer than {LONGEST_NAME} bytes"));
    }
    let parse = || Secret::parse(&secret).map_err(|it| it.to_string());
    let secret = if secret.is_empty() { None } else { Some(parse()?) };
    Ok(Some((name, secret)))
}

fn is_end(text: &str) -> bool {
    text.is_empty() || text.starts_with([';', '#'])
}

/// A text in double quotes, in which two of them stand for one, and what follows it.
fn parse_quoted(text: &str) -> Option<(Zeroizing<String>, &str)> {
    let mut rest = text.strip_prefix('"')?;
    let mut value = Zeroizing::new(String::with_capacity(text.len()));
    loop {
        let (part, after) = rest.split_once('"')?;
        value.push_str(part);
        match after.strip_prefix('"') {
            Some(after) => {
                value.push('"');
                rest = after;
            }
            None => return Some((value, after)),
        }
    }
}

fn encode(name: &str, secret: Option<&Secret>, into: &mut Vec<u8>) {
    // Names are at most 63 bytes long.
    into.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
    into.extend_from_slice(name.as_bytes());
    let Some(secret) = secret else { return into.push(KIND_NONE) };
    match secret {
        Secret::Plain(password) => {
            into.push(KIND_PLAIN);
            into.extend_from_slice(password.as_bytes());
        }
        Secret::Md5(digits) => {
            into.push(KIND_MD5);
            into.extend_from_slice(digits.as_bytes());
        }
        Secret::Scram(verifier) => {
            into.push(KIND_SCRAM);
            into.extend_from_slice(&verifier.iterations.to_le_bytes());
            into.extend_from_slice(&verifier.stored_key);
            into.extend_from_slice(&verifier.server_key);
            into.extend_from_slice(&verifier.salt);
        }
    }
}

fn decode(entry: &[u8]) -> Option<Secret> {
    let (length, rest) = entry.split_first()?;
    let (kind, secret) = rest.split_at_checked(usize::from(*length))?.1.split_first()?;
    let text = || Some(Zeroizing::new(std::str::from_utf8(secret).ok()?.to_owned()));
    match *kind {
        KIND_PLAIN => Some(Secret::Plain(text()?)),
        KIND_MD5 => Some(Secret::Md5(text()?)),
        KIND_SCRAM => {
            let (iterations, secret) = secret.split_first_chunk()?;
            let (stored_key, secret) = secret.split_first_chunk::<KEY_LENGTH>()?;
            let (server_key, salt) = secret.split_first_chunk::<KEY_LENGTH>()?;
            Some(Secret::Scram(Box::new(ScramVerifier {
                iterations: u32::from_le_bytes(*iterations),
                salt: salt.to_vec(),
                stored_key: *stored_key,
                server_key: *server_key,
            })))
        }
        _ => None,
    }
}

fn slice(entries: &[u8], (begin, end): (u32, u32)) -> &[u8] {
    let range = usize::try_from(begin).unwrap_or(0)..usize::try_from(end).unwrap_or(0);
    entries.get(range).unwrap_or(&[])
}

fn name_of(entry: &[u8]) -> &[u8] {
    let Some((length, rest)) = entry.split_first() else { return &[] };
    rest.get(..usize::from(*length)).unwrap_or(&[])
}

/// The text is shorter than 4 GiB, and the entries are no longer.
fn position(offset: usize) -> u32 {
    u32::try_from(offset).unwrap_or(u32::MAX)
}

fn whole_file(path: &Path, message: String) -> Problem {
    Problem { file: path.to_owned(), line: None, key: String::new(), value: String::new(), message }
}

fn in_line(path: &Path, line: usize, message: impl Into<String>) -> Problem {
    Problem { line: Some(line), ..whole_file(path, message.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::PermissionsExt;

    const VERIFIER: &str = "SCRAM-SHA-256$4096:c2FsdHNhbHRzYWx0c2FsdA==$AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=:\
                            AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    fn parse(text: &str) -> Result<UserList, String> {
        let all = |it: Vec<Problem>| it.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n");
        UserList::parse(text, Path::new("users.txt")).map_err(all)
    }

    fn password(list: &UserList, name: &str) -> Option<String> {
        match list.get(name) {
            Some(Secret::Plain(it)) => Some(it.to_string()),
            Some(other) => Some(other.kind().to_owned()),
            None => None,
        }
    }

    #[test]
    fn names_and_secrets_of_every_kind_are_found() {
        let text = format!(
            "; comment\n# another\n\n\"zoe\" \"pass word\" ; her\n  \"al\"\"ice\" \"a\"\"b\"\r\n\
             \"bob\" \"md50123456789abcdef0123456789abcdef\"\n\"carol\"\t\"{VERIFIER}\""
        );
        let list = parse(&text).unwrap();
        assert_eq!(list.len(), 4);
        assert_eq!(list.names().collect::<Vec<_>>(), ["al\"ice", "bob", "carol", "zoe"]);
        assert_eq!(password(&list, "zoe").as_deref(), Some("pass word"));
        assert_eq!(password(&list, "al\"ice").as_deref(), Some("a\"b"));
        assert_eq!(password(&list, "bob").as_deref(), Some("md5"));
        assert_eq!(password(&list, "dave"), None);
        let Some(Secret::Scram(verifier)) = list.get("carol") else { panic!("no verifier") };
        assert_eq!((verifier.iterations, verifier.salt.as_slice()), (4096, &b"saltsaltsaltsalt"[..]));
        assert_eq!((verifier.stored_key[31], verifier.server_key[0]), (31, 0));
        assert_eq!(format!("{list:?}"), "UserList(4 users)");
    }

    #[test]
    fn every_mistake_is_told_with_its_line_and_without_the_secret() {
        let long = "n".repeat(64);
        let text = format!(
            "alice \"topsecret\"\n\"bob\" topsecret\n\"bob\" \"topsecret\n\"bob\" \"top\"secret\"\n\n\
             \"\" \"topsecret\"\n\"bob\" \"SCRAM-SHA-256$topsecret\"\n\"{long}\" \"topsecret\"\n\
             \"eve\" \"topsecret\"\n\"eve\" \"topsecret\""
        );
        let message = parse(&text).unwrap_err();
        assert_eq!(
            message,
            "users.txt:1: a line must be: \"name\" \"secret\"\n\
             users.txt:2: the secret in double quotes is missing\n\
             users.txt:3: the secret in double quotes is missing\n\
             users.txt:4: text follows the secret; write a double quote within it twice\n\
             users.txt:6: the name is empty\n\
             users.txt:7: the secret begins with SCRAM-SHA-256$ but is no verifier as PostgreSQL stores it \
             (SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey)\n\
             users.txt:8: the name is longer than 63 bytes\n\
             users.txt:10: \"eve\" stands in line 9 already"
        );
        assert!(!message.contains("topsecret"));
    }

    #[test]
    fn a_file_that_others_may_touch_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users.txt");
        std::fs::write(&path, "\"a\" \"b\"\n").unwrap();
        let me = nix::unistd::geteuid().as_raw();
        let load = |mode: u32, owners: &[u32]| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            UserList::load(&path, owners).map(|it| it.len()).map_err(|it| it[0].message.clone())
        };
        assert_eq!(load(0o600, &[me]), Ok(1));
        assert_eq!(load(0o400, &[me]), Ok(1));
        for mode in [0o640, 0o604, 0o610, 0o602] {
            let shown = path.display();
            assert_eq!(
                load(mode, &[me]),
                Err(format!(
                    "the users file has mode {mode:04o}; nobody but its owner may have access: chmod 0600 {shown}"
                ))
            );
        }
        assert_eq!(
            load(0o600, &[me + 1]),
            Err(format!(
                "the users file belongs to user id {me}; it must belong to the user that howdah runs as, or to root"
            ))
        );
        let found = UserList::load(directory.path(), &[me]).unwrap_err();
        assert_eq!(found[0].message, "the users file is not a regular file");
        let absent = UserList::load(&directory.path().join("none"), &[me]).unwrap_err();
        assert!(absent[0].message.starts_with("the users file cannot be opened: "), "{}", absent[0].message);
    }

    #[test]
    fn ten_thousand_users_take_little_more_than_their_secrets() {
        let text: String = (0..10_000).map(|it| format!("\"user{it}\" \"{VERIFIER}\"\n")).collect();
        let list = parse(&text).unwrap();
        assert_eq!(list.len(), 10_000);
        assert!(list.contains("user0") && list.contains("user9999") && !list.contains("user10000"));
        assert!(list.entries.capacity() + list.index.len() * 8 < 1_100_000, "{}", list.entries.capacity());
    }

    proptest! {
        #[test]
        fn what_is_written_is_found(users in proptest::collection::btree_map("[a-z\" ]{1,8}", "[A-Z\";# ]{1,8}", 0..20)) {
            let quote = |it: &str| format!("\"{}\"", it.replace('"', "\"\""));
            let text: String = users.iter().rev().map(|(n, s)| format!("{} {}\n", quote(n), quote(s))).collect();
            let list = parse(&text).unwrap();
            prop_assert_eq!(list.len(), users.len());
            for (name, secret) in &users {
                prop_assert_eq!(password(&list, name), Some(secret.clone()));
            }
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "([\"a;# \n]|md5|SCRAM-SHA-256\\$|é){0,40}") {
            let _ = parse(&text);
        }
    }
}
