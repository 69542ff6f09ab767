//! What happened to the connections of workers that left.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The sum over all workers that an operation told to leave.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Moves {
    /// Connections that other workers have now.
    pub moved: u64,
    /// Connections that stay where they are until they end.
    pub left: u64,
    /// Connections that had been told to end before: their last bytes, or the peer's FIN, are on their way.
    pub ending: u64,
    /// Connections that could not move, by reason.
    pub refused: Vec<Refused>,
    /// Bytes sent to other workers for them.
    pub bytes: u64,
    /// Bytes of the workers' own state, where it was handed over.
    pub state_bytes: Option<u64>,
    /// From the order to leave until the last one had moved, microseconds.
    pub took_us: u64,
    /// How long each connection was held up.
    pub pause: Option<Pause>,
}

/// Connections that could not move for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Refused {
    /// A stable name: `protocol`, `format`, `version`, `limit` …
    pub reason: String,
    /// How many.
    pub connections: u64,
}

/// How long connections were held up, microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Pause {
    /// Half of them were held up for less.
    pub median_us: u64,
    /// 99 of 100 were held up for less.
    pub p99_us: u64,
    /// None was held up for longer.
    pub max_us: u64,
}

impl Moves {
    /// Whether there is anything to tell.
    pub fn is_empty(&self) -> bool {
        self.moved == 0 && self.left == 0 && self.ending == 0 && self.refused.is_empty() && self.state_bytes.is_none()
    }

    /// So many connections could not move for this reason.
    pub fn count_refused(&mut self, reason: &str, connections: u64) {
        match self.refused.iter_mut().find(|one| one.reason == reason) {
            Some(one) => one.connections += connections,
            None if connections > 0 => self.refused.push(Refused { reason: reason.to_owned(), connections }),
            None => {}
        }
    }
}

impl fmt::Display for Moves {
    /// Begins with a semicolon where there is anything, to follow what was done.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return Ok(());
        }
        write!(formatter, "; {}", Told(self))
    }
}

/// The same without what joins it to another sentence.
pub(crate) struct Told<'a>(pub(crate) &'a Moves);

impl fmt::Display for Told<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Moves { moved, left, ending, refused, bytes, state_bytes, took_us, pause } = self.0;
        let plural = |count: u64| if count == 1 { "connection" } else { "connections" };
        let ms = |us: u64| us as f64 / 1e3;
        write!(formatter, "{moved} {} moved in {:.1} ms ({bytes} bytes", plural(*moved), ms(*took_us))?;
        if let Some(bytes) = state_bytes {
            write!(formatter, ", worker state {bytes} bytes")?;
        }
        write!(formatter, ")")?;
        if let Some(Pause { median_us, p99_us, max_us }) = pause {
            write!(
                formatter,
                ", each held up for {:.1} ms (median), {:.1} ms (99 %), {:.1} ms at most",
                ms(*median_us),
                ms(*p99_us),
                ms(*max_us)
            )?;
        }
        for one in refused {
            write!(formatter, ", {} could not move ({})", one.connections, one.reason)?;
        }
        if *left > 0 {
            write!(formatter, ", {left} left to drain")?;
        }
        if *ending > 0 {
            write!(formatter, ", {ending} ending")?;
        }
        Ok(())
    }
}
