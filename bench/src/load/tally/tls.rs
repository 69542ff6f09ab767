//! The counts of a load that concern TLS.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::latencies;
use crate::load::tls::Agreed;

/// Handshakes that were completed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Handshakes {
    pub(crate) full: u64,
    /// By a ticket, or a session, of an earlier connection.
    pub(crate) resumed: u64,
}

impl Handshakes {
    pub(crate) fn total(&self) -> u64 {
        self.full + self.resumed
    }

    pub(super) fn count(&mut self, is_resumed: bool) {
        *if is_resumed { &mut self.resumed } else { &mut self.full } += 1;
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.full += other.full;
        self.resumed += other.resumed;
    }
}

/// Counts of the whole time, with or without a phase.
#[derive(Clone, Debug)]
pub(crate) struct TlsOutcome {
    pub(crate) handshakes: Handshakes,
    /// Nanoseconds from the first message to the end of the handshake, as the client sees it.
    pub(crate) handshake: Histogram<u64>,
    /// How often each combination was agreed on.
    pub(crate) agreed: BTreeMap<String, u64>,
    /// Alerts of the server by name; each is a failure.
    pub(crate) alerts: BTreeMap<String, u64>,
    /// Connections that the server has closed without a close_notify, so that anyone could have ended them. It is a
    /// failure only if an answer was pending.
    pub(crate) without_close_notify: u64,
}

impl TlsOutcome {
    pub(super) fn new() -> Self {
        Self {
            handshakes: Handshakes::default(),
            handshake: latencies(),
            agreed: BTreeMap::new(),
            alerts: BTreeMap::new(),
            without_close_notify: 0,
        }
    }

    pub(super) fn shook_hands(&mut self, agreed: Agreed, took_ns: u64) {
        self.handshakes.count(agreed.is_resumed);
        self.handshake.saturating_record(took_ns);
        *self.agreed.entry(agreed.on).or_default() += 1;
    }

    pub(crate) fn alert(&mut self, name: &str) {
        *self.alerts.entry(name.to_owned()).or_default() += 1;
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.handshakes.add(&other.handshakes);
        self.handshake.add(&other.handshake).expect("the same bounds");
        for (sum, counts) in [(&mut self.agreed, &other.agreed), (&mut self.alerts, &other.alerts)] {
            for (name, count) in counts {
                *sum.entry(name.clone()).or_default() += count;
            }
        }
        self.without_close_notify += other.without_close_notify;
    }
}
