//! Names in the file that are not settings, and suggestions for them.

use toml::de::{DeTable, DeValue};

use super::{HttpChoices, LimitChoices, LogChoices, TimeoutChoices, TopChoices};
use crate::tls::TlsChoices;

/// Two names that are at least this similar may differ by a typing error: 1 is the same, 0 has nothing in common.
const LIKENESS_LEAST: f64 = 0.85;

/// A longer name is not a typing error.
const NAME_BYTES_MAX: usize = 64;

/// The sections, and the settings of each; first the top level, which has no name.
const SECTIONS: [(&str, &[&str]); 6] = [
    ("", TopChoices::NAMES),
    ("limits", LimitChoices::NAMES),
    ("timeouts", TimeoutChoices::NAMES),
    ("http", HttpChoices::NAMES),
    ("log", LogChoices::NAMES),
    ("tls", TlsChoices::NAMES),
];

/// A name that is not a setting.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unknown {
    /// Its offset in the text, in bytes.
    pub(super) offset: usize,
    /// What is wrong, and what to do.
    pub(super) problem: String,
}

/// The first name in `text` that its section does not have; `None` also if the text is not TOML.
pub(super) fn unknown(text: &str) -> Option<Unknown> {
    let table = DeTable::parse(text).ok()?;
    let sections = table.get_ref().iter().filter_map(|(key, value)| match value.get_ref() {
        DeValue::Table(section) => Some((key.get_ref().as_ref(), section)),
        _ => None,
    });
    let known = sections.filter(|(section, _)| names_of(section).is_some());
    std::iter::once(("", table.get_ref()))
        .chain(known)
        .flat_map(|(section, table)| table.iter().map(move |(key, _)| (section, key)))
        .filter(|(section, key)| !is_known(section, key.get_ref()))
        .map(|(section, key)| Unknown { offset: key.span().start, problem: problem(section, key.get_ref()) })
        .min_by_key(|unknown| unknown.offset)
}

fn names_of(section: &str) -> Option<&'static [&'static str]> {
    SECTIONS.iter().find(|(name, _)| *name == section).map(|(_, names)| *names)
}

/// Settings by their names in the file.
fn names(section: &str) -> impl Iterator<Item = &'static str> {
    let names = names_of(section).unwrap_or_default();
    names.iter().map(|name| if *name == "statics" { "static" } else { name })
}

fn is_known(section: &str, name: &str) -> bool {
    names(section).any(|known| known == name)
}

/// The section of a setting, as text for people.
fn place(section: &str) -> String {
    match section {
        "" => "at the top of the file, above the first [section]".to_owned(),
        name => format!("in [{name}]"),
    }
}

fn problem(section: &str, name: &str) -> String {
    if let Some((owner, _)) = SECTIONS.iter().find(|(owner, _)| is_known(owner, name)) {
        return format!("`{name}` belongs {}", place(owner));
    }
    let all = SECTIONS.iter().flat_map(|(owner, _)| names(owner).map(|known| (*owner, known)));
    let likeness = |known| if name.len() > NAME_BYTES_MAX { 0.0 } else { strsim::jaro_winkler(name, known) };
    // Among equally similar names, the one in its own section.
    let like = all.map(|(owner, known)| (likeness(known), owner == section, owner, known));
    let like = like.filter(|(likeness, ..)| *likeness >= LIKENESS_LEAST);
    match like.max_by(|one, other| one.0.total_cmp(&other.0).then(one.1.cmp(&other.1))) {
        Some((_, true, _, known)) => format!("there is no setting `{name}`; did you mean `{known}`?"),
        Some((_, false, owner, known)) => {
            format!("there is no setting `{name}`; did you mean `{known}`, which belongs {}?", place(owner))
        }
        None => {
            let here = match section {
                "" => "at the top of the file".to_owned(),
                section => format!("in [{section}]"),
            };
            let known: Vec<&str> = names(section).collect();
            format!("there is no setting `{name}` {here}; the settings there are {}", known.join(", "))
        }
    }
}
