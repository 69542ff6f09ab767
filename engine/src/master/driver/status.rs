//! The status of a master: what the core knows, with the counters of the workers.

use super::workers::Workers;
use super::{Master, certificates};
use crate::ipc::control::{
    GenerationPhase, GenerationStatus, Status, Unevenness, UpgradeState, VERSION, WorkerState, WorkerStatus,
};
use crate::master::core::{
    Core, Generation, Lifecycle, NewStage, OldStage, Orphan, Phase, ProcessId, Slot, State, Time, World,
};
use crate::telemetry::{Snapshot, Totals};
use crate::types::CloseReason;

impl Master<'_> {
    /// `counted` are the numbers of this master's workers that the other master got (`tell_totals`).
    pub(super) fn status(&self, counted: &Totals) -> Status {
        let now = self.driver.now();
        let workers = &self.driver.workers;
        let total = workers.telemetry.total();
        let mut generations = orphaned(self.core.orphans());
        let all = self.core.generations();
        generations.extend(all.iter().enumerate().map(|(index, generation)| {
            // A scale splits a generation into two with the same number. The numbers of ended workers are shown with
            // the last part.
            let is_rest = all[index + 1..].iter().all(|other| other.number != generation.number);
            let status = generation_status(&self.core, generation, workers, is_rest, now);
            if status.phase == GenerationPhase::Leaving {
                return status;
            }
            let (certificates, certificates_left_off) = certificates::shown(self.certificates(generation));
            GenerationStatus { certificates, certificates_left_off, ..status }
        }));
        let lifecycle = self.core.lifecycle();
        Status {
            version: VERSION,
            name: self.name.clone(),
            program_version: self.version.clone(),
            pid: std::process::id(),
            uptime_ms: now.ms_since(self.began),
            handover: self.driver.tier.to_string(),
            handover_reason: self.tier_reason.clone(),
            is_stopping: matches!(lifecycle, Lifecycle::Stopping(_) | Lifecycle::Failed(_) | Lifecycle::Over(_)),
            generations,
            accepted: total.accepted,
            requests: total.requests,
            rebalanced: self.core.rebalanced_connections(),
            totals: self.driver.ledger.shown(counted),
            counters: total.named,
            upgrade: upgrade_state(&self.core),
            last_revert: self.core.last_revert().cloned(),
            handovers: self.driver.journal.timelines(),
        }
    }
}

fn upgrade_state(core: &Core) -> Option<UpgradeState> {
    let lifecycle = core.lifecycle();
    if let Lifecycle::Leaving { .. } = lifecycle {
        return Some(UpgradeState::Leaving);
    }
    if let Some(old) = lifecycle.old() {
        return Some(match old.stage {
            OldStage::Starting(_) => UpgradeState::Starting,
            OldStage::Held { .. } => UpgradeState::Held,
            OldStage::Probation { .. } => UpgradeState::Probation,
            OldStage::Reverting | OldStage::Relieved { .. } | OldStage::Ending { .. } => UpgradeState::Reverting,
        });
    }
    lifecycle.new_master().map(|new| match new.stage {
        NewStage::AwaitingRelief { .. } => UpgradeState::AwaitingRelief,
        NewStage::Undecided | NewStage::Committing if new.is_held => UpgradeState::NewHeld,
        NewStage::Undecided | NewStage::Committing => UpgradeState::New,
    })
}

fn generation_status(
    core: &Core,
    generation: &Generation,
    workers: &Workers,
    with_ended: bool,
    now: Time,
) -> GenerationStatus {
    let phase = match generation.phase {
        Phase::Claiming { .. } | Phase::Starting => GenerationPhase::Starting,
        Phase::Serving if generation.growth.is_some() => GenerationPhase::Growing,
        Phase::Serving => GenerationPhase::Serving,
        Phase::Leaving { .. } | Phase::Abandoned { .. } => GenerationPhase::Leaving,
    };
    let mut total = if with_ended { workers.ended(generation.number) } else { Snapshot::default() };
    for child in generation.children() {
        total.add(&numbers(workers, child.process));
    }
    let workers: Vec<_> = generation.slots.iter().map(|slot| slot_status(core, slot, workers, now)).collect();
    let ready = workers.iter().filter(|worker| worker.state == WorkerState::Ready);
    let ready: Vec<_> = ready.map(|worker| (worker.open, worker.busy_permille)).collect();
    GenerationStatus {
        number: generation.number,
        phase,
        age_ms: now.ms_since(generation.began),
        addresses: generation.addresses.iter().map(|address| address.bound.to_string()).collect(),
        steering: generation.steering.map(|_| generation.plan.steering.to_string()),
        accepted: total.accepted,
        requests: total.requests,
        bytes_received: total.bytes_received,
        bytes_sent: total.bytes_sent,
        counters: total.named,
        imbalance: Unevenness::of(&ready).filter(|_| phase == GenerationPhase::Serving),
        certificates: Vec::new(),
        certificates_left_off: 0,
        workers,
    }
}

