//! The smallest server: sends back what it receives. Try it with `nc 127.0.0.1 7000`.

use baton::{Io, Peer, Protocol, Reject, Server, ServerError, Step};

struct Echo;

impl Protocol for Echo {
    type Connection = ();
    type Message = ();

    fn on_open(&mut self, _: Peer<'_>, _: &mut Io<'_>) -> Result<(), Reject> {
        Ok(())
    }

    fn on_data(&mut self, _: &mut (), input: &[u8], io: &mut Io<'_>) -> Step {
        io.write_input(input);
        Step::more(input.len())
    }
}

fn main() -> Result<(), ServerError> {
    Server::builder().listen(([127, 0, 0, 1], 7000)).workers(2).build()?.run(|_slot| Echo)
}
