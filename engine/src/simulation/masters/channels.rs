//! Channels between processes: ordered, bounded, with an end. Messages on their way to a process that dies are lost;
//! messages that it sent before are delivered.

use std::collections::VecDeque;

use super::kernel::{ConnectionKey, Key};
use crate::ipc::orders::{Order, Report};
use crate::ipc::relay::{ToNew, ToOld};
use crate::master::core::{ArrivalId, ProcessId};

pub(super) type ChannelId = u32;

/// The most messages that wait in one direction between a master and a worker.
pub(super) const MESSAGES_MAX: usize = 12;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Message {
    /// May carry a copy of a listen socket, or of a connection.
    Order(Order, Option<Key>, Option<(ConnectionKey, ArrivalId)>),
    Report(Report, Option<Key>),
    ToNew(ToNew),
    ToOld(ToOld),
    Listeners(Vec<Key>),
    /// A connection, for the other master of an upgrade.
    Arrival(ConnectionKey),
    /// A message that no receiver understands.
    Garbage,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Letter {
    /// Identifies this letter as the holder of what it carries.
    pub(super) number: u32,
    pub(super) message: Message,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Channel {
    pub(super) ends: [ProcessId; 2],
    pub(super) is_closed: [bool; 2],
    /// Number of letters sent so far, in both directions.
    pub(super) letters: u32,
    /// Letters on their way to each end.
    pub(super) queues: [VecDeque<Letter>; 2],
}

impl Channel {
    pub(super) fn new(one: ProcessId, other: ProcessId) -> Self {
        Self { ends: [one, other], is_closed: [false; 2], letters: 0, queues: [VecDeque::new(), VecDeque::new()] }
    }

    /// The index of the end that a process has.
    pub(super) fn end_of(&self, process: ProcessId) -> usize {
        usize::from(self.ends[0] != process)
    }

    /// Whether something can be received there: a message, or the end.
    pub(super) fn has_news(&self, process: ProcessId) -> bool {
        let end = self.end_of(process);
        !self.queues[end].is_empty() || self.is_closed[1 - end]
    }

    pub(super) fn has_message(&self, process: ProcessId) -> bool {
        !self.queues[self.end_of(process)].is_empty()
    }
}
