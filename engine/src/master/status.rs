//! What the master shows of itself.

use std::time::Instant;

use super::Master;
use super::generation::{Generation, Phase, Slot, State};
use crate::control::{GenerationStatus, Status, VERSION, WorkerStatus};

impl Master<'_> {
    pub(super) fn status(&self) -> Status {
        let total = self.telemetry.total();
        Status {
            version: VERSION,
            pid: std::process::id(),
            uptime_ms: milliseconds_since(self.began),
            handover: self.tier.to_string(),
            handover_reason: self.tier_reason.clone(),
            is_stopping: self.stopping,
            generations: self.generations.iter().map(generation_status).collect(),
            accepted: total.accepted,
            requests: total.requests,
        }
    }
}

fn generation_status(generation: &Generation<'_>) -> GenerationStatus {
    let phase = match generation.phase {
        Phase::Starting => "starting",
        Phase::Serving => "serving",
        Phase::Leaving(_) => "leaving",
    };
    GenerationStatus {
        number: generation.number,
        phase: phase.to_owned(),
        age_ms: milliseconds_since(generation.began),
        addresses: generation.addresses.iter().map(|(_, bound)| bound.to_string()).collect(),
        workers: generation.slots.iter().enumerate().map(|(slot, worker)| worker_status(slot, worker)).collect(),
    }
}

fn worker_status(slot: usize, worker: &Slot) -> WorkerStatus {
    let state = match worker.state {
        State::Gone => "gone",
        State::Starting(_) => "starting",
        State::Ready(_) => "ready",
        State::Waiting(_) => "waiting",
    };
    let numbers = worker.page.snapshot();
    WorkerStatus {
        slot,
        pid: worker.child().map(|child| child.pid.as_raw() as u32),
        state: state.to_owned(),
        age_ms: worker.child().map(|child| milliseconds_since(child.since)),
        // A killed worker cannot count its connections down.
        open: if worker.child().is_some() { numbers.open } else { 0 },
        accepted: numbers.accepted,
        requests: numbers.requests,
        bytes_received: numbers.bytes_received,
        bytes_sent: numbers.bytes_sent,
        service_ns_p50: numbers.service.quantile(0.5),
        service_ns_p99: numbers.service.quantile(0.99),
    }
}

fn milliseconds_since(then: Instant) -> u64 {
    then.elapsed().as_millis() as u64
}
