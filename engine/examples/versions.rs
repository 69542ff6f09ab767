//! Upgrades across versions of a protocol's state: connections stay, and keep their state.
//!
//! Each line is a number; the answer is the sum of all numbers so far on this connection. Later releases also count the
//! numbers, so that a client can ask for the `mean`. Here the three releases are one program; in reality they are three.
//!
//! ```text
//! $ cargo build -p baton-engine --example versions -p batonctl
//! $ target/debug/examples/versions --release 1 --control /tmp/versions.sock &
//! $ nc 127.0.0.1 7002
//! 5
//! 5
//!                                 $ target/debug/batonctl --control /tmp/versions.sock upgrade -- --release 2 --control /tmp/versions.sock
//! 7
//! 12                              the same connection, served by release 2
//! ```
//!
//! How to change the state of a protocol that is in use:
//!
//! 1. Release 1 writes version 1, and reads it.
//! 2. Release 2 reads versions 1 and 2, and still writes version 1. So it can be reverted to release 1, which knows no
//!    other version.
//! 3. Release 3 reads both and writes version 2. It can be reverted to release 2. An upgrade back to release 1 is refused,
//!    because release 1 cannot read version 2. With `--allow state` it is done, and the connections get the goodbye.
//!
//! If you never need to revert, or if goodbyes are acceptable then, leave release 2 out: from 1 to 3 all connections move.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use baton::config::{Control, Settings, Timeouts};
use baton::{CannotFreeze, Drain, Io, Next, Peer, Protocol, Reject, Server, Service, StateFormat, Step, ThawError};
use clap::Parser;

/// The state of a connection. `count` is new in release 2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    sum: i64,
    /// Numbers that were added, as far as is known: earlier releases than 2 did not count them.
    count: u64,
}

impl Tally {
    fn to_version_1(self) -> Vec<u8> {
        self.sum.to_le_bytes().to_vec()
    }

    fn to_version_2(self) -> Vec<u8> {
        [self.sum.to_le_bytes(), self.count.to_le_bytes()].concat()
    }

    fn from_version_1(state: &[u8]) -> Option<Self> {
        Some(Self { sum: i64::from_le_bytes(state.try_into().ok()?), count: 0 })
    }

    fn from_version_2(state: &[u8]) -> Option<Self> {
        let (sum, count) = state.split_first_chunk::<8>()?;
        Some(Self { sum: i64::from_le_bytes(*sum), count: u64::from_le_bytes(count.try_into().ok()?) })
    }
}

struct Tallies<const RELEASE: u32>;

impl<const RELEASE: u32> Protocol for Tallies<RELEASE> {
    type Connection = Tally;
    type Message = ();

    fn on_open(&mut self, _: Peer<'_>, _: &mut Io<'_>) -> Result<Tally, Reject> {
        Ok(Tally::default())
    }

    fn on_data(&mut self, tally: &mut Tally, input: &[u8], io: &mut Io<'_>) -> Step {
        let mut consumed = 0;
        while let Some(length) = input[consumed..].iter().position(|byte| *byte == b'\n') {
            if io.is_full() {
                return Step::yield_now(consumed);
            }
            let line = input[consumed..consumed + length].trim_ascii();
            consumed += length + 1;
            match str::from_utf8(line).ok().map(|line| (line, line.parse::<i64>())) {
                Some((_, Ok(number))) => {
                    tally.sum = tally.sum.wrapping_add(number);
                    tally.count = tally.count.saturating_add(1);
                    let _ = writeln!(io, "{}", tally.sum);
                }
                Some(("mean", _)) if RELEASE >= 2 => {
                    let _ = writeln!(io, "{}", tally.sum as f64 / tally.count.max(1) as f64);
                }
                _ => io.write(b"error: a number is needed\n"),
            }
        }
        Step::more(consumed)
    }

    fn on_drain(&mut self, _: &mut Tally, _: Duration, _: &[u8], io: &mut Io<'_>) -> Drain {
        io.write(b"bye\n");
        Drain::Close
    }

    /// The version that this release writes.
    const STATE: Option<StateFormat> = Some(StateFormat { name: "tallies", version: if RELEASE >= 3 { 2 } else { 1 } });

