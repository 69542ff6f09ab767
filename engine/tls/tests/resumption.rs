//! OpenSSL's client resumes its session at a different server that has the same secret.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use baton_tls::accept::{Accepted, Config, Progress};
use baton_tls::files;
use baton_tls::record::{Status, Window};
use baton_tls::settings::{CertificateFiles, Settings};

const WAIT: Duration = Duration::from_secs(20);

/// Makes a handshake and waits for the client's end. Returns whether the session was resumed.
fn serve(config: &Config, mut stream: TcpStream) -> bool {
    stream.set_read_timeout(Some(WAIT)).expect("a time-out");
    let mut handshake = config.begin().expect("a handshake");
    let mut input = Vec::new();
    let (mut session, negotiated) = loop {
        receive(&mut stream, &mut input);
        let mut output = Vec::new();
        let (consumed, progress) = handshake.advance(&mut input, &mut output);
        input.drain(..consumed);
        stream.write_all(&output).expect("sent");
        match progress {
            Progress::Incomplete(one) => handshake = one,
            Progress::Accepted(Accepted::Session(session, negotiated)) => break (*session, negotiated),
            other => panic!("{other:?}"),
        }
    };
    // Bytes after the tickets show that the client has the tickets.
    let mut output = Vec::new();
    session.seal_into(b"hello\n", &mut output).expect("open");
    stream.write_all(&output).expect("sent");
    loop {
        let mut window = Window::default();
        if session.open_all(&mut input, &mut window).expect("good records") == Status::Closed {
            return negotiated.is_resumed;
        }
        input.drain(..window.records);
        receive(&mut stream, &mut input);
    }
}

fn receive(stream: &mut TcpStream, input: &mut Vec<u8>) {
    let mut part = [0; 4096];
    let length = stream.read(&mut part).expect("within the time");
    assert!(length > 0, "the client left without close_notify");
    input.extend_from_slice(&part[..length]);
}

/// Runs openssl's client, with these words in addition to its own, until it has read the server's line. Returns whether
/// the server and the client report a resumed session.
fn connect(folder: &Path, config: Config, words: &[&str]) -> (bool, bool) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let server = thread::spawn(move || serve(&config, listener.accept().expect("a client").0));
    let mut client = Command::new("openssl")
        .args(["s_client", "-connect", &address, "-servername", "a.example"])
        .args(words)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl");
    let (mut said, mut part) = (Vec::new(), [0; 4096]);
    let mut stdout = client.stdout.take().expect("piped");
    while !said.ends_with(b"hello\n") {
        let length = stdout.read(&mut part).expect("it speaks");
        assert!(length > 0, "{}", String::from_utf8_lossy(&said));
        said.extend_from_slice(&part[..length]);
    }
    client.stdin.take().expect("piped").write_all(b"Q\n").expect("it reads");
    let is_resumed = server.join().expect("the server");
    client.wait().expect("it ends");
    (is_resumed, String::from_utf8_lossy(&said).contains("Reused, TLSv1."))
}

#[test]
fn openssl_resumes_at_a_server_with_the_same_secret() {
    if Command::new("openssl").arg("version").output().is_err() {
        println!("SKIPPED: openssl is not installed");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let made = rcgen::generate_simple_self_signed(["a.example".to_owned()]).expect("a certificate");
    let both = folder.path().join("both.pem");
    std::fs::write(&both, made.cert.pem() + &made.signing_key.serialize_pem()).expect("written");
    let certificates = vec![CertificateFiles { certificate: both.clone(), key: both }];
    let settings = Settings { certificates, ..Settings::default() };
    let config = |secret| settings.load(files::read, &[secret; 32]).expect("settings").config;
    for version in ["-tls1_3", "-tls1_2"] {
        assert_eq!(connect(folder.path(), config(1), &[version, "-sess_out", "session"]), (false, false));
        assert_eq!(connect(folder.path(), config(1), &[version, "-sess_in", "session"]), (true, true));
        assert_eq!(connect(folder.path(), config(2), &[version, "-sess_in", "session"]), (false, false));
    }
}
