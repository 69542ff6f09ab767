//! The last few request heads with what they mean: clients repeat themselves, and equal bytes parse equally.
//!
//! Invariant: an entry is a whole head without a body, with its empty line. So input that begins with an entry's bytes
//! begins with that very head, whatever follows; half a head never matches.

use super::head::{Framing, Head, Request};
use super::route::Action;

/// Heads remembered.
const ENTRIES_MAX: usize = 5;

/// Longer heads are not remembered.
const HEAD_BYTES_MAX: usize = 512;

struct Entry {
    head: Vec<u8>,
    request: Request,
}

/// See the module's head.
pub(super) struct Memo {
    /// The last one used is the first.
    entries: Vec<Entry>,
    is_on: bool,
}

impl Memo {
    pub(super) fn new(is_on: bool) -> Self {
        Self { entries: Vec::with_capacity(ENTRIES_MAX), is_on }
    }

    /// The known head that `input` begins with.
    #[inline]
    pub(super) fn find(&mut self, input: &[u8]) -> Option<(&[u8], Request)> {
        let is_first = self.entries.first().is_some_and(|entry| input.starts_with(&entry.head));
        if !is_first {
            self.bring_forward(input)?;
        }
        self.entries.first().map(|entry| (&entry.head[..], entry.request))
    }

    fn bring_forward(&mut self, input: &[u8]) -> Option<()> {
        let place = self.entries.iter().skip(1).position(|entry| input.starts_with(&entry.head))? + 1;
        self.entries[..=place].rotate_right(1);
        Some(())
    }

    /// Remembers a head just parsed from the start of `input`, if it is of the kind.
    pub(super) fn remember(&mut self, input: &[u8], head: &Head<'_>) {
        // An echo's answer depends on its content type, which is not kept here.
        let has_body =
            head.framing != Framing::Length(0) || head.expects_continue || head.request.action == Action::Echo;
        if !self.is_on || has_body || head.length > HEAD_BYTES_MAX {
            return;
        }
        if self.entries.len() < ENTRIES_MAX {
            self.entries.push(Entry { head: Vec::with_capacity(HEAD_BYTES_MAX), request: head.request });
        }
        self.entries.rotate_right(1);
        let entry = &mut self.entries[0];
        entry.head.clear();
        entry.head.extend_from_slice(&input[..head.length]);
        entry.request = head.request;
    }
}
