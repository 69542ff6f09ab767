//! Which state a binary writes and reads, so that two binaries can be compared before one takes over from the other.

use serde::{Deserialize, Serialize};

/// The formats of a protocol's connections and of its workers' own state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct StateFormats {
    /// None where connections cannot be handed over.
    pub(crate) connections: Option<Format>,
    /// None where workers have no state of their own.
    pub(crate) worker: Option<Format>,
}

/// One format.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Format {
    pub(crate) name: String,
    /// What is written.
    pub(crate) version: u32,
    /// What can be read.
    pub(crate) reads: Vec<u32>,
}

impl Format {
    /// Whether state that this one writes can be read by `other`.
    pub(crate) fn is_read_by(&self, other: Option<&Self>) -> bool {
        other.is_some_and(|other| other.name == self.name && other.reads.contains(&self.version))
    }
}