    /// The versions that it reads in addition. Release 2 reads the next version already, so that release 3 can be
    /// reverted to it.
    const STATE_READS: &'static [u32] = match RELEASE {
        0 | 1 => &[],
        2 => &[2],
        _ => &[1],
    };

    fn freeze(&mut self, tally: &Tally, state: &mut Vec<u8>) -> Result<(), CannotFreeze> {
        state.extend(if RELEASE >= 3 { tally.to_version_2() } else { tally.to_version_1() });
        Ok(())
    }

    fn thaw(&mut self, version: u32, state: &[u8], _: Peer<'_>, _: &mut Io<'_>) -> Result<Tally, ThawError> {
        let tally = match version {
            1 => Tally::from_version_1(state),
            2 if RELEASE >= 2 => Tally::from_version_2(state),
            _ => return Err(ThawError::Version(version)),
        };
        tally.ok_or(ThawError::Malformed)
    }

    fn on_eof(&mut self, _: &mut Tally, _: &[u8], _: &mut Io<'_>) -> Next {
        Next::Close
    }
}

#[derive(Clone, Parser)]
#[command(about = "Sums, served by one of three releases of a protocol")]
struct Arguments {
    /// Which release this is
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=3))]
    release: u32,
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1:7002", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// Socket for batonctl
    #[arg(long, default_value = "/tmp/versions.sock", value_name = "PATH")]
    control: PathBuf,
    /// Write the master's process id to this file
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Worker processes
    #[arg(long, default_value_t = 1)]
    workers: usize,
}

impl Arguments {
    fn settings(&self) -> Settings {
        Settings {
            listen: vec![self.listen.into()],
            workers: self.workers,
            control: Control::At(self.control.clone()),
            pid_file: self.pid_file.clone(),
            // A person who adds up by hand needs time.
            timeouts: Timeouts { idle_ms: 0, message_ms: 0, ..Timeouts::default() },
            ..Settings::default()
        }
    }

    fn service(&self) -> Service<'static> {
        match self.release {
            1 => Service::new(|_slot| Tallies::<1>),
            2 => Service::new(|_slot| Tallies::<2>),
            _ => Service::new(|_slot| Tallies::<3>),
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let server = Server::builder().settings(arguments.settings()).build();
    let reload = || Ok((arguments.settings(), arguments.service()));
    match server.and_then(|server| server.run_with_reload(arguments.service(), reload)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("versions: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use baton::testing::{Harness, output_of_all_handovers};

    use super::*;

    /// The answer of a connection that moves from one release to another in the middle of a line.
    fn across<const FROM: u32, const TO: u32>() -> Option<Vec<u8>> {
        let mut harness = Harness::new(Tallies::<FROM>);
        let client = harness.open();
        harness.send(client, b"5\n7\n1");
        let mut harness = harness.hand_over_to(Tallies::<TO>).ok()?;
        harness.send(client, b"0\nmean\n");
        Some(harness.take_output(client))
    }

    #[test]
    fn a_connection_is_the_same_however_often_it_moves() {
        let output = output_of_all_handovers(|| Tallies::<1>, b"5\n7\n-2\nx\n");
        assert_eq!(output, b"5\n12\n10\nerror: a number is needed\n");
    }

    #[test]
    fn state_that_nobody_wrote_is_harmless() {
        let mut harness = Harness::new(Tallies::<3>);
        let state = Tally { sum: i64::MIN, count: u64::MAX }.to_version_2();
        let client = harness.take_over(2, &state, b"-1\nmean\n", &[]).expect("understood");
        let mean = i64::MAX as f64 / u64::MAX as f64;
        assert_eq!(harness.take_output(client), format!("{}\n{mean}\n", i64::MAX).into_bytes());
        for (version, state) in [(2, &state[1..]), (1, &state[..]), (1, &[][..])] {
            assert!(matches!(harness.take_over(version, state, b"", &[]).err(), Some(ThawError::Malformed)));
        }
        assert!(matches!(harness.take_over(3, &state, b"", &[]).err(), Some(ThawError::Version(3))));
    }

    #[test]
    fn every_upgrade_moves_and_every_revert_by_one_release() {
        assert_eq!(across::<1, 2>().expect("moved"), b"5\n12\n22\n22\n", "one was counted since");
        assert_eq!(across::<2, 3>().expect("moved"), b"5\n12\n22\n22\n");
        assert_eq!(across::<1, 3>().expect("moved"), b"5\n12\n22\n22\n");
        assert_eq!(across::<2, 1>().expect("moved"), b"5\n12\n22\nerror: a number is needed\n");
        assert_eq!(across::<3, 2>().expect("moved").as_slice(), b"5\n12\n22\n7.333333333333333\n");
        assert_eq!(across::<3, 1>(), None, "version 2 is not known there");
    }
}
