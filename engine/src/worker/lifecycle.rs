//! How a worker stands: it serves, leaves in good order, or stops. One value, pure, with time passed in; the loop reports
//! what happens and does what [`Want`] says.
//!
//! Leaving has two parts that go on side by side: listeners stay open until they have settled, and connections move to
//! other workers, are told goodbye, or are left alone. The protocol is told two turns after the order, when everything that
//! the kernel had received by then has been handled.

use crate::handover::mutation::{Mutation, is_put_back};

/// A worker that waits for the state of one that leaves waits so long at most.
const STATE_MS_MAX: u64 = 10_000;

/// How long a connection that has sent nothing yet is waited for once the worker drains: its first request may be on
/// its way, perhaps sent for the third time, and whoever was let in is answered. Half of the drain's time at most.
const FIRST_INPUT_MS_MAX: u64 = 3_000;

/// What connections are told when their worker leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Farewell {
    /// They move to other workers; those that cannot are told goodbye.
    Move,
    /// They are told goodbye.
    Goodbye,
    /// Nothing.
    Nothing,
}

/// How far leaving has come for connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    /// State that another worker brings is awaited first, since it is to be passed on.
    AwaitingState { until_ns: u64 },
    /// Ordered in this turn.
    Asked,
    /// Ordered in the turn before.
    AskedBefore,
    /// Connections move to other workers.
    Moving,
    /// All connections are told, those that have sent nothing a while later.
    Draining {
        /// When those that have sent nothing are looked at.
        silent_at_ns: Option<u64>,
    },
    /// Connections end when they please.
    Waiting,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Leaving {
    stage: Stage,
    /// Listeners close then; `None` once they do.
    settles_at_ns: Option<u64>,
    deadline_ns: u64,
    /// How long whoever has sent nothing is waited for.
    first_input_ns: u64,
    /// Others accept from the very same sockets.
    is_succeeded: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Mode {
    /// Nobody is let in before the state of the worker before has come.
    AwaitingState {
        until_ns: u64,
    },
    Serving,
    Leaving(Leaving),
    /// Everything ends at once.
    Stopping {
        is_succeeded: bool,
    },
}

/// What the loop is to do, and to report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Want {
    /// Tell the protocol; [`Lifecycle::told`] says how that is done.
    Tell,
    /// Tell connections that have sent nothing for so long.
    TellSilent { for_ns: u64 },
    /// No state comes: this worker starts without.
    BeginAnew,
    /// The drain's time is over: [`Lifecycle::stop`].
    Stop,
}

/// What the loop knows, for [`Lifecycle::is_done`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) connections: usize,
    pub(crate) listeners: usize,
    pub(crate) is_accepting: bool,
    /// Others may bring connections, or may be brought some.
    pub(crate) is_moving: bool,
}

/// See the module's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Lifecycle {
    mode: Mode,
}

impl Lifecycle {
    pub(crate) fn serving() -> Self {
        Self { mode: Mode::Serving }
    }

    /// It takes the place of another worker, which may bring its state.
    pub(crate) fn awaiting_state(now_ns: u64) -> Self {
        Self { mode: Mode::AwaitingState { until_ns: now_ns + STATE_MS_MAX * 1_000_000 } }
    }

    fn leaving(&self) -> Option<&Leaving> {
        match &self.mode {
            Mode::Leaving(leaving) => Some(leaving),
            _ => None,
        }
    }

    fn stage(&self) -> Option<Stage> {
        self.leaving().map(|leaving| leaving.stage)
    }

    /// It serves, and nothing is to be done in the turn.
    #[inline]
    pub(crate) fn is_serving(&self) -> bool {
        matches!(self.mode, Mode::Serving)
    }

    /// It was told to leave, or to stop.
    pub(crate) fn is_leaving(&self) -> bool {
        matches!(self.mode, Mode::Leaving(_) | Mode::Stopping { .. })
    }

    pub(crate) fn is_stopping(&self) -> bool {
        matches!(self.mode, Mode::Stopping { .. })
    }

    /// Listeners have settled, and close.
    pub(crate) fn has_settled(&self) -> bool {
        self.is_stopping() || self.leaving().is_some_and(|leaving| leaving.settles_at_ns.is_none())
    }

