//! Where the daemon's management socket is.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::exit::{Exit, Failure};
use crate::management::client::DEFAULT_SOCKET;

/// The variable of the environment that names the socket.
pub const VARIABLE: &str = "HOWDAH_SOCKET";
/// What the configuration's default is, relative to the file's directory.
const DEFAULT_NAME: &str = "howdah.sock";

/// `--socket`, else the configuration's, else the environment's, else the default.
///
/// # Errors
/// The configuration file cannot be read.
pub fn find(
    socket: Option<&Path>,
    config: Option<&Path>,
    variable: Option<OsString>,
) -> Result<PathBuf, Failure> {
    match (socket, config) {
        (Some(socket), _) => Ok(socket.to_owned()),
        (None, Some(config)) => of_config(config),
        (None, None) => {
            Ok(variable.filter(|path| !path.is_empty()).map_or_else(|| DEFAULT_SOCKET.into(), PathBuf::from))
        }
    }
}

/// Reads this one key and believes the rest of the file whatever it says: a configuration that the daemon would refuse
/// must not keep an operator from asking the daemon that runs, and neither must a users file that only the daemon can read.
fn of_config(path: &Path) -> Result<PathBuf, Failure> {
    let fail = |why: String| {
        let hint = "--socket PATH names the daemon's socket without a configuration";
        Failure::new(Exit::Usage, format!("{}: {why}", path.display()), hint)
    };
    let text = std::fs::read_to_string(path).map_err(|e| fail(format!("cannot be read: {e}")))?;
    let table: toml::Table =
        text.parse().map_err(|e: toml::de::Error| fail(format!("is not TOML: {}", e.message())))?;
    let name = match table.get("howdah").and_then(|howdah| howdah.get("management_socket")) {
        None => DEFAULT_NAME,
        Some(toml::Value::String(name)) if !name.is_empty() => name,
        Some(_) => return Err(fail("howdah.management_socket is not a path".to_owned())),
    };
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    Ok(absolute.parent().unwrap_or(Path::new("/")).join(name))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_is_told_counts() {
        let (a, b) = (Path::new("/a"), Some(OsString::from("/b")));
        assert_eq!(find(Some(a), None, b.clone()).unwrap(), a);
        assert_eq!(find(None, None, b).unwrap(), Path::new("/b"));
        assert_eq!(find(None, None, Some(OsString::new())).unwrap(), Path::new(DEFAULT_SOCKET));
        assert_eq!(find(None, None, None).unwrap(), Path::new(DEFAULT_SOCKET));
    }

    #[test]
    fn the_configuration_names_it_even_when_it_is_wrong_elsewhere() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("howdah.toml");
        let beside = |name: &str| Ok(directory.path().join(name));
        for (text, expected) in [
            ("", beside("howdah.sock")),
            ("[howdah]\nno_such_key = 1", beside("howdah.sock")),
            ("[howdah]\nmanagement_socket = \"run/x.sock\"", beside("run/x.sock")),
            ("[howdah]\nmanagement_socket = \"/run/x.sock\"", Ok("/run/x.sock".into())),
            ("[howdah]\nmanagement_socket = 5", Err("is not a path")),
            ("[howdah]\nmanagement_socket = \"\"", Err("is not a path")),
            ("[howdah\n", Err("is not TOML")),
        ] {
            std::fs::write(&file, text).unwrap();
            match (find(None, Some(&file), None), expected) {
                (Ok(path), Ok(expected)) => assert_eq!(path, expected, "{text}"),
                (Err(e), Err(part)) => {
                    assert!(e.message.contains(part), "{text}: {}", e.message);
                    assert_eq!(e.exit, Exit::Usage);
                }
                (got, _) => panic!("{text}: {got:?}"),
            }
        }
        let text = "[servers.main]\nhost = \"10.0.0.5\"\n[[pools]]\nsize = 20\n";
        let loaded = crate::config::load_text(text, &file).unwrap();
        std::fs::write(&file, text).unwrap();
        assert_eq!(
            find(None, Some(&file), None).unwrap(),
            loaded.config.management_socket,
            "the same default"
        );
        let missing = find(None, Some(&directory.path().join("none.toml")), None).unwrap_err();
        assert!(missing.message.contains("cannot be read"), "{}", missing.message);
    }
}
