//! All connections of a worker except those whose callbacks are running.

use super::Connection;
use crate::context::{Act, Context, Others, Unreachable};
use crate::types::{CloseReason, ConnectionId};

/// A place for a connection.
pub(crate) trait Place {
    type State: 'static;

    /// The connection, if it is here under this id.
    fn reach(&mut self, id: ConnectionId) -> Result<&mut Connection<Self::State>, Unreachable>;
}

/// Consecutive places.
struct Row<'a, T> {
    start: u32,
    places: &'a mut [T],
}

impl<'a, T> Row<'a, T> {
    fn again(&mut self) -> Row<'_, T> {
        Row { start: self.start, places: self.places }
    }

    /// The places before a slot, the slot's own, and those after it.
    #[inline]
    fn split(self, slot: u32) -> Option<(Self, &'a mut T, Self)> {
        let index = slot.checked_sub(self.start)? as usize;
        if index >= self.places.len() {
            return None;
        }
        let (before, rest) = self.places.split_at_mut(index);
        let (own, behind) = rest.split_first_mut()?;
        Some((Row { start: self.start, places: before }, own, Row { start: slot + 1, places: behind }))
    }
}

/// The other connections. This is created for every callback, so it is not larger than two slices.
pub(crate) struct Rest<'a, T> {
    before: Row<'a, T>,
    behind: Row<'a, T>,
    /// The connections outside these rows.
    outer: Option<&'a mut dyn Others>,
}

impl<'a, T> Rest<'a, T> {
    /// All of them.
    pub(crate) fn all(places: &'a mut [T]) -> Self {
        Self { before: Row { start: 0, places }, behind: Row { start: 0, places: &mut [] }, outer: None }
    }

    /// The place of `slot`, and all others.
    #[inline]
    pub(crate) fn split(places: &'a mut [T], slot: u32) -> Option<(&'a mut T, Self)> {
        let (before, own, behind) = Row { start: 0, places }.split(slot)?;
        Some((own, Self { before, behind, outer: None }))
    }
}

impl<T: Place> Others for Rest<'_, T> {
    fn act(&mut self, id: ConnectionId, context: &mut Context, act: Act<'_>) -> Result<(), Unreachable> {
        let Self { before, behind, outer } = self;
        let is_before = id.slot.wrapping_sub(before.start) < before.places.len() as u32;
        let (row, other) = if is_before { (before, behind) } else { (behind, before) };
        let Some((before, place, behind)) = row.again().split(id.slot) else {
            return match outer {
                Some(outer) => outer.act(id, context, act),
                // Only connections whose callbacks are running remain, and slots that were never used.
                None => Err(Unreachable::Busy),
            };
        };
        let connection = place.reach(id)?;
        let nobody: &mut [T] = &mut [];
        let mut outside = Rest {
            before: other.again(),
            behind: Row { start: 0, places: nobody },
            outer: outer.as_deref_mut().map(|outer| outer as _),
        };
        let done = connection.act(context, &mut Rest { before, behind, outer: Some(&mut outside) }, act);
        if done.is_ok() {
            context.touched.push(id.slot);
        }
        done
    }
}

impl<S: 'static> Connection<S> {
    /// Another callback acts on this connection.
    fn act(&mut self, context: &mut Context, others: &mut dyn Others, act: Act<'_>) -> Result<(), Unreachable> {
        if self.is_frozen() {
            return Err(Unreachable::Moving);
        }
        if !self.is_open() || self.state.is_none() {
            return Err(Unreachable::Gone);
        }
        self.call(context, others, CloseReason::Protocol, |state, io| act(state, io));
        Ok(())
    }
}
