//! Keeps the memory of connections within the worker's budget: see [`Budget`](crate::worker::budget::Budget).

use super::EventLoop;
use crate::protocol::Protocol;
use crate::sys::heap;
use crate::types::ConnectionId;
use crate::worker::budget::Holder;

impl<P: Protocol> EventLoop<P> {
    /// Stops reading a connection that holds much while memory is short.
    #[cold]
    pub(super) fn pause(&mut self, id: ConnectionId) {
        self.context.page.memory_pauses.add(1);
        if self.paused.len() > 2 * self.slab.len() {
            let slab = &self.slab;
            self.paused.retain(|id| slab.peek(*id).is_some());
        }
        self.paused.push(id);
    }

    /// Once per turn: cuts connections, reads paused ones again, gives memory back.
    #[inline]
    pub(super) fn settle_memory(&mut self) {
        if self.budget.is_exceeded() {
            self.cut();
        }
        if self.budget.recovers(self.context.now_ns) {
            self.read_again();
        }
        if self.budget.releases(self.context.now_ns) {
            heap::release_free();
        }
    }

    #[cold]
    fn cut(&mut self) {
        let mut holders = Vec::new();
        for slot in 0..self.slab.slots() {
            let Some(entry) = self.slab.at(slot).filter(|entry| entry.held_bytes > 0 && !entry.custody.is_held())
            else {
                continue;
            };
            let (id, progress_ns) = (entry.connection.id(), entry.connection.progress_ns());
            holders.push(Holder { id, bytes: u64::from(entry.held_bytes), progress_ns });
        }
        let cut = self.budget.cut(holders);
        let (held, count) = (self.budget.held(), cut.len());
        for id in cut {
            if let Some(entry) = self.slab.get(id) {
                entry.connection.cut(&mut self.context);
                self.settle(id.slot);
            }
        }
        self.log_at_times(|slot, context| {
            let limit = context.limits.memory_bytes_max;
            tracing::warn!(slot, held, limit, count, "memory_bytes_max exceeded; the largest connections were cut");
        });
    }

    #[cold]
    fn read_again(&mut self) {
        for id in std::mem::take(&mut self.paused) {
            if let Some(entry) = self.slab.get(id) {
                entry.is_paused = false;
                self.settle(id.slot);
            }
        }
    }
}
