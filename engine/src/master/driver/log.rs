//! Events in the log: each one once, by the master at which it happens.

use crate::ipc::control::EventKind;

/// Logs an event. Before a generation has served, one that does not come up is the server's end, whose reason the caller of
/// the server reports.
pub(super) fn event(generation: Option<u32>, event: &EventKind, has_served: bool, is_undecided: bool) {
    let name = event.name();
    match event {
        // After the decision it leaves in good order.
        EventKind::PredecessorGone if !is_undecided => tracing::info!(generation, event = %name, "{event}"),
        EventKind::Serves { took_ms } if has_served => {
            tracing::info!(generation, event = %name, took_ms, "reload: the new generation serves");
        }
        EventKind::TakenDown { why } if has_served => {
            tracing::error!(generation, event = %name, "reload failed, the previous workers keep serving: {why}");
        }
        // Logged with more of it where the worker's own words are read.
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
