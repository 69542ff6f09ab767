//! What the master shows of itself.

use std::time::Instant;

use super::Master;
use super::generation::{Generation, Phase, Slot, State};
use super::orphans::{Known, Orphan};
use super::predecessor::Predecessor;
use super::successor::Successor;
use crate::ipc::control::{GenerationStatus, Status, VERSION, WorkerStatus};
use crate::telemetry::Snapshot;
use crate::types::CloseReason;

impl Master<'_> {
    pub(super) fn status(&self) -> Status {
        let total = self.telemetry.total();
        let mut generations = orphaned(&self.orphans);
        generations.extend(self.generations.iter().map(generation_status));
        Status {
            version: VERSION,
            pid: std::process::id(),
            uptime_ms: milliseconds_since(self.began),
            handover: self.tier.to_string(),
            handover_reason: self.tier_reason.clone(),
            is_stopping: self.stopping,
            generations,
            accepted: total.accepted,
            requests: total.requests,
            upgrade: self.upgrade_state().map(str::to_owned),
            last_revert: self.last_revert.clone(),
            handovers: self.journal.timelines(),
        }
    }
}

impl Master<'_> {
    fn upgrade_state(&self) -> Option<&'static str> {
        if self.is_leaving {
            return Some("draining");
        }
        let of_successor = self.successor.as_ref().map(Successor::describe);
        of_successor.or_else(|| self.predecessor.as_ref().and_then(Predecessor::describe))
    }
}

fn generation_status(generation: &Generation<'_>) -> GenerationStatus {
    let phase = match generation.phase {
        Phase::Starting => "starting",
        Phase::Serving if generation.growth.is_some() => "growing",
        Phase::Serving => "serving",
        Phase::Leaving(_) => "leaving",
    };
    // Those that have ended are in the sum as long as the generation lives.
    let mut total = generation.ended.clone();
    generation.slots.iter().for_each(|slot| total.add(&slot.page.snapshot()));
    GenerationStatus {
        number: generation.number,
        phase: phase.to_owned(),
        age_ms: milliseconds_since(generation.began),
        addresses: generation.addresses.iter().map(|(_, bound)| bound.to_string()).collect(),
        accepted: total.accepted,
        requests: total.requests,
        bytes_received: total.bytes_received,
        bytes_sent: total.bytes_sent,
        workers: generation.slots.iter().map(worker_status).collect(),
    }
}

fn worker_status(slot: &Slot) -> WorkerStatus {
    let state = match slot.state {
        State::Gone => "gone",
        State::Starting(_) => "starting",
        State::Ready(_) => "ready",
        State::Hung(_) => "hung",
        State::Waiting(_) => "waiting",
    };
    let numbers = slot.page.snapshot();
    WorkerStatus {
        slot: slot.index,
        pid: slot.child().map(|child| child.pid.as_raw() as u32),
        state: state.to_owned(),
        age_ms: slot.child().map(|child| milliseconds_since(child.since)),
        // A killed worker cannot count its connections down.
        open: if slot.child().is_some() { numbers.open } else { 0 },
        accepted: numbers.accepted,
        taken_over: numbers.taken_over,
        handed_over: numbers.closed[CloseReason::HandedOver as usize].1,
        requests: numbers.requests,
        bytes_received: numbers.bytes_received,
        bytes_sent: numbers.bytes_sent,
        service_ns_p50: numbers.service.quantile(0.5),
        service_ns_p99: numbers.service.quantile(0.99),
        deaths: slot.deaths,
        last_end: slot.last_end.clone(),
    }
}

/// Workers of servers before, by the generations they were of. Their numbers are in memory that this master has not.
fn orphaned(orphans: &[Orphan]) -> Vec<GenerationStatus> {
    let mut generations: Vec<GenerationStatus> = Vec::new();
    for (orphan, known) in orphans.iter().filter_map(|orphan| Some((orphan, orphan.known.as_ref()?))) {
        let place = generations.iter().position(|generation| generation.number == known.generation);
        let place = place.unwrap_or_else(|| {
            generations.push(orphaned_generation(orphan, known));
            generations.len() - 1
        });
        generations[place].workers.push(orphan_status(orphan, known));
    }
    generations
}

fn orphaned_generation(orphan: &Orphan, known: &Known) -> GenerationStatus {
    GenerationStatus {
        number: known.generation,
        phase: if orphan.deadline.is_some() { "leaving" } else { "orphaned" }.to_owned(),
        age_ms: 0,
        addresses: known.addresses.iter().map(ToString::to_string).collect(),
        accepted: 0,
        requests: 0,
        bytes_received: 0,
        bytes_sent: 0,
        workers: Vec::new(),
    }
}

fn orphan_status(orphan: &Orphan, known: &Known) -> WorkerStatus {
    let nothing = Snapshot::default();
    WorkerStatus {
        slot: known.slot,
        pid: Some(orphan.pid),
        state: "orphaned".to_owned(),
        age_ms: None,
        open: 0,
        accepted: 0,
        taken_over: 0,
        handed_over: 0,
        requests: 0,
        bytes_received: 0,
        bytes_sent: 0,
        service_ns_p50: nothing.service.quantile(0.5),
        service_ns_p99: nothing.service.quantile(0.99),
        deaths: 0,
        last_end: None,
    }
}

fn milliseconds_since(then: Instant) -> u64 {
    then.elapsed().as_millis() as u64
}
