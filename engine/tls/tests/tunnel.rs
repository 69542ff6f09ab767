//! The example `tunnel` as a process, across reloads and upgrades: every byte arrives once, through TLS to a rustls
//! server.

#[path = "../../tests/common/mod.rs"]
mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use baton::control::{Client, GenerationPhase, Outcome, Reply, Request};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{ServerConfig, ServerConnection};
use tempfile::TempDir;

/// Longer than any expected event takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The running example. Dropping it ends the example and all its processes.
struct Tunnel {
    address: SocketAddr,
    control: PathBuf,
    first: Child,
}

impl Tunnel {
    fn start(folder: &Path, upstream: SocketAddr, server_name: &str) -> Self {
        let (control, program) = (folder.join("control"), common::example("tunnel"));
        for _ in 0..5 {
            let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
            let address = free.expect("a free port");
            let mut command = Command::new(&program);
            command.args([address.to_string(), upstream.to_string(), server_name.to_owned()]);
            command.arg("--ca").arg(folder.join("ca.pem")).arg("--control").arg(&control).stdin(Stdio::null());
            let mut first = command.spawn().expect("the example");
            let began = Instant::now();
            while began.elapsed() < PATIENCE && first.try_wait().expect("waited").is_none() {
                if Client::ask(&control, &Request::Status, Some(PATIENCE)).is_ok_and(|reply| serves(&reply)) {
                    return Self { address, control, first };
                }
                thread::sleep(Duration::from_millis(5));
            }
        }
        panic!("the tunnel does not come up");
    }

    /// Sends a request that must succeed.
    ///
    /// # Panics
    /// If it does not.
    fn done(&self, request: &Request) -> Outcome {
        match Client::ask(&self.control, request, Some(PATIENCE)) {
            Ok(Reply::Done(outcome)) => outcome,
            other => panic!("{request:?}: {other:?}"),
        }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        stream
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        let _ = Client::ask(&self.control, &Request::Stop { now: true, deadline_ms: None }, Some(PATIENCE));
        let _ = self.first.kill();
        let _ = self.first.wait();
    }
}

fn serves(reply: &Reply) -> bool {
    let is_serving = |status: &baton::control::Status| {
        status.generations.iter().any(|generation| generation.phase == GenerationPhase::Serving)
    };
    matches!(reply, Reply::Status(status) if is_serving(status))
}

fn upgrade() -> Request {
    Request::Upgrade {
        binary: None,
        arguments: None,
        hold: false,
        probation_ms: None,
        timeout_ms: None,
        allow: Vec::new(),
        keep_connections: true,
    }
}

/// A server that echoes what it receives until the other side ends, and sometimes changes its keys. Its authority is in
/// `ca.pem`. It counts its handshakes.
fn echo_server(folder: &Path) -> (SocketAddr, Arc<AtomicUsize>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    std::fs::write(folder.join("ca.pem"), made.cert.pem()).expect("written");
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()).into();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
    let config = config.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key);
    let config = Arc::new(config.expect("a certificate"));
    let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = listener.local_addr().expect("an address");
    let handshakes = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&handshakes);
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let (config, counted) = (Arc::clone(&config), Arc::clone(&counted));
            thread::spawn(move || echo(stream, ServerConnection::new(config).expect("a server"), &counted));
        }
    });
    (address, handshakes)
}

/// Ends with `close_notify` if the client has done so, and without it after an error, so that the client notices.
fn echo(mut stream: TcpStream, mut tls: ServerConnection, handshakes: &AtomicUsize) {
    let (mut buffer, mut rounds) = (vec![0; 7000], 0_usize);
    while tls.is_handshaking() {
        if tls.complete_io(&mut stream).is_err() {
            return;
        }
    }
    handshakes.fetch_add(1, Ordering::Relaxed);
    loop {
        let mut both = rustls::Stream::new(&mut tls, &mut stream);
        match both.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => both.write_all(&buffer[..count]).expect("taken"),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return,
            Err(error) => panic!("{error}"),
        }
        rounds += 1;
        if rounds % 10 == 0 {
            tls.refresh_traffic_keys().expect("TLS 1.3");
        }
    }
    tls.send_close_notify();
    while tls.wants_write() {
        tls.write_tls(&mut stream).expect("taken");
    }
    let _ = stream.shutdown(Shutdown::Write);
}

/// Bytes that differ from each other, so that a wrong one is noticed.
fn bytes(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..count).map(next).collect()
}

/// Sends bytes and FIN, and reads the answer to its end.
fn exchange(mut reader: TcpStream, seed: u64) {
    let sent = bytes(seed, 200_000);
    let (mut writer, written) = (reader.try_clone().expect("copied"), sent.clone());
    let part = 1 + (seed as usize * 997) % 5000;
    let writing = thread::spawn(move || {
        for (place, part) in written.chunks(part).enumerate() {
            writer.write_all(part).expect("taken");
            if place % 7 == 0 {
                thread::sleep(Duration::from_millis(1));
            }
        }
        writer.shutdown(Shutdown::Write).expect("ended");
    });
    let mut received = Vec::new();
    reader.read_to_end(&mut received).expect("the rest");
    writing.join().expect("no panic");
    assert!(received == sent, "{} of {} bytes came back as they were sent", received.len(), sent.len());
}

#[test]
fn bytes_cross_a_tunnel_that_is_upgraded() {
    let folder: TempDir = tempfile::tempdir().expect("a folder");
    let (upstream, handshakes) = echo_server(folder.path());
    let tunnel = Tunnel::start(folder.path(), upstream, "localhost");
    let (is_over, count) = (AtomicBool::new(false), AtomicUsize::new(0));
    // A connection that is idle the whole time.
    let mut idle = tunnel.connect();
    idle.write_all(b"before").expect("taken");
    let mut before = [0; 6];
    idle.read_exact(&mut before).expect("it comes back");
    thread::scope(|scope| {
        for client in 0..4 {
            let (is_over, count, tunnel) = (&is_over, &count, &tunnel);
            scope.spawn(move || {
                let mut seed = client;
                while !is_over.load(Ordering::Relaxed) {
                    exchange(tunnel.connect(), seed);
                    seed += 4;
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for workers in [2, 1, 2] {
            for request in [Request::Reload, Request::Scale { workers }, upgrade()] {
                tunnel.done(&request);
            }
        }
        is_over.store(true, Ordering::Relaxed);
    });
    idle.write_all(b" after").expect("taken");
    idle.shutdown(Shutdown::Write).expect("ended");
    let mut received = String::new();
    idle.read_to_string(&mut received).expect("the rest");
    assert_eq!((&before, received.as_str()), (b"before", " after"));
    let count = count.load(Ordering::Relaxed);
    println!("{count} connections of 200,000 bytes each way crossed 3 reloads, 3 changes of scale and 3 upgrades");
    assert!(count >= 4);
    assert_eq!(handshakes.load(Ordering::Relaxed), count + 1, "none was made twice");
}

#[test]
fn nobody_reaches_a_server_of_another_name() {
    let folder: TempDir = tempfile::tempdir().expect("a folder");
    let (upstream, handshakes) = echo_server(folder.path());
    let tunnel = Tunnel::start(folder.path(), upstream, "example.com");
    let mut client = tunnel.connect();
    let _ = client.write_all(b"secret");
    let mut received = Vec::new();
    let ended = client.read_to_end(&mut received);
    assert_eq!(ended.map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset));
    assert_eq!((received, handshakes.load(Ordering::Relaxed)), (Vec::new(), 0));
}
