//! Measures how fast records are sealed and opened, compared with rustls's buffered connection: bytes per second of
//! processor time.
//!
//! `cargo run --release -p baton-tls --example throughput [part of a suite's name]`

use std::io::{self, Read as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use baton_tls::accept::{Accepted, Config, Progress};
use baton_tls::record::{Limits, Session, Window};
use nix::time::{ClockId, clock_gettime};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
use rustls::{CipherSuite, ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

type Failure = Box<dyn std::error::Error>;

/// Bytes of plaintext of a batch, which is sealed and then opened.
const BATCH_BYTES: usize = 256 * 1024;

/// Processor time of a measurement.
const TIME: Duration = Duration::from_millis(250);

const ROUNDS: usize = 3;

fn main() -> Result<(), Failure> {
    let suites = [
        CipherSuite::TLS13_AES_128_GCM_SHA256,
        CipherSuite::TLS13_AES_256_GCM_SHA384,
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ];
    let wanted = std::env::args().nth(1).unwrap_or_default();
    let suites: Vec<_> = suites.into_iter().filter(|suite| format!("{suite:?}").contains(&wanted)).collect();
    println!(
        "a session takes {} bytes, and the keys of both directions beside it while it does not rest",
        size_of::<Session>()
    );
    for &suite in &suites {
        println!("{suite:?}: {:.1} µs for both keys after a rest", after_rest(suite)?.as_secs_f64() * 1e6);
    }
    println!("MB per processor second, median of {ROUNDS} rounds that alternate");
    println!(
        "{:46} {:>7} {:>9} {:>9} {:>7} {:>9} {:>9} {:>7}",
        "suite", "record", "seal", "rustls", "ratio", "open", "rustls", "ratio"
    );
    for suite in suites {
        for record_bytes in [16 * 1024, 1400, 100] {
            let mut rates: [Vec<f64>; 4] = Default::default();
            for _ in 0..ROUNDS {
                let ours = of_sessions(suite, record_bytes)?;
                let theirs = of_rustls(suite, record_bytes)?;
                for (rates, rate) in rates.iter_mut().zip([ours.0, theirs.0, ours.1, theirs.1]) {
                    rates.push(rate);
                }
            }
            let [seal, their_seal, open, their_open] = rates.map(|mut rates| {
                rates.sort_by(f64::total_cmp);
                rates[ROUNDS / 2]
            });
            let (seal_ratio, open_ratio) = (seal / their_seal, open / their_open);
            println!(
                "{:46} {record_bytes:>7} {seal:>9.0} {their_seal:>9.0} {seal_ratio:>7.2} {open:>9.0} {their_open:>9.0} {open_ratio:>7.2}",
                format!("{suite:?}"),
            );
        }
    }
    Ok(())
}

/// The processed bytes, and the processor time for them.
#[derive(Default)]
struct Meter {
    bytes: usize,
    spent: Duration,
}

impl Meter {
    fn run<T>(&mut self, bytes: usize, work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
        let start = processor_time()?;
        let done = work();
        self.spent += processor_time()? - start;
        self.bytes += bytes;
        done
    }

    fn rate(&self) -> f64 {
        self.bytes as f64 / self.spent.as_secs_f64() / 1e6
    }
}

fn processor_time() -> Result<Duration, Failure> {
    Ok(Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?))
}

/// The additional time of each direction's first record after a rest, for both directions.
fn after_rest(suite: CipherSuite) -> Result<Duration, Failure> {
    const TIMES: u32 = 20_000;
    let (mut client, server) = configs(suite)?;
    let mut session = accept(&mut client, Config::new(server, Limits::default()))?;
    let mut output = Vec::new();
    let mut spent = [Duration::ZERO; 2];
    for (rests, spent) in spent.iter_mut().enumerate() {
        let start = processor_time()?;
        for _ in 0..TIMES {
            if rests > 0 {
                session.rest();
            }
            output.clear();
            session.seal_into(b"x", &mut output)?;
        }
        *spent = processor_time()? - start;
    }
    Ok(2 * (spent[1].saturating_sub(spent[0])) / TIMES)
}

/// Sealing and opening by a session, with plaintext in parts of `record_bytes`.
fn of_sessions(suite: CipherSuite, record_bytes: usize) -> Result<(f64, f64), Failure> {
    let (mut client, server) = configs(suite)?;
    let mut session = accept(&mut client, Config::new(server, Limits::default()))?;
    let plaintext = vec![7; record_bytes];
    let count = BATCH_BYTES / record_bytes;
    let (mut sealed, mut received, mut sink) = (Vec::new(), Vec::new(), vec![0; record_bytes]);
    let (mut seal, mut open) = (Meter::default(), Meter::default());
    while seal.spent < TIME || open.spent < TIME {
        sealed.clear();
        seal.run(count * record_bytes, || {
            (0..count).try_for_each(|_| session.seal_into(&plaintext, &mut sealed)).map_err(Into::into)
        })?;
        assert_eq!(sealed.len(), count * (record_bytes + session.overhead_bytes()));
        take(&mut client, &sealed, &mut sink)?;
        send(&mut client, &plaintext, count, &mut received)?;
        // As in the engine: records are opened in place, and the application reads them there.
        let mut window = Window::default();
        open.run(count * record_bytes, || {
            session.open_all(&mut received, &mut window)?;
            sink[..].copy_from_slice(&received[window.plaintext.clone()][..record_bytes]);
            Ok(())
        })?;
        assert_eq!(window.plaintext.len(), count * record_bytes);
    }
    Ok((seal.rate(), open.rate()))
}

/// The same by rustls.
fn of_rustls(suite: CipherSuite, record_bytes: usize) -> Result<(f64, f64), Failure> {
    let (mut client, server) = configs(suite)?;
    let mut server = ServerConnection::new(Arc::new(server))?;
    while client.is_handshaking() || server.is_handshaking() {
        client.write_tls(&mut Pipe(&mut server))?;
        server.process_new_packets()?;
        let mut bytes = Vec::new();
        server.write_tls(&mut bytes)?;
        client.read_tls(&mut &bytes[..])?;
        client.process_new_packets()?;
    }
    let plaintext = vec![7; record_bytes];
    let count = BATCH_BYTES / record_bytes;
    let (mut sealed, mut received, mut sink) = (Vec::new(), Vec::new(), vec![0; record_bytes]);
    let (mut seal, mut open) = (Meter::default(), Meter::default());
    while seal.spent < TIME || open.spent < TIME {
        sealed.clear();
        seal.run(count * record_bytes, || {
            for _ in 0..count {
                server.writer().write_all(&plaintext)?;
                server.write_tls(&mut sealed)?;
            }
            Ok(())
        })?;
        take(&mut client, &sealed, &mut sink)?;
        send(&mut client, &plaintext, count, &mut received)?;
        open.run(count * record_bytes, || {
            let mut rest = &received[..];
            while !rest.is_empty() {
                server.read_tls(&mut rest)?;
                server.process_new_packets()?;
                while server.reader().read(&mut sink).is_ok_and(|read| read > 0) {}
            }
            Ok(())
        })?;
    }
    Ok((seal.rate(), open.rate()))
}

fn accept(client: &mut ClientConnection, config: Config) -> Result<Session, Failure> {
    let mut handshake = config.begin()?;
    let mut input = Vec::new();
    loop {
        client.write_tls(&mut input)?;
        let mut output = Vec::new();
        let (consumed, progress) = handshake.advance(&mut input, &mut output);
        input.drain(..consumed);
        match progress {
            Progress::Incomplete(one) => handshake = one,
            Progress::Accepted(Accepted::Session(session, _)) => {
                take(client, &output, &mut [0; 16])?;
                return Ok(*session);
            }
            other => return Err(format!("{other:?}").into()),
        }
        take(client, &output, &mut [0; 16])?;
    }
}

/// Replaces `sent` with this many records.
fn send(client: &mut ClientConnection, plaintext: &[u8], count: usize, sent: &mut Vec<u8>) -> Result<(), Failure> {
    sent.clear();
    for _ in 0..count {
        client.writer().write_all(plaintext)?;
        client.write_tls(sent)?;
    }
    Ok(())
}

fn take(client: &mut ClientConnection, mut bytes: &[u8], sink: &mut [u8]) -> Result<(), Failure> {
    while !bytes.is_empty() {
        client.read_tls(&mut bytes)?;
        client.process_new_packets()?;
        while client.reader().read(sink).is_ok_and(|read| read > 0) {}
    }
    Ok(())
}

fn configs(suite: CipherSuite) -> Result<(ClientConnection, ServerConfig), Failure> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|one| one.suite() == suite);
    let provider = Arc::new(provider);
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone())?;
    let client = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let client = client.with_root_certificates(roots).with_no_client_auth();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()).into();
    let server = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let server = server.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key)?;
    Ok((ClientConnection::new(Arc::new(client), ServerName::try_from("localhost")?)?, server))
}

/// Writes into the input of a server.
struct Pipe<'a>(&'a mut ServerConnection);

impl io::Write for Pipe<'_> {
    fn write(&mut self, mut bytes: &[u8]) -> io::Result<usize> {
        self.0.read_tls(&mut bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
