//! What happened to the connections of leaving workers.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::count::Count;
use crate::handover::Refusal;

/// The sum over all workers that an operation told to leave.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Moves {
    /// Connections that other workers have now.
    pub moved: u64,
    /// Connections that stay with the leaving workers until they end; those that could not move are among them.
    pub staying: u64,
    /// Connections that were already ending: only their last bytes, or the peer's FIN, were missing.
    pub ending: u64,
    /// Connections that could not move, by reason.
    pub refused: Vec<Refused>,
    /// Bytes that were sent to other workers for these connections.
    pub bytes: u64,
    /// Bytes of the workers' own state, if it was handed over.
    pub state_bytes: Option<u64>,
    /// From the order to leave until the last connection had moved, microseconds.
    pub took_us: u64,
    /// How long each connection was paused.
    pub pause: Option<Pause>,
}

/// Connections that could not move for one reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Refused {
    /// Why.
    pub reason: Refusal,
    /// How many.
    pub connections: u64,
}

/// How long connections were paused, microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Pause {
    /// Half of them were paused for less.
    pub median_us: u64,
    /// 99 of 100 were paused for less.
    pub p99_us: u64,
    /// None was paused for longer.
    pub max_us: u64,
}

impl Moves {
    /// Whether there is nothing to report.
    pub fn is_empty(&self) -> bool {
        self.moved == 0
            && self.staying == 0
            && self.ending == 0
            && self.refused.is_empty()
            && self.state_bytes.is_none()
    }

    /// Adds connections that could not move for this reason.
    pub fn count_refused(&mut self, reason: Refusal, connections: u64) {
        match self.refused.iter_mut().find(|one| one.reason == reason) {
            Some(one) => one.connections = one.connections.saturating_add(connections),
            None if connections > 0 => self.refused.push(Refused { reason, connections }),
            None => {}
        }
    }

    /// How many connections could not move for this reason.
    pub fn refused_for(&self, reason: Refusal) -> u64 {
        self.refused.iter().filter(|one| one.reason == reason).fold(0, |sum, one| sum.saturating_add(one.connections))
    }
}

impl fmt::Display for Moves {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { moved, staying, ending, refused, bytes, state_bytes, took_us, pause } = self;
        let ms = |us: u64| us as f64 / 1e3;
        write!(formatter, "{} moved in {:.1} ms (", Count(*moved, "connection"), ms(*took_us))?;
        write!(formatter, "{}", Count(*bytes, "byte"))?;
        if let Some(bytes) = state_bytes {
            write!(formatter, ", worker state {}", Count(*bytes, "byte"))?;
        }
        write!(formatter, ")")?;
        if let Some(Pause { median_us, p99_us, max_us }) = pause {
            write!(
                formatter,
                ", held up for {:.1} ms (median), {:.1} ms (99 %), {:.1} ms (longest)",
                ms(*median_us),
                ms(*p99_us),
                ms(*max_us)
            )?;
        }
        for Refused { reason, connections } in refused {
            write!(formatter, ", {connections} could not move ({})", said(*reason))?;
        }
        if *staying > 0 {
            write!(formatter, ", {staying} draining")?;
        }
        if *ending > 0 {
            write!(formatter, ", {ending} ending")?;
        }
        Ok(())
    }
}

/// The same as the end of a sentence that says what was done; empty if there is nothing to report.
pub(super) struct AndMoves<'a>(pub(super) &'a Moves);

impl fmt::Display for AndMoves<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(formatter, "; {}", self.0) }
    }
}

fn said(reason: Refusal) -> &'static str {
    match reason {
        Refusal::Protocol => "the protocol cannot hand them over",
        Refusal::Ending => "they were about to end",
        Refusal::Version => "the new workers speak another version of the handover",
        Refusal::Format => "the new workers run another protocol",
        Refusal::State => "the new workers cannot read their state",
        Refusal::Limit => "the new workers have reached connections_max",
        Refusal::Leaving => "the other workers are leaving too",
        Refusal::Descriptors => "their descriptors did not arrive",
        Refusal::TooLarge => "the worker's state is too large",
        Refusal::Channel => "the new worker is gone or does not answer",
        Refusal::Quarantined => "several new workers ended when these connections were offered to them",
        Refusal::Partner => "the connection that each is paired with could not move",
        Refusal::Unknown => "a reason that this version does not know",
    }
}
