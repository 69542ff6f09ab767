//! Which state a server writes and reads, so that an upgrade that would lose some can be refused before it happens.
#![cfg_attr(not(test), allow(dead_code, reason = "a master compares them before it switches"))]

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::types::StateFormat;

/// Versions that are asked about: those before the version that is written, since connections may come from an older
/// binary, and those after it, since a newer binary may be reverted.
const OLDER: u32 = 32;
const NEWER: u32 = 8;

/// One kind of state.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Format {
    pub(crate) name: String,
    /// What is written.
    pub(crate) version: u32,
    /// What can be read.
    pub(crate) reads: Vec<u32>,
}

impl Format {
    pub(crate) fn new(format: StateFormat, reads: impl Fn(u32) -> bool) -> Self {
        let StateFormat { name, version } = format;
        let asked = version.saturating_sub(OLDER)..=version.saturating_add(NEWER);
        Self { name: name.to_owned(), version, reads: asked.filter(|version| reads(*version)).collect() }
    }

    fn is_read_by(&self, other: &Self) -> bool {
        self.name == other.name && other.reads.contains(&self.version)
    }
}

/// What a server writes and reads; `None` where it has no such state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct StateFormats {
    pub(crate) connections: Option<Format>,
    /// The workers' own.
    pub(crate) worker: Option<Format>,
}

/// Whose state is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    Connections,
    Worker,
}

/// State that another server cannot read.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Loss {
    pub(crate) kind: Kind,
    /// What is written.
    pub(crate) name: String,
    pub(crate) version: u32,
    /// What the other server has instead.
    pub(crate) other: Option<Format>,
}

impl StateFormats {
    /// What this server's workers would write and `other`'s could not read.
    pub(crate) fn missing(&self, other: &Self) -> Vec<Loss> {
        let kinds =
            [(Kind::Connections, &self.connections, &other.connections), (Kind::Worker, &self.worker, &other.worker)];
        let loss = |(kind, own, other): (Kind, &Option<Format>, &Option<Format>)| {
            let own = own.as_ref()?;
            let is_read = other.as_ref().is_some_and(|other| own.is_read_by(other));
            (!is_read).then(|| Loss { kind, name: own.name.clone(), version: own.version, other: other.clone() })
        };
        kinds.into_iter().filter_map(loss).collect()
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, name, version, other } = self;
        let whose = match kind {
            Kind::Connections => "of connections",
            Kind::Worker => "of workers",
        };
        write!(formatter, "it cannot read the state {whose}, `{name}` version {version}: ")?;
        match other {
            None => formatter.write_str("it reads no such state"),
            Some(other) if other.name != *name => write!(formatter, "it reads `{}`", other.name),
            Some(other) => {
                let versions: Vec<String> = other.reads.iter().map(u32::to_string).collect();
                match versions.as_slice() {
                    [] => formatter.write_str("it reads no version"),
                    versions => write!(formatter, "it reads version {}", versions.join(", ")),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(name: &'static str, version: u32, reads: &[u32]) -> Option<Format> {
        Some(Format::new(StateFormat { name, version }, |version| reads.contains(&version)))
    }

    fn lost(own: Option<Format>, other: Option<Format>) -> Vec<String> {
        let of = |connections| StateFormats { connections, worker: None };
        of(own).missing(&of(other)).iter().map(Loss::to_string).collect()
    }

    #[test]
    fn state_that_is_read_is_not_lost() {
        assert!(lost(format("http", 1, &[1]), format("http", 1, &[1])).is_empty());
        assert!(lost(format("http", 1, &[1]), format("http", 2, &[1, 2])).is_empty(), "to a newer one");
        assert!(lost(format("http", 2, &[1, 2]), format("http", 1, &[1, 2])).is_empty(), "and back");
        assert!(lost(None, None).is_empty() && lost(None, format("http", 1, &[1])).is_empty());
    }

    #[test]
    fn what_cannot_be_read_is_told_in_words() {
        let own = || format("http", 2, &[1, 2]);
        let begin = "it cannot read the state of connections, `http` version 2: ";
        assert_eq!(lost(own(), None), [format!("{begin}it reads no such state")]);
        assert_eq!(lost(own(), format("echo", 2, &[2])), [format!("{begin}it reads `echo`")]);
        assert_eq!(lost(own(), format("http", 1, &[1])), [format!("{begin}it reads version 1")]);
        let with_store = StateFormats { connections: None, worker: format("store", 3, &[3]) };
        let losses = with_store.missing(&StateFormats::default());
        assert_eq!(losses[0].kind, Kind::Worker);
    }
}
