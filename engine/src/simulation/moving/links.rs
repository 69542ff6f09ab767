//! Channels between workers: ordered, bounded, with an end that is seen after all earlier messages.

use std::collections::VecDeque;

use super::connections::{Snapshot, SocketId};
use crate::handover::Refusal;

/// Messages that fit into a channel.
const CAPACITY: usize = 2;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    Offer { batch: u64, members: Vec<(SocketId, Snapshot)> },
    Takes { batch: u64, refused: Vec<(usize, Refusal)>, open: u64 },
    Gives { batch: u64, members: Vec<SocketId> },
    State,
    StateTaken { refused: Option<Refusal> },
    End,
}

/// One direction.
#[derive(Clone, Debug, Default)]
pub(super) struct Pipe {
    /// Sent, but not in the channel yet.
    pub(super) outgoing: VecDeque<Message>,
    /// In flight; a step delivers it.
    pub(super) flying: VecDeque<Message>,
    /// Delivered, and not read.
    pub(super) inbox: VecDeque<Message>,
    /// The sender has closed it, or has ended.
    pub(super) is_ended: bool,
}

impl Pipe {
    /// Puts as many messages into the channel as fit.
    pub(super) fn flush(&mut self) {
        while self.flying.len() + self.inbox.len() < CAPACITY
            && let Some(message) = self.outgoing.pop_front()
        {
            self.flying.push_back(message);
        }
    }

    pub(super) fn end(&mut self) {
        if !std::mem::replace(&mut self.is_ended, true) {
            self.outgoing.clear();
            self.flying.push_back(Message::End);
        }
    }

    pub(super) fn deliver(&mut self) {
        self.inbox.extend(self.flying.pop_front());
    }

    pub(super) fn messages(&self) -> impl Iterator<Item = &Message> {
        self.flying.iter().chain(&self.inbox)
    }
}

/// A channel from a worker that brings connections to one that takes them.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) up: Pipe,
    pub(super) down: Pipe,
    /// The receiver has accepted the channel.
    pub(super) is_accepted: bool,
}

impl Link {
    pub(super) fn new(from: usize, to: usize) -> Self {
        Self { from, to, up: Pipe::default(), down: Pipe::default(), is_accepted: false }
    }
}
