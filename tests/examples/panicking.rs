//! An HTTP server that tells which of its processes answers, and has a handler that panics.

use std::net::SocketAddr;
use std::path::PathBuf;

use baton::config::{Control, Settings};
use baton::{Server, ServerError};
use baton_http::{Http, HttpConfig, Router};
use clap::Parser;

#[derive(Parser)]
struct Arguments {
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    control: PathBuf,
    #[arg(long)]
    workers: usize,
}

fn main() -> Result<(), ServerError> {
    let Arguments { listen, control, workers } = Arguments::parse();
    let router = || {
        Router::new()
            .get("/", |_, _, reply| reply.text(itoa::Buffer::new().format(std::process::id())))
            .get("/panic", |_, _, _| panic!("as asked"))
    };
    let settings =
        Settings { listen: vec![listen.into()], workers, control: Control::At(control), ..Settings::default() };
    let http = |_slot| Http::new(&HttpConfig::default(), router(), ());
    Server::builder().settings(settings).build()?.run(http)
}
