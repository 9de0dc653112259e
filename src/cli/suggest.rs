//! What was meant by a command that does not exist. It is told, never done: a guess must not stop a daemon.

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::exit::{Exit, Failure};

/// Words that other poolers and services use, and what they are called here.
const OTHER_NAMES: [(&str, &str); 22] = [
    ("alive", "ping"),
    ("is-alive", "ping"),
    ("isalive", "ping"),
    ("detail", "status details"),
    ("details", "status details"),
    ("info", "status"),
    ("show", "status"),
    ("top", "status --watch"),
    ("watch", "status --watch"),
    ("drain", "flush gracefully"),
    ("exit", "shutdown"),
    ("quit", "shutdown"),
    ("stop", "shutdown"),
    ("kill", "shutdown immediate"),
    ("reset", "clear"),
    ("config", "conf"),
    ("reload", "conf reload"),
    ("get", "conf get"),
    ("set", "conf set"),
    ("ls", "conf ls"),
    ("switch", "switch-to"),
    ("failover", "switch-to"),
];

const VERBS: [&str; 9] =
    ["ping", "status", "flush", "shutdown", "enable", "disable", "clear", "conf", "switch-to"];
const CONF_VERBS: [&str; 4] = ["reload", "get", "set", "ls"];

/// Words that are often written as options.
const PLAIN_WORDS: [&str; 6] = ["details", "idle", "gracefully", "all", "immediate", "cancel"];

/// Which of `known` may have been meant by `typed`, best first: other spelling of case, half-typed, mistyped.
#[must_use]
pub fn meant<'a>(typed: &str, known: &[&'a str]) -> Vec<&'a str> {
    let typed = typed.to_lowercase().replace('_', "-");
    if let Some(same) = known.iter().find(|k| **k == typed) {
        return vec![*same];
    }
    let half: Vec<&str> =
        known.iter().copied().filter(|k| !typed.is_empty() && k.starts_with(&typed)).collect();
    if !half.is_empty() {
        return half;
    }
    // One slip in three letters: closer words are typing, farther ones are other words.
    let limit = typed.chars().count().div_ceil(3).min(3);
    let distances = known.iter().map(|k| (strsim::damerau_levenshtein(&typed, k), *k));
    let near: Vec<_> = distances.filter(|(distance, _)| *distance <= limit).collect();
    let nearest = near.iter().map(|(distance, _)| *distance).min();
    near.into_iter().filter(|(distance, _)| Some(*distance) == nearest).map(|(_, k)| k).collect()
}

/// What is wrong with a command line, in Howdah's words where a word was mistyped, in those of the parser elsewhere.
#[must_use]
pub fn explain(error: &clap::Error, typed: &[String]) -> Failure {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.as_str(),
        _ => "",
    };
    match error.kind() {
        ErrorKind::InvalidSubcommand => unknown_verb(text(ContextKind::InvalidSubcommand), typed),
        ErrorKind::InvalidValue if error.get(ContextKind::ValidValue).is_some() => {
            let known: Vec<&str> = match error.get(ContextKind::ValidValue) {
                Some(ContextValue::Strings(known)) => known.iter().map(String::as_str).collect(),
                _ => Vec::new(),
            };
            unknown_word(text(ContextKind::InvalidValue), text(ContextKind::InvalidArg), &known, typed)
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            Failure::new(Exit::Usage, format!("a command is missing\n\n{}", rendered(error)), "")
        }
        ErrorKind::UnknownArgument => {
            let option = text(ContextKind::InvalidArg);
            let guesses = commands("", &meant(option.trim_start_matches('-'), &PLAIN_WORDS));
            match option.starts_with('-') && !guesses.is_empty() {
                true => unknown_option(option, &guesses),
                false => Failure::new(Exit::Usage, rendered(error), ""),
            }
        }
        _ => Failure::new(Exit::Usage, rendered(error), ""),
    }
}

/// What the parser says.
fn rendered(error: &clap::Error) -> String {
    let rendered = error.render().to_string();
    let rendered = rendered.trim_end();
    rendered.strip_prefix("error: ").unwrap_or(rendered).to_owned()
}

fn unknown_option(option: &str, guesses: &[String]) -> Failure {
    let message = format!("unknown option `{option}`{}", did_you_mean(guesses));
    Failure::new(Exit::Usage, message, "`--help` after a command shows what it takes")
}

fn unknown_verb(word: &str, typed: &[String]) -> Failure {
    let before = typed.iter().take_while(|t| *t != word);
    if before.into_iter().any(|t| t == "conf") {
        return unknown(
            "conf ",
            word,
            &commands("conf ", &meant(word, &CONF_VERBS)),
            "howdah-cli conf --help",
        );
    }
    let lower = word.to_lowercase();
    let other =
        OTHER_NAMES.iter().find(|(name, _)| *name == lower).map(|(_, command)| vec![(*command).to_owned()]);
    let guesses = other.unwrap_or_else(|| commands("", &meant(word, &VERBS)));
    unknown("", word, &guesses, "howdah-cli --help")
}

fn commands(prefix: &str, words: &[&str]) -> Vec<String> {
    words.iter().map(|word| format!("{prefix}{word}")).collect()
}

