//! Request bodies: where they end, and how much of them is missing.

pub(crate) mod chunked;

use serde::{Deserialize, Serialize};

use self::chunked::Chunked;
use crate::head::Framing;
use crate::refusal::Refusal;

/// The missing part of a body.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Rest {
    Length(u64),
    Chunked(Chunked),
}

impl Rest {
    pub(crate) fn new(framing: Framing, body_bytes_max: u64) -> Self {
        match framing {
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked(Chunked::new(body_bytes_max)),
        }
    }

    /// Consumes input up to the end of the body, or all of it, and returns how many bytes that was. Data goes to
    /// `sink`.
    pub(crate) fn receive(&mut self, input: &[u8], mut sink: impl FnMut(&[u8])) -> Result<usize, Refusal> {
        match self {
            Self::Length(missing) => {
                let count = usize::try_from(*missing).unwrap_or(usize::MAX).min(input.len());
                if count > 0 {
                    sink(&input[..count]);
                }
                *missing -= count as u64;
                Ok(count)
            }
            Self::Chunked(chunked) => chunked.decode(input, sink),
        }
    }

    /// Whether nothing is missing.
    pub(crate) fn has_ended(&self) -> bool {
        match self {
            Self::Length(missing) => *missing == 0,
            Self::Chunked(chunked) => chunked.has_ended(),
        }
    }

    /// The most bytes that may still come; `None` if no worker can have reached this state.
    pub(crate) fn most_to_come(&self) -> Option<u64> {
        match self {
            Self::Length(missing) => Some(*missing),
            Self::Chunked(chunked) => chunked.most_to_come(),
        }
    }
}
