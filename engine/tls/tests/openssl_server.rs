//! OpenSSL's server: handshakes and resumption, key updates from both sides, and a session that moves at each read.

use std::io::{BufRead as _, BufReader, Lines, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use baton_tls::connect::{ClientSettings, Config, Connected, Progress};
use baton_tls::files;
use baton_tls::record::{Limits, Session, Status, Window};
use baton_tls::state::{self, Negotiated};
use rustls::pki_types::ServerName;

const WAIT: Duration = Duration::from_secs(20);

/// A server that serves this many clients; ended when dropped.
struct Server {
    process: Child,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
    address: String,
}

impl Server {
    /// `None` if OpenSSL is not installed.
    fn start(folder: &Path, suite: &str, clients: u32) -> Option<Self> {
        if Command::new("openssl").arg("version").output().is_err() {
            println!("SKIPPED: openssl is not installed");
            return None;
        }
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let [certificate, key] = ["cert.pem", "key.pem"].map(|name| folder.join(name));
        std::fs::write(&certificate, made.cert.pem()).expect("written");
        std::fs::write(&key, made.signing_key.serialize_pem()).expect("written");
        let mut process = Command::new("openssl")
            .args(["s_server", "-accept", "127.0.0.1:0", "-tls1_3", "-ciphersuites", suite, "-alpn", "one"])
            .args(["-naccept", &clients.to_string(), "-cert"])
            .arg(certificate)
            .arg("-key")
            .arg(key)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl");
        let stdin = process.stdin.take().expect("piped");
        let mut stdout = BufReader::new(process.stdout.take().expect("piped")).lines();
        let accepts = |line: String| line.strip_prefix("ACCEPT ").map(str::to_owned);
        let address = stdout.by_ref().map_while(Result::ok).find_map(accepts).expect("it listens");
        Some(Self { process, stdin, stdout, address })
    }

    fn says(&mut self, text: &str) {
        self.stdin.write_all(text.as_bytes()).expect("it reads");
    }

    fn hears(&mut self, wanted: &str) {
        assert!(self.stdout.by_ref().map_while(Result::ok).any(|line| line == wanted), "{wanted} did not come");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn config(folder: &Path, suite: &str) -> Config {
    let settings = ClientSettings {
        alpn: vec!["other".to_owned(), "one".to_owned()],
        suites: vec![suite.to_owned()],
        limits: Limits { records_per_key_max: Some(5), ..Limits::default() },
        ..ClientSettings::new(folder.join("cert.pem"))
    };
    settings.load(files::read).expect("settings")
}

/// A connection to a server.
struct Talk {
    stream: TcpStream,
    session: Session,
    negotiated: Negotiated,
    input: Vec<u8>,
    window: Window,
}

impl Talk {
    /// Makes the handshake, and reads the tickets before the first line, which the server sends.
    fn begin(config: &Config, server: &mut Server, line: &str) -> Self {
        let mut stream = TcpStream::connect(&server.address).expect("connected");
        stream.set_read_timeout(Some(WAIT)).expect("a time-out");
        let name = ServerName::try_from("localhost").expect("a name");
        let mut handshake = config.begin(name).expect("a handshake");
        let (mut input, mut output) = (Vec::new(), Vec::new());
        let connected = loop {
            let (consumed, progress) = handshake.advance(&mut input, &mut output);
            stream.write_all(&output).expect("sent");
            output.clear();
            input.drain(..consumed);
            match progress {
                Progress::Incomplete(one) => handshake = one,
                Progress::Connected(connected) => break *connected,
                Progress::Failed(error) => panic!("{error}"),
            }
            receive(&mut stream, &mut input);
        };
        let Connected { mut session, negotiated, mut tickets } = connected;
        session.keep_tickets(true);
        let mut talk = Self { stream, session, negotiated, input, window: Window::default() };
        server.says(line);
        while talk.window.plaintext.is_empty() {
            receive(&mut talk.stream, &mut talk.input);
            talk.open();
            tickets.take_from(&mut talk.session);
        }
        talk.expect(line);
        talk
    }

    fn open(&mut self) {
        let status = self.session.open_all(&mut self.input, &mut self.window).expect("good records");
        assert!(matches!(status, Status::Incomplete { .. }));
    }

    /// Freezes the session and continues it.
    fn moves(&mut self) {
        let frozen = state::freeze(&self.session, &self.negotiated).expect("it lives");
        let limits = Limits { records_per_key_max: Some(5), ..Limits::default() };
        let (session, negotiated) = state::thaw(&frozen, limits).expect("what was frozen");
        assert_eq!(negotiated, self.negotiated);
        self.session = session;
    }

    fn expect(&mut self, line: &str) {
        while self.window.plaintext.len() < line.len() {
            receive(&mut self.stream, &mut self.input);
            self.moves();
            self.open();
        }
        assert_eq!(self.input[self.window.plaintext.clone()], *line.as_bytes());
        self.input.drain(..self.window.records);
        self.window = Window::default();
    }

    /// Reads the update alone: the server does not read a line together with a command before it.
    fn expect_update(&mut self) {
        while self.window.records == 0 {
            receive(&mut self.stream, &mut self.input);
            self.moves();
            self.open();
        }
        assert!(self.window.plaintext.is_empty());
        self.input.drain(..self.window.records);
        self.window = Window::default();
    }

    fn say(&mut self, line: &str) {
        let mut output = Vec::new();
        self.session.seal_into(line.as_bytes(), &mut output).expect("open");
        self.stream.write_all(&output).expect("sent");
        self.moves();
    }
}

fn receive(stream: &mut TcpStream, input: &mut Vec<u8>) {
    let mut part = [0; 1000];
    let length = stream.read(&mut part).expect("within the time");
    assert!(length > 0, "the server left without close_notify");
    input.extend_from_slice(&part[..length]);
}

#[test]
fn openssl_serves_a_session_and_both_change_keys() {
    for suite in ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"] {
        let folder = tempfile::tempdir().expect("a folder");
        let Some(mut server) = Server::start(folder.path(), suite, 2) else { return };
        let config = config(folder.path(), suite);
        for is_resumed in [false, true] {
            let mut talk = Talk::begin(&config, &mut server, "welcome\n");
            assert_eq!(talk.negotiated.alpn.as_deref(), Some(&b"one"[..]));
            assert_eq!(talk.negotiated.is_resumed, is_resumed, "{suite}");
            assert_eq!(format!("{:?}", talk.session.suite()).to_uppercase(), suite.replace('_', "")[3..]);
            for round in 0..8 {
                talk.say(&format!("question {round}\n"));
                server.hears(&format!("question {round}"));
                let update = talk.session.update_key(round % 2 == 0).expect("open");
                talk.stream.write_all(&update).expect("sent");
                // The server's commands: a key update, with and without a request.
                server.says(["k\n", "K\n"][round % 2]);
                talk.expect_update();
                let line = format!("answer {round}\n");
                server.says(&line);
                talk.expect(&line);
            }
            let close = talk.session.close().expect("the first");
            talk.stream.write_all(&close).expect("sent");
            server.hears("DONE");
        }
        assert!(server.process.wait().expect("it ends").success());
    }
}
