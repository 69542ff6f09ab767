//! An in-memory key-value store that speaks RESP2 and RESP3, on one worker. Strings only. Keys, values and clients stay
//! through reloads (HUP) and upgrades (`batonctl upgrade`).
//!
//! ```text
//! cargo run --release -p baton-engine --example resp -- --listen 127.0.0.1:6380
//! redis-cli -p 6380
//! redis-benchmark -p 6380 -t ping,set,get,incr,mset -P 16
//! ```

mod service;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use baton::config::{Control, Limits, Settings, StateTooLarge, Timeouts};
use baton::{Server, Service};
use clap::Parser;

#[derive(Parser)]
#[command(about = "An in-memory key-value store that speaks RESP2 and RESP3")]
struct Arguments {
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1:6380", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// Socket for batonctl; without it, HUP still reloads
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// Write the master's process id to this file
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Memory for keys and values; where it is used up, commands that could add more are answered with -OOM. 0: no bound
    #[arg(long, default_value_t = 1 << 30, value_name = "BYTES")]
    maxmemory: u64,
    /// Largest store that a reload or an upgrade hands over
    #[arg(long, default_value_t = 1 << 30, value_name = "BYTES")]
    state_bytes_max: u64,
    /// Where the store is larger, begin with an empty one; else reloads and upgrades are refused
    #[arg(long)]
    discard_larger: bool,
}

impl Arguments {
    fn settings(&self) -> Settings {
        Settings {
            listen: vec![self.listen.into()],
            // Workers are processes and share no memory: each would have a separate store.
            workers: 1,
            limits: Limits {
                message_bytes_max: service::REQUEST_BYTES_MAX,
                memory_bytes_max: 4 * service::REQUEST_BYTES_MAX as u64,
                ..Limits::default()
            },
            // Clients hold connections open for hours between requests, so only a request that was begun has a time
            // limit, and a generous one: the largest request takes a while on a slow network.
            timeouts: Timeouts { idle_ms: 0, message_ms: 300_000, ..Timeouts::default() },
            control: self.control.clone().map_or(Control::Off, Control::At),
            pid_file: self.pid_file.clone(),
            state_bytes_max: self.state_bytes_max,
            state_too_large: if self.discard_larger { StateTooLarge::Discard } else { StateTooLarge::Refuse },
            ..Settings::default()
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let maxmemory = arguments.maxmemory;
    let store = || {
        Service::new(move |_slot| {
            let mut service = service::Service::default();
            service.maxmemory = maxmemory;
            service
        })
    };
    let server = Server::builder().settings(arguments.settings()).build();
    match server.and_then(|server| server.run_with_reload(store(), || Ok((arguments.settings(), store())))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("resp: {error}");
            ExitCode::FAILURE
        }
    }
}