fn numbers(workers: &Workers, process: ProcessId) -> Snapshot {
    workers.page(process).map(|page| page.snapshot()).unwrap_or_default()
}

fn slot_status(core: &Core, slot: &Slot, workers: &Workers, now: Time) -> WorkerStatus {
    let state = match &slot.state {
        State::Gone => WorkerState::Gone,
        State::Starting(_) => WorkerState::Starting,
        State::Ready(_) => WorkerState::Ready,
        State::Killed(_, why) if why.is_hung() => WorkerState::Hung,
        State::Killed(..) => WorkerState::Killed,
        State::Waiting(_) => WorkerState::Waiting,
    };
    let child = slot.child();
    let numbers = child.map(|child| numbers(workers, child.process)).unwrap_or_default();
    WorkerStatus {
        pid: child.map(|child| child.process.0),
        age_ms: child.map(|child| now.ms_since(child.since)),
        busy_permille: child.and_then(|child| core.busy_permille(child.process)),
        deaths: slot.deaths,
        last_exit: slot.last_exit,
        ..worker_status(slot.index, state, &numbers)
    }
}

/// The status of a worker with these numbers.
fn worker_status(slot: usize, state: WorkerState, numbers: &Snapshot) -> WorkerStatus {
    WorkerStatus {
        slot,
        pid: None,
        state,
        age_ms: None,
        busy_permille: None,
        open: numbers.open,
        accepted: numbers.accepted,
        taken_over: numbers.taken_over,
        sibling_messages_sent: numbers.sibling_messages_sent,
        sibling_messages_heard: numbers.sibling_messages_heard,
        siblings_dropped: numbers.siblings_dropped,
        handed_over: numbers.closed[CloseReason::HandedOver as usize].1,
        closed_for_room: numbers.closed[CloseReason::Room as usize].1,
        cut_for_memory: numbers.closed[CloseReason::Memory as usize].1,
        closed_without_header: numbers.closed[CloseReason::ProxyHeader as usize].1,
        closed_by_operator: numbers.closed[CloseReason::Operator as usize].1,
        paused_for_memory: numbers.memory_pauses,
        memory_bytes: numbers.memory_bytes,
        counters: numbers.named.clone(),
        requests: numbers.requests,
        bytes_received: numbers.bytes_received,
        bytes_sent: numbers.bytes_sent,
        service_ns_p50: numbers.service.quantile(0.5),
        service_ns_p99: numbers.service.quantile(0.99),
        deaths: 0,
        last_exit: None,
    }
}

/// Workers of former masters, by their generations. Their numbers are in memory that this master does not have.
fn orphaned(orphans: &[Orphan]) -> Vec<GenerationStatus> {
    let mut generations: Vec<GenerationStatus> = Vec::new();
    for (orphan, known) in orphans.iter().filter_map(|orphan| Some((orphan, orphan.known.as_ref()?))) {
        let place = generations.iter().position(|generation| generation.number == known.generation);
        let place = place.unwrap_or_else(|| {
            let is_leaving = orphan.until.is_some();
            generations.push(GenerationStatus {
                number: known.generation,
                phase: if is_leaving { GenerationPhase::Leaving } else { GenerationPhase::Orphaned },
                age_ms: 0,
                addresses: known.addresses.iter().map(ToString::to_string).collect(),
                steering: None,
                imbalance: None,
                accepted: 0,
                requests: 0,
                bytes_received: 0,
                bytes_sent: 0,
                counters: Vec::new(),
                certificates: Vec::new(),
                certificates_left_off: 0,
                workers: Vec::new(),
            });
            generations.len() - 1
        });
        let worker = worker_status(known.slot, WorkerState::Orphaned, &Snapshot::default());
        generations[place].workers.push(WorkerStatus { pid: Some(orphan.process.0), ..worker });
    }
    generations
}
