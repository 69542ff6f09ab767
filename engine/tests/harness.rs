//! The harness continues until nothing is left to do.

use baton::testing::Harness;
use baton::{ConnectionId, Io, Next, Peer, Protocol, Reject, Step, Worker};

/// Wakes a connection some turns after the request for it.
#[derive(Default)]
struct Later {
    waiting: Option<(ConnectionId, usize)>,
}

impl Protocol for Later {
    type Connection = ();
    type Message = ();

    fn on_open(&mut self, _: Peer<'_>, _: &mut Io<'_>) -> Result<(), Reject> {
        Ok(())
    }

    fn on_data(&mut self, (): &mut (), input: &[u8], io: &mut Io<'_>) -> Step {
        self.waiting = Some((io.id(), 2));
        Step::more(input.len())
    }

    fn on_wake(&mut self, (): &mut (), io: &mut Io<'_>) -> Next {
        io.write(b"woken");
        Next::Keep
    }

    fn on_turn_end(&mut self, worker: &mut Worker<'_, ()>) {
        match self.waiting.take() {
            Some((id, 1)) => worker.wake(id),
            waiting => self.waiting = waiting.map(|(id, turns)| (id, turns - 1)),
        }
    }
}

#[test]
fn what_the_end_of_a_turn_asks_for_is_done() {
    let mut harness = Harness::new(Later::default());
    let client = harness.open();
    harness.send(client, b"later");
    assert_eq!(harness.take_output(client), b"woken");
}