    pub(crate) fn awaits_state(&self) -> bool {
        matches!(self.mode, Mode::AwaitingState { .. }) || matches!(self.stage(), Some(Stage::AwaitingState { .. }))
    }

    /// Whether connections may be let in.
    pub(crate) fn accepts(&self) -> bool {
        !self.has_settled() && !self.awaits_state()
    }

    /// Others accept from the very same sockets: what waits there is theirs.
    pub(crate) fn is_succeeded(&self) -> bool {
        match &self.mode {
            Mode::Leaving(Leaving { is_succeeded, .. }) | Mode::Stopping { is_succeeded } => *is_succeeded,
            Mode::AwaitingState { .. } | Mode::Serving => false,
        }
    }

    /// All connections are told that the worker leaves, also those that come from now on.
    pub(crate) fn is_draining(&self) -> bool {
        self.is_stopping() || matches!(self.stage(), Some(Stage::Draining { .. }))
    }

    /// The protocol was told, in one way or another.
    pub(crate) fn was_told(&self) -> bool {
        self.is_stopping() || matches!(self.stage(), Some(Stage::Moving | Stage::Draining { .. } | Stage::Waiting))
    }

    /// Whether the protocol is about to be told, so that turns follow at once.
    pub(crate) fn is_asked(&self) -> bool {
        matches!(self.stage(), Some(Stage::Asked | Stage::AskedBefore))
    }

    /// Whether this worker takes connections and state that others bring. `moves_on` says whether it would move what it
    /// gets to others in turn.
    pub(crate) fn takes(&self, moves_on: bool) -> bool {
        match &self.mode {
            Mode::AwaitingState { .. } | Mode::Serving => true,
            Mode::Stopping { .. } => false,
            Mode::Leaving(leaving) => match leaving.stage {
                Stage::AwaitingState { .. } | Stage::Asked | Stage::AskedBefore | Stage::Moving => moves_on,
                Stage::Draining { .. } | Stage::Waiting => false,
            },
        }
    }

    /// When connections end at the latest.
    pub(crate) fn deadline_ns(&self) -> u64 {
        self.leaving().map_or(0, |leaving| leaving.deadline_ns)
    }

    /// Leaves: listeners stay open for `settle_ms`, for handshakes under way, and connections have `drain_ms` from then on.
    /// Said again, it ends the settling, or shortens the time. `is_succeeded` says whether others accept from the very same
    /// sockets, where that is known. Gives whether it was the first time.
    pub(crate) fn drain(&mut self, now_ns: u64, settle_ms: u64, drain_ms: u64, is_succeeded: Option<bool>) -> bool {
        let deadline_ns = now_ns.saturating_add(settle_ms.saturating_add(drain_ms).saturating_mul(1_000_000));
        let first_input_ns = FIRST_INPUT_MS_MAX.min(drain_ms / 2) * 1_000_000;
        let stage = match &mut self.mode {
            Mode::Stopping { is_succeeded: before } => {
                *before = is_succeeded.unwrap_or(*before);
                return false;
            }
            Mode::Leaving(leaving) => {
                leaving.deadline_ns = leaving.deadline_ns.min(deadline_ns);
                leaving.first_input_ns = first_input_ns;
                leaving.is_succeeded = is_succeeded.unwrap_or(leaving.is_succeeded);
                if settle_ms == 0 {
                    leaving.settles_at_ns = None;
                }
                return false;
            }
            Mode::AwaitingState { until_ns } => Stage::AwaitingState { until_ns: *until_ns },
            Mode::Serving => Stage::Asked,
        };
        let settles_at_ns = (settle_ms > 0).then(|| now_ns.saturating_add(settle_ms.saturating_mul(1_000_000)));
        let is_succeeded = is_succeeded.unwrap_or(false);
        self.mode = Mode::Leaving(Leaving { stage, settles_at_ns, deadline_ns, first_input_ns, is_succeeded });
        true
    }

    /// The state of the worker before has come, or will not.
    pub(crate) fn end_awaiting(&mut self) {
        match &mut self.mode {
            Mode::AwaitingState { .. } => self.mode = Mode::Serving,
            Mode::Leaving(leaving) if matches!(leaving.stage, Stage::AwaitingState { .. }) => {
                leaving.stage = Stage::Asked;
            }
            _ => {}
        }
    }

