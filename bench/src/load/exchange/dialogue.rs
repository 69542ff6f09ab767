//! The requests and answers of one connection whose bytes the caller sends and receives. Pure.

use super::{Exchange, Progress};
use crate::load::plan::ExchangePlan;

/// See the module's head.
pub(crate) struct Dialogue {
    exchange: Exchange,
    progress: Progress,
    awaited: u32,
    /// Received, but not parsed yet.
    rest: Vec<u8>,
}

impl Dialogue {
    /// `index` distinguishes dialogues, as it does threads of a load.
    pub(crate) fn new(plan: &ExchangePlan, index: usize) -> Self {
        Self { exchange: Exchange::new(plan, index), progress: Progress::default(), awaited: 0, rest: Vec::new() }
    }

    /// This many further requests.
    pub(crate) fn requests(&mut self, count: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.exchange.write(&mut self.progress, 0, count, false, &mut bytes);
        self.awaited += count;
        bytes
    }

    /// How many answers are complete with these bytes.
    ///
    /// # Errors
    /// How an answer was wrong.
    pub(crate) fn answers(&mut self, input: &[u8]) -> Result<u32, String> {
        self.rest.extend_from_slice(input);
        let read = self.exchange.read(&mut self.progress, 0, self.awaited, &self.rest)?;
        self.rest.drain(..read.consumed);
        self.awaited -= read.answers;
        Ok(read.answers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_in_any_pieces_and_no_more_than_were_asked_for() {
        let mut dialogue = Dialogue::new(&ExchangePlan::Echo { payload_bytes: 5 }, 0);
        let bytes = dialogue.requests(2);
        let counts: Result<Vec<u32>, String> = bytes.chunks(3).map(|piece| dialogue.answers(piece)).collect();
        assert_eq!(counts, Ok(vec![0, 1, 0, 1]));
        assert!(dialogue.answers(b"x").is_err());
    }
}
