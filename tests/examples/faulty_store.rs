//! The example `resp`, which ends itself or its master at a step of a handover that a test names; see `faulty`.

#[path = "../../engine/examples/resp/service/mod.rs"]
mod service;

use std::net::SocketAddr;
use std::path::PathBuf;

use baton::config::{Control, Sandbox, Settings};
use baton::{Server, ServerError, Service};
use clap::Parser;

#[derive(Parser)]
struct Arguments {
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    control: PathBuf,
    #[arg(long)]
    pid_file: PathBuf,
}

fn main() -> Result<(), ServerError> {
    let Arguments { listen, control, pid_file } = Arguments::parse();
    let (control, pid_file) = (Control::At(control), Some(pid_file));
    // Steps send signals, which a worker cannot.
    let sandbox = Sandbox::Off;
    let settings = Settings { listen: vec![listen.into()], control, pid_file, sandbox, ..Settings::default() };
    let store = || Service::new(|_slot| service::Service::default());
    let reload = || Ok((settings.clone(), store()));
    Server::builder().settings(settings.clone()).build()?.run_with_reload(store(), reload)
}
