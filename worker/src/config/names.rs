//! Names in the file that no setting has, and what was meant by them.

use toml::de::{DeTable, DeValue};

use super::{HttpChoices, LimitChoices, LogChoices, TimeoutChoices, TopChoices};
use crate::tls::TlsChoices;

/// Names that are this like each other may be one and a slip of the finger, where 1 is the same and 0 has nothing in common.
const LIKENESS_LEAST: f64 = 0.85;

/// Longer names are no slips.
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

/// A name that no setting has.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unknown {
    /// Where it begins in the text, in bytes.
    pub(super) offset: usize,
    /// What is wrong, and what to do.
    pub(super) problem: String,
}

/// The first name in `text` that is none of its section's; `None` also where the text is no TOML.
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

/// Settings by the names that they have in the file.
fn names(section: &str) -> impl Iterator<Item = &'static str> {
    let names = names_of(section).unwrap_or_default();
    names.iter().map(|name| if *name == "statics" { "static" } else { name })
}

fn is_known(section: &str, name: &str) -> bool {
    names(section).any(|known| known == name)
}

/// Where a setting of `section` stands, for people.
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
    // Of those that are as like it, the one in its own section.
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