    /// How [`Want::Tell`] was carried out.
    pub(crate) fn told(&mut self, now_ns: u64, farewell: Farewell) {
        let Mode::Leaving(leaving) = &mut self.mode else { return };
        debug_assert_eq!(leaving.stage, Stage::AskedBefore, "told when it was not wanted");
        leaving.stage = match farewell {
            Farewell::Move => Stage::Moving,
            Farewell::Goodbye => Stage::Draining { silent_at_ns: Some(now_ns.saturating_add(leaving.first_input_ns)) },
            Farewell::Nothing => Stage::Waiting,
        };
    }

    /// Connections do not move any more. `true` where those that are left have to be told now.
    pub(crate) fn end_moving(&mut self, now_ns: u64) -> bool {
        let Mode::Leaving(leaving) = &mut self.mode else { return false };
        if leaving.stage != Stage::Moving {
            return false;
        }
        leaving.stage = Stage::Draining { silent_at_ns: Some(now_ns.saturating_add(leaving.first_input_ns)) };
        true
    }

    /// A connection that has sent nothing is told later: [`Want::TellSilent`] comes when it has been silent for long enough.
    /// While others move, that one stays for some reason of its own.
    pub(crate) fn watch_silent(&mut self, since_ns: u64) {
        let Mode::Leaving(leaving) = &mut self.mode else { return };
        let at_ns = since_ns.saturating_add(leaving.first_input_ns);
        if let Stage::Draining { silent_at_ns } = &mut leaving.stage {
            *silent_at_ns = Some(silent_at_ns.map_or(at_ns, |before_ns| before_ns.min(at_ns)));
        }
    }

    /// A turn of the loop is over, but for this. Gives what is wanted.
    pub(crate) fn turn(&mut self, now_ns: u64) -> Vec<Want> {
        let mut wants = Vec::new();
        match &mut self.mode {
            Mode::AwaitingState { until_ns } if *until_ns <= now_ns => {
                self.mode = Mode::Serving;
                wants.push(Want::BeginAnew);
            }
            Mode::AwaitingState { .. } | Mode::Serving | Mode::Stopping { .. } => {}
            Mode::Leaving(leaving) => {
                if leaving.deadline_ns <= now_ns {
                    return vec![Want::Stop];
                }
                leaving.settles_at_ns = leaving.settles_at_ns.filter(|at_ns| *at_ns > now_ns);
                match &mut leaving.stage {
                    Stage::AwaitingState { until_ns } if *until_ns <= now_ns => {
                        leaving.stage = Stage::Asked;
                        wants.push(Want::BeginAnew);
                    }
                    Stage::Asked => leaving.stage = Stage::AskedBefore,
                    Stage::AskedBefore => wants.push(Want::Tell),
                    Stage::Draining { silent_at_ns } if silent_at_ns.is_some_and(|at_ns| at_ns <= now_ns) => {
                        *silent_at_ns = None;
                        wants.push(Want::TellSilent { for_ns: leaving.first_input_ns });
                    }
                    _ => {}
                }
            }
        }
        wants
    }

    /// When [`Lifecycle::turn`] may want something, apart from what [`Lifecycle::is_asked`] says.
    pub(crate) fn next_ns(&self) -> Option<u64> {
        match &self.mode {
            Mode::AwaitingState { until_ns } => Some(*until_ns),
            Mode::Serving | Mode::Stopping { .. } => None,
            Mode::Leaving(leaving) => {
                let of_stage = match leaving.stage {
                    Stage::AwaitingState { until_ns } => Some(until_ns),
                    Stage::Draining { silent_at_ns } => silent_at_ns,
                    _ => None,
                };
                of_stage.into_iter().chain(leaving.settles_at_ns).chain([leaving.deadline_ns]).min()
            }
        }
    }

    /// Everything ends at once. `false` where it did already.
    pub(crate) fn stop(&mut self) -> bool {
        let was_stopping = self.is_stopping();
        self.mode = Mode::Stopping { is_succeeded: self.is_succeeded() };
        !was_stopping
    }

