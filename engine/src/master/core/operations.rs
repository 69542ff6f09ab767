//! Clients that wait for operations. Every operation ends once, and its client gets the true outcome.

use super::types::ClientId;
use super::world::World;
use crate::ipc::control::{Failure, Interruption, Outcome};

/// What a client waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// This generation serves, and the previous one's connections have moved.
    Reload { generation: u32 },
    /// This generation has this number of workers.
    Scale { generation: u32, workers: usize },
    /// Nothing more is worth moving between serving workers.
    Rebalance,
    /// The new binary serves, or is held.
    Upgrade,
    /// The upgrade is final.
    Commit,
    /// The old binary serves, and the new one has left.
    Revert,
    /// This master has ended.
    Stop,
}

/// See the module's head.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Operations {
    waiting: Vec<(ClientId, Kind)>,
}

impl Operations {
    pub(super) fn wait(&mut self, client: ClientId, kind: Kind) {
        debug_assert!(self.waiting.iter().all(|(one, _)| *one != client), "a client asks once");
        self.waiting.push((client, kind));
    }

    /// Forgets a client that went away while it waited. Its operation continues.
    pub(super) fn forget(&mut self, client: ClientId) {
        self.waiting.retain(|(one, _)| *one != client);
    }

    pub(super) fn conclude(&mut self, world: &mut dyn World, kind: Kind, result: &Result<Outcome, Failure>) {
        self.conclude_all(world, |one| one == kind, result);
    }

    pub(super) fn conclude_all(
        &mut self,
        world: &mut dyn World,
        is_meant: impl Fn(Kind) -> bool,
        result: &Result<Outcome, Failure>,
    ) {
        self.waiting.retain(|(client, kind)| {
            let is_over = is_meant(*kind);
            if is_over {
                world.reply(*client, result.clone());
            }
            !is_over
        });
    }

    /// Reports to all clients but those that wait for a stop that their operation was cut off.
    pub(super) fn cut_off(&mut self, world: &mut dyn World, by: Interruption) {
        self.conclude_all(world, |kind| kind != Kind::Stop, &Err(Failure::CutOff { by }));
    }

    /// Whether no client waits.
    #[cfg(any(test, feature = "simulation"))]
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}
