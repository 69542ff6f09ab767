//! Which states of a master are legal. The types exclude most illegal states; this file checks the rest, for tests and
//! the simulator.

use std::collections::BTreeSet;

use super::Core;
use super::generation::{Generation, Phase};
use super::lifecycle::{Lifecycle, Lineage, Start};
use super::types::Time;

impl Core {
    /// For models in which no worker leaves by itself: after all have left, a generation may be starting while none
    /// serves.
    ///
    /// # Panics
    /// If a generation is starting while none serves.
    pub(crate) fn assert_serves(&self) {
        if let Lifecycle::Serving(Lineage::Alone) = &self.lifecycle {
            let is_coming = self.generations.iter().any(Generation::is_coming);
            assert!(self.serving().is_some() || !is_coming, "a generation comes up, and none serves");
        }
    }

    /// # Panics
    /// If the state is illegal.
    pub(crate) fn assert_legal(&self, now: Time) {
        let coming = self.generations.iter().filter(|generation| generation.is_coming()).count();
        let serving = self.generations.iter().filter(|generation| generation.phase == Phase::Serving).count();
        assert!(coming <= 1, "{coming} generations come up");
        assert!(serving <= 1, "{serving} generations serve");
        self.inspections.assert_legal(now);
        assert!(self.postponed.is_empty() || self.awaits_leave(), "a change is postponed for nothing");
        match &self.lifecycle {
            Lifecycle::Starting(Start::ComingUp, _) => assert_eq!(serving, 0, "a generation serves during the start"),
            Lifecycle::Starting(..) => assert!(self.generations.is_empty(), "generations before the start"),
            // See `assert_serves`.
            Lifecycle::Serving(_) => {}
            Lifecycle::Idle(_) => assert_eq!(serving, 0, "a generation serves while the master is idle"),
            Lifecycle::Stopping(_) | Lifecycle::Leaving { .. } | Lifecycle::Failed(_) => {
                assert_eq!((coming, serving), (0, 0), "a master that ends has a generation that comes up or serves");
                assert!(!self.generations.iter().any(Generation::is_changing), "a master that ends grows");
            }
            Lifecycle::Over(_) => {
                assert!(self.generations.is_empty(), "a master that is over has workers");
                assert!(self.operations.is_empty(), "a master is over, and somebody waits for it");
                assert!(self.inspections.is_empty(), "a master is over, and somebody waits for connections");
            }
        }
        if let Some((giver, until)) = self.transfer() {
            assert!(until > now, "{giver:?} is waited for longer than it may take to give connections");
            let mut children = self.generations.iter().flat_map(Generation::children);
            let is_there = children.any(|child| child.process == giver && child.has_channel);
            assert!(is_there, "{giver:?} is gone, and it is waited for until it has given connections");
        }
        let mut processes = BTreeSet::new();
        let children = self.generations.iter().flat_map(Generation::children);
        children.for_each(|child| assert!(processes.insert(child.process), "{:?} is in two slots", child.process));
        for generation in &self.generations {
            let mut slots = BTreeSet::new();
            assert!(generation.slots.iter().all(|slot| slots.insert(slot.index)), "a slot's index is used twice");
            let is_shared_twice =
                generation.shares.iter().enumerate().any(|(place, share)| generation.shares[..place].contains(share));
            assert!(!is_shared_twice, "a socket is shared twice with a slot");
        }
    }
}
