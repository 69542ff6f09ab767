//! Events in the log: the master at which an event happens logs it once.

use crate::ipc::control::EventKind;

/// Logs an event. Until a generation has served, one that fails to start is the end of the server; the caller of the
/// server reports its reason.
pub(super) fn event(generation: Option<u32>, event: &EventKind, has_served: bool, is_undecided: bool) {
    let name = event.name();
    match event {
        // After the decision, the old master ends normally.
        EventKind::PredecessorGone if !is_undecided => tracing::info!(generation, event = %name, "{event}"),
        // Programs that read the log distinguish these two by their texts.
        EventKind::Serves { took_ms } if has_served => {
            tracing::info!(generation, event = %name, took_ms, "reload: the new generation serves");
        }
        EventKind::TakenDown { why } if has_served => {
            tracing::error!(generation, event = %name, "reload failed, the previous workers keep serving: {why}");
        }
        // The code that reads the worker's report logs more about it.
        EventKind::WorkerReady { .. } => {}
        EventKind::WorkerClosed { .. } => tracing::debug!(generation, event = %name, "{event}"),
        EventKind::NotReloaded { .. }
        | EventKind::TakenDown { .. }
        | EventKind::NotScaled { .. }
        | EventKind::NotSteered { .. }
        | EventKind::WorkerDied { .. }
        | EventKind::WorkerKeepsDying { .. }
        | EventKind::WorkerDiedLeaving { .. }
        | EventKind::WorkerHung { .. }
        | EventKind::UpgradeFailed { .. }
        | EventKind::SuccessorGone { .. }
        | EventKind::NotReverted { .. } => tracing::error!(generation, event = %name, "{event}"),
        EventKind::WorkersLate { .. }
        | EventKind::WillClose { .. }
        | EventKind::Reverting { .. }
        | EventKind::PredecessorGone => tracing::warn!(generation, event = %name, "{event}"),
        _ => tracing::info!(generation, event = %name, "{event}"),
    }
}
