//! A protocol that panics when it thaws a connection on which `poison` was sent, and takes long for `slow`. It sends
//! back what it receives.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use baton::config::{Control, Settings, Timeouts};
use baton::{
    CannotFreeze, Drain, Io, Peer, Protocol, Reject, Server, ServerError, Service, StateFormat, Step, ThawError,
};
use clap::Parser;

struct Poisonable;

impl Protocol for Poisonable {
    type Connection = bool;
    type Message = ();

    fn on_open(&mut self, _: Peer<'_>, _: &mut Io<'_>) -> Result<bool, Reject> {
        Ok(false)
    }

    fn on_data(&mut self, is_poison: &mut bool, input: &[u8], io: &mut Io<'_>) -> Step {
        *is_poison |= input == b"poison";
        if input == b"slow" {
            std::thread::sleep(Duration::from_millis(200));
        }
        io.write_input(input);
        Step::more(input.len())
    }

    fn on_drain(&mut self, _: &mut bool, _: Duration, _: &[u8], io: &mut Io<'_>) -> Drain {
        io.write(b"goodbye");
        Drain::Close
    }

    const STATE: Option<StateFormat> = Some(StateFormat { name: "poisonable", version: 1 });

    fn freeze(&mut self, is_poison: &bool, state: &mut Vec<u8>) -> Result<(), CannotFreeze> {
        state.push(u8::from(*is_poison));
        Ok(())
    }

    fn thaw(&mut self, _: u32, state: &[u8], _: Peer<'_>, _: &mut Io<'_>) -> Result<bool, ThawError> {
        assert_eq!(state, [0], "this one is poison");
        Ok(false)
    }
}

#[derive(Parser)]
struct Arguments {
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    control: PathBuf,
    #[arg(long)]
    pid_file: PathBuf,
    #[arg(long, default_value_t = 5000)]
    hang_ms: u64,
}

fn main() -> Result<(), ServerError> {
    let Arguments { listen, control, pid_file, hang_ms } = Arguments::parse();
    let (control, pid_file) = (Control::At(control), Some(pid_file));
    let timeouts = Timeouts { hang_ms, ..Timeouts::default() };
    let settings =
        Settings { listen: vec![listen.into()], workers: 2, timeouts, control, pid_file, ..Settings::default() };
    let service = || Service::new(|_slot| Poisonable);
    let reload = || Ok((settings.clone(), service()));
    Server::builder().settings(settings.clone()).build()?.run_with_reload(service(), reload)
}
