//! Which state a binary writes and reads, so that two binaries can be compared before one takes over from the other.

use serde::{Deserialize, Serialize};

use crate::types::StateFormat;

/// The formats of a protocol's connections and of its workers' own state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct StateFormats {
    /// `None` if connections cannot be handed over.
    pub(crate) connections: Option<Format>,
    /// `None` if workers have no state of their own.
    pub(crate) worker: Option<Format>,
    /// The formats of messages between workers; empty if they send none. `None` if a binary does not report it.
    pub(crate) messages: Option<Vec<Format>>,
}

impl StateFormats {
    /// The format of its workers' messages, if those of `other` do not read it and `other` reports what they read.
    pub(crate) fn unread_messages(&self, other: &Self) -> Option<&Format> {
        let (own, other) = (self.messages.as_ref()?.first()?, other.messages.as_ref()?);
        (!own.is_read_by(other.first())).then_some(own)
    }
}

/// One format.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Format {
    pub(crate) name: String,
    /// The version that it writes.
    pub(crate) version: u32,
    /// The versions that it can read.
    pub(crate) reads: Vec<u32>,
}

impl Format {
    /// Reads what it writes, and also `others`.
    pub(crate) fn new(format: StateFormat, others: &[u32]) -> Self {
        let StateFormat { name, version } = format;
        let mut reads: Vec<u32> = others.iter().copied().chain([version]).collect();
        reads.sort_unstable();
        reads.dedup();
        Self { name: name.to_owned(), version, reads }
    }

    /// Whether `other` can read the state that this binary writes.
    pub(crate) fn is_read_by(&self, other: Option<&Self>) -> bool {
        other.is_some_and(|other| other.name == self.name && other.reads.contains(&self.version))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_lost_where_the_other_side_says_that_it_does_not_read_them() {
        let format = |name, version, others: &[u32]| Some(vec![Format::new(StateFormat { name, version }, others)]);
        let of = |messages| StateFormats { messages, ..StateFormats::default() };
        let old = of(format("mesh", 1, &[]));
        for silent in [of(None), of(format("mesh", 1, &[])), of(format("mesh", 2, &[1]))] {
            assert_eq!(old.unread_messages(&silent), None, "{silent:?}");
        }
        for deaf in [of(Some(Vec::new())), of(format("mesh", 2, &[])), of(format("chat", 1, &[]))] {
            assert_eq!(old.unread_messages(&deaf).map(|format| format.version), Some(1), "{deaf:?}");
        }
        let released: StateFormats = serde_json::from_str(r#"{"connections":null,"worker":null}"#).expect("it is read");
        assert_eq!(released, of(None));
    }

    #[test]
    fn state_is_read_by_whoever_knows_its_name_and_version() {
        let format = |name, version, others: &[u32]| Format::new(StateFormat { name, version }, others);
        let old = format("http", 1, &[]);
        let new = format("http", 2, &[1]);
        assert_eq!(new.reads, [1, 2]);
        assert!(
            old.is_read_by(Some(&new)) && new.is_read_by(Some(&new)) && old.is_read_by(Some(&format("http", 1, &[2])))
        );
        assert!(!new.is_read_by(Some(&old)), "a later version");
        assert!(!old.is_read_by(Some(&format("echo", 1, &[]))), "another protocol");
        assert!(!old.is_read_by(None));
    }
}
