//! Counts the bytes of a body as they arrive.

use baton::CannotFreeze;
use baton_http::{Done, Error, Flow, Out, Receive, Reply, Request, Thawed};

/// The name under which a count moves to another worker.
pub(super) const NAME: &str = "upload";

#[derive(Default)]
pub(super) struct Upload {
    bytes: u64,
}

impl<S: 'static> Receive<S> for Upload {
    fn on_part(&mut self, _: &mut S, part: &[u8], _: Option<&mut Out<'_, '_>>) -> Result<Flow, Error> {
        self.bytes += part.len() as u64;
        Ok(Flow::More)
    }

    fn on_end(self: Box<Self>, _: &mut S, _: &Request<'_>, reply: Reply<'_, '_>) -> Result<Done, Error> {
        reply.text(itoa::Buffer::new().format(self.bytes))
    }

    fn freeze(&self, state: &mut Vec<u8>) -> Result<&'static str, CannotFreeze> {
        state.extend_from_slice(&self.bytes.to_le_bytes());
        Ok(NAME)
    }
}

pub(super) fn thaw<S: 'static>(state: &[u8]) -> Option<Thawed<S>> {
    let bytes = u64::from_le_bytes(state.try_into().ok()?);
    Some(Thawed::Receive(Box::new(Upload { bytes })))
}
