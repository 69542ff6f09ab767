//! Echo: sends back what it receives. Large input is sent from the buffer in which it arrived, without being copied.

use baton::{CannotFreeze, Io, Peer, Protocol, Reject, StateFormat, Step, SystemCalls, ThawError};

/// The echo protocol (RFC 862, over TCP).
#[derive(Clone, Copy, Debug, Default)]
pub struct Echo;

impl Protocol for Echo {
    type Connection = ();
    type Message = ();

    const SYSTEM_CALLS: SystemCalls = SystemCalls::ServeOnly;

    fn on_open(&mut self, _: Peer<'_>, _: &mut Io<'_>) -> Result<(), Reject> {
        Ok(())
    }

    fn on_data(&mut self, (): &mut (), input: &[u8], io: &mut Io<'_>) -> Step {
        io.write_input(input);
        io.count_requests(1);
        Step::more(input.len())
    }

    /// The engine moves the bytes that are still to be sent, so there is nothing to write.
    const STATE: Option<StateFormat> = Some(StateFormat { name: "echo", version: 1 });

    fn freeze(&mut self, (): &(), _: &mut Vec<u8>) -> Result<(), CannotFreeze> {
        Ok(())
    }

    fn thaw(&mut self, version: u32, state: &[u8], _: Peer<'_>, _: &mut Io<'_>) -> Result<(), ThawError> {
        match (version, state) {
            (1, []) => Ok(()),
            (1, _) => Err(ThawError::Malformed),
            _ => Err(ThawError::Version(version)),
        }
    }
}

#[cfg(test)]
mod tests {
    use baton::testing::{output_of_all_handovers, output_of_all_splits};

    use super::Echo;

    #[test]
    fn everything_comes_back_in_order() {
        assert_eq!(output_of_all_splits(|| Echo, b"some bytes, \0 and \xff"), b"some bytes, \0 and \xff");
    }

    #[test]
    fn handed_over_at_any_point_nothing_is_lost() {
        let input: Vec<u8> = (0..5000_u32).map(|index| (index * 7) as u8).collect();
        assert_eq!(output_of_all_handovers(|| Echo, &input), input);
    }
}