fn unknown(prefix: &str, word: &str, guesses: &[String], help: &str) -> Failure {
    let message = format!("unknown command `{prefix}{word}`{}", did_you_mean(guesses));
    Failure::new(Exit::Usage, message, format!("`{help}` shows what there is"))
}

fn unknown_word(word: &str, argument: &str, known: &[&str], typed: &[String]) -> Failure {
    let guesses = commands("", &meant(word, known));
    let question = did_you_mean(&guesses);
    let question = if question.is_empty() {
        format!(": there is {}", either(&commands("", known), "and"))
    } else {
        question
    };
    let verb = VERBS.into_iter().find(|v| typed.iter().any(|t| t == v)).unwrap_or_default();
    let what = if argument.contains("MODE") {
        format!("unknown mode `{word}` of {verb}")
    } else {
        format!("unknown word `{word}` after {verb}")
    };
    let hint = match verb {
        "flush" if guesses.is_empty() => {
            format!("to flush one database, say how first: `howdah-cli flush gracefully {word}`")
        }
        _ => format!("`howdah-cli {verb} --help` shows what there is"),
    };
    Failure::new(Exit::Usage, format!("{what}{question}"), hint)
}

fn did_you_mean(guesses: &[String]) -> String {
    if guesses.is_empty() { String::new() } else { format!(": did you mean {}?", either(guesses, "or")) }
}

/// "`a`, `b` or `c`".
fn either(words: &[String], conjunction: &str) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    match quoted.split_last() {
        None => String::new(),
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} {conjunction} {last}", others.join(", ")),
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::super::arguments::Arguments;
    use super::*;

    fn failure(words: &str) -> Failure {
        let typed: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
        let all = std::iter::once("howdah-cli".to_owned()).chain(typed.clone());
        explain(&Arguments::try_parse_from(all).expect_err(words), &typed)
    }

    #[test]
    fn what_was_meant_is_told() {
        for (words, expected) in [
            ("flsh", "unknown command `flsh`: did you mean `flush`?"),
            ("FLUSH", "unknown command `FLUSH`: did you mean `flush`?"),
            ("stat", "unknown command `stat`: did you mean `status`?"),
            ("s", "unknown command `s`: did you mean `status`, `shutdown` or `switch-to`?"),
            ("switch_to x", "unknown command `switch_to`: did you mean `switch-to`?"),
            ("stop", "unknown command `stop`: did you mean `shutdown`?"),
            ("reload", "unknown command `reload`: did you mean `conf reload`?"),
            ("details", "unknown command `details`: did you mean `status details`?"),
            ("conf relaod", "unknown command `conf relaod`: did you mean `conf reload`?"),
            ("--json conf g x", "unknown command `conf g`: did you mean `conf get`?"),
            ("conf stop", "unknown command `conf stop`"),
            ("elephant", "unknown command `elephant`"),
            ("status detail", "unknown word `detail` after status: did you mean `details`?"),
            ("status all", "unknown word `all` after status: there is `details`"),
            ("flush gracefuly", "unknown mode `gracefuly` of flush: did you mean `gracefully`?"),
            ("flush shop", "unknown mode `shop` of flush: there is `idle`, `gracefully` and `all`"),
            (
                "shutdown now",
                "unknown mode `now` of shutdown: there is `gracefully`, `immediate` and `cancel`",
            ),
            ("flush --all", "unknown option `--all`: did you mean `all`?"),
            ("status --detials", "unknown option `--detials`: did you mean `details`?"),
            ("shutdown imm", "unknown mode `imm` of shutdown: did you mean `immediate`?"),
        ] {
            let failure = failure(words);
            assert_eq!(failure.message, expected, "{words}");
            assert_eq!(failure.exit, Exit::Usage);
            assert!(!failure.hint.is_empty(), "{words}");
        }
        assert!(failure("flush shop").hint.contains("flush gracefully shop"));
    }

    #[test]
    fn other_mistakes_are_told_in_the_parser_s_words() {
        for (words, part) in [
            ("status --watch details", "goes before --watch"),
            ("ping --frobnicate", "--frobnicate"),
            ("ping pong", "pong"),
            ("switch-to", "<SERVER>"),
            ("", "a command is missing\n\nManages"),
            ("conf", "a command is missing"),
            ("conf set log.level", "<VALUE>"),
            ("--timeout 5 ping", "did you mean \"5s\"?"),
            ("-c a --socket b ping", "cannot be used with"),
        ] {
            let failure = failure(words);
            assert!(failure.message.contains(part), "{words}: {}", failure.message);
            assert!(!failure.message.starts_with("error"), "{}", failure.message);
        }
    }

    #[test]
    fn the_words_are_those_of_the_command_line() {
        let command = Arguments::command();
        let names =
            |c: &clap::Command| c.get_subcommands().map(|c| c.get_name().to_owned()).collect::<Vec<_>>();
        assert_eq!(names(&command), VERBS);
        assert_eq!(names(command.find_subcommand("conf").unwrap()), CONF_VERBS);
        for (_, meant) in OTHER_NAMES {
            let first = meant.split(' ').next().unwrap();
            assert!(VERBS.contains(&first), "{meant}");
        }
    }
}
