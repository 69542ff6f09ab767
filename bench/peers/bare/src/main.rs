//! `bare`: what the kernel permits. A server of one thread, on io_uring or on epoll, that does the least a server can
//! do: it counts the ends of requests in its input and sends that many prepared answers, or sends its input back. For
//! uploads it reads `Content-Length` and counts. Its throughput is the mark for real servers: the distance is the cost
//! of parsing, limits and bookkeeping.
//!
//! It is not a server to use. It reads no request, so any request gets the same answer. It has no time-outs, no limits
//! and no protection from bad peers. A peer that pipelines without reading its answers can hold all receive buffers
//! (io_uring), and can get HTTP or RESP answers out of order. Well-behaved load, such as that of wrk, redis-benchmark
//! and `baton-bench`, gets right answers.

#![deny(unsafe_code)]

mod answer;
mod epoll;
mod listener;
#[allow(unsafe_code)]
mod sys;
mod upload;
mod uring;

use std::process::ExitCode;

use clap::{Parser, ValueEnum, error::ErrorKind};

use crate::answer::Answers;

/// The least a server can do: the yardstick for what the kernel permits.
#[derive(Parser)]
struct Options {
    loop_form: Form,
    workload: Workload,
    /// Port on 127.0.0.1
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// Bytes of one receive buffer
    #[arg(long, value_parser = clap::value_parser!(u32).range(64..=1 << 24))]
    buffer_bytes: Option<u32>,
    /// Receive buffers, a power of two; io_uring only, epoll has one
    #[arg(long, value_parser = power_of_two)]
    buffers: Option<u16>,
    /// http: close after the first answer
    #[arg(long)]
    close: bool,
    /// http: a JSON body
    #[arg(long)]
    json: bool,
    /// http: `ok` as body
    #[arg(long)]
    ok: bool,
    /// http: read heads and bodies, and answer with the number of bytes of each body; epoll only
    #[arg(long)]
    upload: bool,
    /// resp: answer each request with what the first SET has set, instead of OK
    #[arg(long)]
    get: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Form {
    Uring,
    Epoll,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Workload {
    Http,
    Echo,
    Resp,
}

fn power_of_two(text: &str) -> Result<u16, String> {
    let count: u16 = text.parse().map_err(|_| "not a number from 1 to 32768".to_owned())?;
    if count.is_power_of_two() { Ok(count) } else { Err("not a power of two".to_owned()) }
}

impl Options {
    fn check(&self) -> Result<(), &'static str> {
        let forms = [self.close, self.json, self.ok, self.upload].into_iter().filter(|is_set| *is_set).count();
        if forms > 0 && self.workload != Workload::Http {
            return Err("--close, --json, --ok and --upload are for http");
        }
        if forms > 1 {
            return Err("--close, --json, --ok and --upload exclude each other");
        }
        if self.upload && matches!(self.loop_form, Form::Uring) {
            return Err("--upload is for epoll: one buffer that stays hot is the mark");
        }
        if self.get && self.workload != Workload::Resp {
            return Err("--get is for resp");
        }
        if self.buffers.is_some() && matches!(self.loop_form, Form::Epoll) {
            return Err("--buffers is for uring: epoll has one buffer");
        }
        Ok(())
    }

    /// `None` for echo and uploads, which have no prepared answers.
    fn answers(&self) -> Option<Answers> {
        match self.workload {
            Workload::Http if self.upload => None,
            Workload::Http => Some(Answers::http(self.body(), self.close)),
            Workload::Resp => Some(Answers::resp(self.get)),
            Workload::Echo => None,
        }
    }
}

impl Options {
    /// The type and the body of each answer.
    fn body(&self) -> (&'static str, &'static str) {
        match () {
            () if self.json => ("application/json", "{\"message\":\"Hello, World!\"}"),
            () if self.ok => ("text/plain", "ok"),
            () => ("text/plain", "Hello, World!"),
        }
    }
}

fn main() -> ExitCode {
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp) => {
            print!("{error}");
            return ExitCode::SUCCESS;
        }
        Err(error) => return usage(error.to_string().trim_start_matches("error: ")),
    };
    if let Err(reason) = options.check() {
        return usage(reason);
    }
    let served = listener::open(options.port).and_then(|(listener, connections_max)| match options.loop_form {
        Form::Uring => {
            let buffers = options.buffers.unwrap_or(uring::BUFFERS);
            let buffer_bytes = options.buffer_bytes.unwrap_or(uring::BUFFER_BYTES);
            let ring = sys::Ring::new(buffers, buffer_bytes, connections_max).map_err(|error| {
                format!("cannot set up io_uring with {buffers} buffers of {buffer_bytes} bytes: {error}")
            })?;
            uring::run(ring, &listener, options.answers())
        }
        Form::Epoll => {
            let service = match options.answers() {
                Some(answers) => epoll::Service::Answers(answers),
                None if options.upload => epoll::Service::Uploads,
                None => epoll::Service::Echo,
            };
            epoll::run(&listener, service, options.buffer_bytes.unwrap_or(epoll::BUFFER_BYTES))
        }
    });
    let Err(reason) = served;
    eprintln!("bare: {reason}");
    ExitCode::FAILURE
}

fn usage(reason: &str) -> ExitCode {
    // The reason can be a paragraph with hints; its first line says what is wrong.
    let reason = reason.split("\n\n").next().unwrap_or(reason).split_whitespace().collect::<Vec<_>>().join(" ");
    eprintln!("bare: {reason}; usage: bare uring|epoll http|echo|resp PORT [options], see --help");
    ExitCode::from(2)
}
