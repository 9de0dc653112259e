//! `howdah --print-default-config`, and the tables of the manual: both written from the table of keys.
#![forbid(unsafe_code)]

use super::keys::{self, Applies, Default, Key};

/// Lines of the sample file are at most this long.
const WIDTH: usize = 100;

/// A complete file with every key, its meaning, range and default. It is valid as it is: what is not needed is commented
/// out with `#`, and explanations with `# `.
pub fn default_config_text() -> String {
    let mut text = String::new();
    comment(
        "The configuration of Howdah. Every key is here; those that are commented out show their default, or an \
         example where there is none. `howdah --check -c FILE` tells what is wrong with a file.",
        &mut text,
    );
    for section in &keys::SECTIONS {
        text.push('\n');
        comment(section.doc, &mut text);
        let needed = section.name == "servers";
        let header = section.header.replace("NAME", if needed { "main" } else { "mydb" });
        let optional = section.header != format!("[{}]", section.name) && !needed;
        text.push_str(if optional { "#" } else { "" });
        text.push_str(&header);
        text.push('\n');
        for key in keys::of_section(section.name) {
            describe(key, &mut text);
            let active = needed && matches!(key.default, Default::Required(_));
            let mark = if active { "" } else { "#" };
            text.push_str(&format!("{mark}{} = {}\n", key.name, key.sample()));
        }
    }
    text
}

/// The table of a section's keys in Markdown, as it stands in `doc/configuration.md`.
pub fn manual_table(section: &str) -> String {
    let mut text = String::from(
        "| key | type | default | accepted | change by | meaning |\n|---|---|---|---|---|---|\n",
    );
    for key in keys::of_section(section) {
        let default = match key.default {
            Default::Is(text) => format!("`{text}`"),
            _ => key.default_text().to_owned(),
        };
        let plain = |text: &str| text.replace('|', "\\|").replace('*', "\\*").replace('<', "&lt;");
        let name = format!("`{}`", key.name);
        let (accepted, doc) = (plain(&key.accepted()), plain(key.doc));
        let row = [&name, key.type_name(), &default, &accepted, applies(key), &doc];
        text.push_str(&format!("| {} |\n", row.join(" | ")));
    }
    text
}

fn describe(key: &Key, text: &mut String) {
    text.push('\n');
    comment(key.doc, text);
    let default = match key.default {
        Default::Is(_) => String::new(),
        Default::Required(_) => " Required.".to_owned(),
        Default::None(_) | Default::From(..) => format!(" Default: {}.", key.default_text()),
    };
    let (type_name, accepted) = (key.type_name(), key.accepted());
    let restart = if key.applies == Applies::Restart { " Needs a restart." } else { "" };
    comment(&format!("({type_name}: {accepted}.{default}{restart})"), text);
}

fn applies(key: &Key) -> &'static str {
    match key.applies {
        Applies::Reload => "reload",
        Applies::Restart => "restart",
    }
}

/// A comment, broken into lines at spaces.
fn comment(words: &str, text: &mut String) {
    let mut line = String::from("#");
    for word in words.split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > WIDTH {
            text.push_str(&line);
            text.push('\n');
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    text.push_str(&line);
    text.push('\n');
}
