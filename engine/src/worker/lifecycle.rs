//! The state of a worker: it serves, drains, or stops. One value, pure, with time passed in. The loop reports what
//! happens and does what [`Want`] says.
//!
//! Leaving has two parts that run side by side. Listeners stay open until they have settled. Connections move to other
//! workers, get the goodbye, or are left alone. The protocol learns of it two turns after the order, when everything
//! that the kernel had received by then has been handled.

use crate::handover::mutation::{Mutation, is_put_back};

/// The longest wait for the state of a leaving worker.
const STATE_MS_MAX: u64 = 10_000;

/// How long a draining worker waits for a connection that has sent nothing yet. Its first request may be on its way,
/// perhaps sent for the third time, and every connection that was accepted gets an answer. At most half of the drain
/// time.
const FIRST_INPUT_MS_MAX: u64 = 3_000;

/// What connections get when their worker leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Farewell {
    /// They move to other workers. Those that cannot move get the goodbye.
    Move,
    /// They get the goodbye.
    Goodbye,
    /// Nothing.
    Nothing,
}

/// The stage of leaving for connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    /// The worker first waits for state that another worker brings, since it must be passed on.
    AwaitingState { until_ns: u64 },
    /// The order came in this turn.
    Asked,
    /// The order came in the previous turn.
    AskedBefore,
    /// Connections are moving to other workers.
    Moving,
    /// All connections get the goodbye; those that have sent nothing get it a while later.
    Draining {
        /// When connections that have sent nothing are looked at.
        silent_at_ns: Option<u64>,
    },
    /// The worker waits until connections end by themselves.
    Waiting,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Leaving {
    stage: Stage,
    /// When the listeners close; `None` after that time.
    settles_at_ns: Option<u64>,
    deadline_ns: u64,
    /// How long the worker waits for connections that have sent nothing.
    first_input_ns: u64,
    /// Others accept from the same sockets.
    is_succeeded: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Mode {
    /// No connection is accepted until the state of the previous worker has come.
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

/// An action for the loop, or something for it to report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Want {
    /// Tell the protocol; then call [`Lifecycle::told`] with the way in which that was done.
    Tell,
    /// Tell connections that have sent nothing for this long.
    TellSilent { for_ns: u64 },
    /// No state will come: this worker starts without.
    BeginAnew,
    /// The drain time is over: call [`Lifecycle::stop`].
    Stop,
}

/// What the loop knows, for [`Lifecycle::is_done`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) connections: usize,
    pub(crate) listeners: usize,
    pub(crate) is_accepting: bool,
    /// Others may bring connections, or this worker may bring some to others.
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

    /// A worker that replaces another one, which may bring its state.
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

    /// It serves, and needs nothing in this turn.
    #[inline]
    pub(crate) fn is_serving(&self) -> bool {
        matches!(self.mode, Mode::Serving)
    }

    /// It has the order to leave or to stop.
    pub(crate) fn is_leaving(&self) -> bool {
        matches!(self.mode, Mode::Leaving(_) | Mode::Stopping { .. })
    }

    pub(crate) fn is_stopping(&self) -> bool {
        matches!(self.mode, Mode::Stopping { .. })
    }

    /// Listeners have settled and close.
    pub(crate) fn has_settled(&self) -> bool {
        self.is_stopping() || self.leaving().is_some_and(|leaving| leaving.settles_at_ns.is_none())
    }

    pub(crate) fn awaits_state(&self) -> bool {
        matches!(self.mode, Mode::AwaitingState { .. }) || matches!(self.stage(), Some(Stage::AwaitingState { .. }))
    }

    /// Whether connections may be accepted.
    pub(crate) fn accepts(&self) -> bool {
        !self.has_settled() && !self.awaits_state()
    }

    /// Others accept from the same sockets and take what waits there.
    pub(crate) fn is_succeeded(&self) -> bool {
        match &self.mode {
            Mode::Leaving(Leaving { is_succeeded, .. }) | Mode::Stopping { is_succeeded } => *is_succeeded,
            Mode::AwaitingState { .. } | Mode::Serving => false,
        }
    }

    /// All connections get the goodbye, including those that are accepted from now on.
    pub(crate) fn is_draining(&self) -> bool {
        self.is_stopping() || matches!(self.stage(), Some(Stage::Draining { .. }))
    }

    /// The protocol knows that the worker leaves, in one way or another.
    pub(crate) fn was_told(&self) -> bool {
        self.is_stopping() || matches!(self.stage(), Some(Stage::Moving | Stage::Draining { .. } | Stage::Waiting))
    }

    /// Whether the protocol is about to be told, so that turns follow at once.
    pub(crate) fn is_asked(&self) -> bool {
        matches!(self.stage(), Some(Stage::Asked | Stage::AskedBefore))
    }

    /// Whether this worker takes connections and state that others bring. `moves_on` says whether it would move on to
    /// others what it gets.
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

    /// The latest time at which connections end.
    pub(crate) fn deadline_ns(&self) -> u64 {
        self.leaving().map_or(0, |leaving| leaving.deadline_ns)
    }

    /// Begins to leave: listeners stay open for `settle_ms`, for handshakes in flight, and connections then have
    /// `drain_ms`. Another call ends the settling, or shortens the time. `is_succeeded` says whether others accept from
    /// the same sockets, if that is known. Returns whether this was the first call.
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

    /// The state of the previous worker has come, or will not come.
    pub(crate) fn end_awaiting(&mut self) {
        match &mut self.mode {
            Mode::AwaitingState { .. } => self.mode = Mode::Serving,
            Mode::Leaving(leaving) if matches!(leaving.stage, Stage::AwaitingState { .. }) => {
                leaving.stage = Stage::Asked;
            }
            _ => {}
        }
    }

    /// Records how [`Want::Tell`] was carried out.
    pub(crate) fn told(&mut self, now_ns: u64, farewell: Farewell) {
        let Mode::Leaving(leaving) = &mut self.mode else { return };
        debug_assert_eq!(leaving.stage, Stage::AskedBefore, "told when it was not wanted");
        leaving.stage = match farewell {
            Farewell::Move => Stage::Moving,
            Farewell::Goodbye => Stage::Draining { silent_at_ns: Some(now_ns.saturating_add(leaving.first_input_ns)) },
            Farewell::Nothing => Stage::Waiting,
        };
    }

    /// Connections do not move any more. Returns `true` if those that are left must get the goodbye now.
    pub(crate) fn end_moving(&mut self, now_ns: u64) -> bool {
        let Mode::Leaving(leaving) = &mut self.mode else { return false };
        if leaving.stage != Stage::Moving {
            return false;
        }
        leaving.stage = Stage::Draining { silent_at_ns: Some(now_ns.saturating_add(leaving.first_input_ns)) };
        true
    }

    /// Delays the goodbye of a connection that has sent nothing: [`Want::TellSilent`] comes when it has been silent for
    /// long enough. While others move, that one stays for a reason of its own.
    pub(crate) fn watch_silent(&mut self, since_ns: u64) {
        let Mode::Leaving(leaving) = &mut self.mode else { return };
        let at_ns = since_ns.saturating_add(leaving.first_input_ns);
        if let Stage::Draining { silent_at_ns } = &mut leaving.stage {
            *silent_at_ns = Some(silent_at_ns.map_or(at_ns, |before_ns| before_ns.min(at_ns)));
        }
    }

    /// Call it at the end of a turn. Returns what must be done.
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

    /// When [`Lifecycle::turn`] may want something, apart from the turns that [`Lifecycle::is_asked`] announces.
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

    /// Ends everything at once. Returns `false` if it had done so already.
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

    /// Calls `turn` at this time until it wants nothing more.
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
