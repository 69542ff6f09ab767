//! How unevenly workers are loaded, and why nothing moves, for operators.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The load of the most loaded worker, in percent of the mean; `None` if it is not known, or if the mean is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Evenness {
    /// For busy time.
    pub busy_percent: Option<u32>,
    /// For connections.
    pub open_percent: Option<u32>,
}

impl fmt::Display for Evenness {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ratio = |percent: Option<u32>| {
            percent.map_or_else(|| "-".to_owned(), |percent| format!("{:.2}", f64::from(percent) / 100.0))
        };
        let (busy, open) = (ratio(self.busy_percent), ratio(self.open_percent));
        write!(formatter, "imbalance (max / mean): busy {busy}, connections {open}")
    }
}

/// Why nothing is worth moving.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Still {
    /// The workers are about equally loaded.
    Even,
    /// The difference is not larger than the changes of the busiest worker's own load from second to second.
    Noise,
    /// The busiest worker recently had no connection that fits elsewhere.
    NothingFits,
    /// No other worker has time for more.
    NoRoom,
    /// The others have given connections to the busiest worker a short while ago, or refused to take any.
    Rests,
    /// A reason of a later version.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for Still {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Even => "the workers are about equally loaded",
            Self::Noise => "the difference is no larger than the busiest worker's changes from second to second",
            Self::NothingFits => "the busiest worker had no connection small enough for another worker a moment ago",
            Self::NoRoom => "no other worker has time to spare",
            Self::Rests => {
                "the other workers moved connections to the busiest one, or refused some from it, a moment ago"
            }
            Self::Unknown => "a reason that this version does not know",
        })
    }
}
