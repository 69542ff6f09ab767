//! An in-memory key-value store that speaks RESP2 and RESP3, on one worker. Strings only.
//!
//! ```text
//! cargo run --release -p baton --example resp -- --listen 127.0.0.1:6380
//! redis-cli -p 6380
//! redis-benchmark -p 6380 -t ping,set,get,incr,mset -P 16
//! ```

mod service;

use std::net::SocketAddr;
use std::process::ExitCode;

use baton::Server;
use baton::config::{Limits, Timeouts};
use clap::Parser;

#[derive(Parser)]
#[command(about = "An in-memory key-value store that speaks RESP2 and RESP3")]
struct Arguments {
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1:6380", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Clients hold connections open for hours between requests, so only a request that was begun is timed, generously:
    // the largest one takes its time on a slow network.
    let timeouts = Timeouts { idle_ms: 0, message_ms: 300_000, ..Timeouts::default() };
    let limits = Limits { message_bytes_max: service::REQUEST_BYTES_MAX, ..Limits::default() };
    // One worker, since the workers are processes and share no memory: each would be a store of its own.
    let server = Server::builder().listen(arguments.listen).workers(1).limits(limits).timeouts(timeouts).build();
    match server.and_then(|server| server.run(|_slot| service::Service::default())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("resp: {error}");
            ExitCode::FAILURE
        }
    }
}
