//! Pairs of connections that belong together.

use std::collections::HashMap;

use crate::types::ConnectionId;

/// Each connection's partner. Each pair is in it twice.
#[derive(Default)]
pub(crate) struct Pairs(HashMap<ConnectionId, ConnectionId>);

impl Pairs {
    /// Pairs these two. Their earlier partners become single.
    pub(crate) fn join(&mut self, one: ConnectionId, other: ConnectionId) {
        self.part(one);
        self.part(other);
        self.0.insert(one, other);
        self.0.insert(other, one);
    }

    pub(crate) fn of(&self, id: ConnectionId) -> Option<ConnectionId> {
        if self.0.is_empty() {
            return None;
        }
        self.0.get(&id).copied()
    }

    /// Ends the pair of this connection; returns its former partner.
    pub(crate) fn part(&mut self, id: ConnectionId) -> Option<ConnectionId> {
        if self.0.is_empty() {
            return None;
        }
        let partner = self.0.remove(&id)?;
        self.0.remove(&partner);
        Some(partner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_in_two_pairs() {
        let id = |slot| ConnectionId { slot, generation: 0 };
        let mut pairs = Pairs::default();
        pairs.join(id(1), id(2));
        pairs.join(id(2), id(3));
        assert_eq!([1, 2, 3].map(|slot| pairs.of(id(slot))), [None, Some(id(3)), Some(id(2))]);
        assert_eq!((pairs.part(id(3)), pairs.part(id(2))), (Some(id(2)), None));
    }
}
