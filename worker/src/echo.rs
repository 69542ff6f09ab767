//! Echo: sends back what it receives. Large input goes out from the buffer it came in, without being copied.

use baton::{Io, Peer, Protocol, Reject, Step};

/// The echo protocol (RFC 862, over TCP).
#[derive(Clone, Copy, Debug, Default)]
pub struct Echo;

impl Protocol for Echo {
    type Connection = ();
    type Message = ();

    fn on_open(&mut self, _: Peer<'_>, _: &mut Io<'_>) -> Result<(), Reject> {
        Ok(())
    }

    fn on_data(&mut self, (): &mut (), input: &[u8], io: &mut Io<'_>) -> Step {
        io.write_input(input);
        io.count_requests(1);
        Step::more(input.len())
    }
}

#[cfg(test)]
mod tests {
    use baton::testing::output_of_all_splits;

    use super::Echo;

    #[test]
    fn everything_comes_back_in_order() {
        assert_eq!(output_of_all_splits(|| Echo, b"some bytes, \0 and \xff"), b"some bytes, \0 and \xff");
    }
}
