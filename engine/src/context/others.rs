//! The other connections of a worker, on which a callback can act.

use std::any::Any;

use super::{Context, Io};
use crate::types::{ConnectionId, Next};

/// Why a callback could not act on another connection ([`Io::with`], [`Worker::with`](crate::Worker::with)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreachable {
    /// It has ended, or that it ends is settled.
    #[error("the connection is gone")]
    Gone,
    /// It is on its way to another worker. Where that one does not take it, it can be reached again.
    #[error("the connection is on its way to another worker")]
    Moving,
    /// One of its own callbacks is running, further out.
    #[error("a callback of the connection is running")]
    Busy,
}

/// The action on a connection's state, of whatever type.
pub(crate) type Act<'a> = &'a mut dyn FnMut(&mut dyn Any, &mut Io<'_>) -> Next;

/// Connections on which callbacks can act.
pub(crate) trait Others {
    /// Calls `act` for the connection, once, and does what it returns.
    fn act(&mut self, id: ConnectionId, context: &mut Context, act: Act<'_>) -> Result<(), Unreachable>;
}

/// A worker without connections.
pub(crate) struct Nobody;

impl Others for Nobody {
    fn act(&mut self, _: ConnectionId, _: &mut Context, _: Act<'_>) -> Result<(), Unreachable> {
        Err(Unreachable::Gone)
    }
}

/// Checks that a callback can act on the connection.
pub(super) fn look(others: &mut dyn Others, context: &mut Context, id: ConnectionId) -> Result<(), Unreachable> {
    let waits_for_room = std::mem::take(&mut context.waits_for_room);
    let done = others.act(id, context, &mut |_, _| Next::Keep);
    context.waits_for_room = waits_for_room;
    done
}

/// Acts on the connection, with a typed state.
pub(super) fn with<C: 'static>(
    others: &mut dyn Others,
    context: &mut Context,
    id: ConnectionId,
    act: impl FnOnce(&mut C, &mut Io<'_>) -> Next,
) -> Result<(), Unreachable> {
    let waits_for_room = std::mem::take(&mut context.waits_for_room);
    let mut act = Some(act);
    let done = others.act(id, context, &mut |state, io| {
        let state = state.downcast_mut().expect("the state is of the type Protocol::Connection");
        act.take().map_or(Next::Keep, |act| act(state, io))
    });
    context.waits_for_room = waits_for_room;
    done
}