    /// Whether nothing is left to do.
    pub(crate) fn is_done(&self, facts: Facts) -> bool {
        let Facts { connections, listeners, is_accepting, is_moving } = facts;
        if connections > 0 || is_accepting || !self.has_settled() {
            return false;
        }
        if is_put_back(Mutation::DoneWhileGathering) && self.is_leaving() {
            return true;
        }
        self.is_stopping() || (self.was_told() && listeners == 0 && !is_moving)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const NOTHING_LEFT: Facts = Facts { connections: 0, listeners: 0, is_accepting: false, is_moving: false };

    /// Turns at this time until nothing more is wanted.
    fn wants(lifecycle: &mut Lifecycle, now_ns: u64) -> Vec<Want> {
        (0..3).flat_map(|_| lifecycle.turn(now_ns)).collect()
    }

    #[test]
    fn the_protocol_is_told_a_turn_after_the_order() {
        let mut lifecycle = Lifecycle::serving();
        assert!(lifecycle.drain(0, 5, 100, None));
        assert!(lifecycle.accepts() && lifecycle.is_asked() && !lifecycle.was_told());
        assert_eq!(lifecycle.turn(0), []);
        assert_eq!(lifecycle.turn(0), [Want::Tell]);
        lifecycle.told(0, Farewell::Goodbye);
        assert!(lifecycle.is_draining() && lifecycle.accepts(), "its listeners have not settled");
        assert_eq!(lifecycle.next_ns(), Some(5 * MS));
        assert_eq!(lifecycle.turn(5 * MS), []);
        assert!(!lifecycle.accepts() && lifecycle.is_done(NOTHING_LEFT));
    }

    #[test]
    fn the_end_of_the_time_is_the_earliest_that_was_ordered() {
        let mut lifecycle = Lifecycle::serving();
        lifecycle.drain(0, 10, 100, Some(true));
        assert!(!lifecycle.drain(0, 0, 50, None));
        assert!(lifecycle.has_settled() && lifecycle.is_succeeded());
        assert_eq!(lifecycle.deadline_ns(), 50 * MS);
        lifecycle.drain(0, 0, 200, Some(false));
        assert_eq!((lifecycle.deadline_ns(), lifecycle.is_succeeded()), (50 * MS, false));
        assert_eq!(lifecycle.turn(50 * MS), [Want::Stop]);
        assert!(lifecycle.stop() && !lifecycle.stop() && !lifecycle.takes(true));
    }

    #[test]
    fn state_that_comes_to_one_that_leaves_is_passed_on() {
        let mut lifecycle = Lifecycle::awaiting_state(0);
        assert!(!lifecycle.accepts());
        lifecycle.drain(0, 0, 100_000, None);
        assert_eq!(wants(&mut lifecycle, MS), []);
        assert!(lifecycle.awaits_state() && lifecycle.takes(true) && !lifecycle.is_done(NOTHING_LEFT));
        lifecycle.end_awaiting();
        assert_eq!(wants(&mut lifecycle, MS)[..1], [Want::Tell]);
        let mut lifecycle = Lifecycle::awaiting_state(0);
        assert_eq!(wants(&mut lifecycle, STATE_MS_MAX * MS), [Want::BeginAnew]);
        assert!(lifecycle.is_serving());
    }

    #[test]
    fn one_that_still_moves_something_is_not_done() {
        let mut lifecycle = Lifecycle::serving();
        lifecycle.drain(0, 0, 100, None);
        assert_eq!(wants(&mut lifecycle, 0)[..1], [Want::Tell]);
        lifecycle.told(0, Farewell::Move);
        assert!(!lifecycle.is_done(Facts { is_moving: true, ..NOTHING_LEFT }));
        assert!(lifecycle.end_moving(MS) && !lifecycle.end_moving(MS));
        assert!(lifecycle.is_draining() && lifecycle.is_done(NOTHING_LEFT));
    }

    #[test]
    fn who_is_silent_is_told_when_it_has_been_for_long_enough() {
        let mut lifecycle = Lifecycle::serving();
        lifecycle.drain(0, 0, 1_000, None);
        wants(&mut lifecycle, 0);
        lifecycle.told(0, Farewell::Goodbye);
        lifecycle.watch_silent(20 * MS);
        assert_eq!(lifecycle.turn(499 * MS), []);
        assert_eq!(lifecycle.turn(500 * MS), [Want::TellSilent { for_ns: 500 * MS }]);
        lifecycle.watch_silent(20 * MS);
        assert_eq!(lifecycle.next_ns(), Some(520 * MS));
    }
}
