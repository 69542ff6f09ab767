//! `baton-bench run` with TLS: against servers of rustls, OpenSSL, and nginx.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::crypto::aws_lc_rs::{Ticketer, default_provider};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;
use tempfile::TempDir;

use crate::common::{ANSWER, kinds, read_request, result, serve_socket, serve_well};

mod common;

type Secure = StreamOwned<ServerConnection, TcpStream>;

/// A certificate for `localhost`, its key, and the authority that has signed it, as files.
struct Identity {
    folder: TempDir,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    fn new() -> Self {
        Self::signed_by("one")
    }

    fn signed_by(name: &str) -> Self {
        let key = || KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
        let (issuer, own) = (key(), key());
        let mut authority = CertificateParams::new(Vec::new()).expect("parameters");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.distinguished_name.push(DnType::CommonName, name);
        let certificate = authority.self_signed(&issuer).expect("an authority");
        let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
        let signed = params.signed_by(&own, &Issuer::from_params(&authority, &issuer)).expect("signed");
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: String| std::fs::write(folder.path().join(name), text).expect("written");
        write("authority.pem", certificate.pem());
        write("certificate.pem", signed.pem());
        write("key.pem", own.serialize_pem());
        Self {
            folder,
            chain: vec![signed.der().clone()],
            key: PrivateKeyDer::try_from(own.serialize_der()).expect("a key"),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn authority(&self) -> String {
        self.path("authority.pem").to_str().expect("a path").to_owned()
    }

    fn config(&self, alpn: &[&str]) -> Arc<ServerConfig> {
        let config = ServerConfig::builder_with_provider(default_provider().into());
        let config = config.with_protocol_versions(rustls::ALL_VERSIONS).expect("versions").with_no_client_auth();
        let mut config = config.with_single_cert(self.chain.clone(), self.key.clone_key()).expect("a certificate");
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config.ticketer = Ticketer::new().expect("a ticketer");
        Arc::new(config)
    }

    /// Serves every connection on a separate thread; `serve` gets the number of the connection.
    fn serve(&self, alpn: &[&str], serve: fn(Secure, usize)) -> SocketAddr {
        let config = self.config(alpn);
        listen(move |stream, index| {
            let session = ServerConnection::new(Arc::clone(&config)).expect("a session");
            serve(StreamOwned::new(session, stream), index);
        })
    }
}

fn listen(serve: impl Fn(TcpStream, usize) + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || {
        for (index, stream) in listener.incoming().flatten().enumerate() {
            let serve = serve.clone();
            thread::spawn(move || serve(stream, index));
        }
    });
    address
}

/// Seconds of a run, and of the next ones if a busy machine was too slow.
const SECONDS: [&str; 4] = ["0.5", "2", "8", "30"];

/// Seconds that an answer may take.
const PATIENCE: &str = "30";

/// Number of answers that is enough, if nothing fails.
const ENOUGH: u64 = 20;

/// Runs until a failure or enough answers.
fn bench(target: &str, more: &[&str]) -> Output {
    let enough = if more.contains(&"--idle") { 4 } else { ENOUGH };
    bench_until(target, more, |result| count(result, "/requests") >= enough || !kinds(result).is_empty())
}

/// Runs until the condition holds, with longer and longer times. Without its own time-out, a command waits as long as a
/// busy machine may need.
fn bench_until(target: &str, more: &[&str], is_enough: impl Fn(&Value) -> bool) -> Output {
    let patience: &[&str] = if more.contains(&"--timeout") { &[] } else { &["--timeout", PATIENCE] };
    let run = |seconds: &str| {
        Command::new(env!("CARGO_BIN_EXE_baton-bench"))
            .args(["run", target, "--connections", "4", "--duration", seconds, "--warm-up", "0"])
            .args(["--threads", "1", "--json", "-"])
            .args(patience)
            .args(more)
            .output()
            .expect("it runs")
    };
    let [first, others @ ..] = SECONDS;
    let mut output = run(first);
    for seconds in others {
        if is_enough(&result(&output)) {
            break;
        }
        output = run(seconds);
    }
    output
}

fn url(scheme: &str, address: SocketAddr) -> String {
    format!("{scheme}://localhost:{}/", address.port())
}

fn count(result: &Value, pointer: &str) -> u64 {
    result.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("{pointer} of {result}"))
}

/// Answers as [`serve_well`], and says goodbye after the last request.
fn serve_and_close(mut stream: Secure, _: usize) {
    while let Some(is_last) = read_head(&mut stream) {
        let head = if is_last { "Connection: close\r\n" } else { "" };
        let answer = format!("HTTP/1.1 200 OK\r\n{head}Content-Length: 5\r\n\r\nhello");
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
        if is_last {
            stream.conn.send_close_notify();
            let _ = stream.flush();
            return;
        }
    }
}

/// Whether a request announces that it is the last one; `None` at the end.
fn read_head(stream: &mut impl Read) -> Option<bool> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return None,
        }
    }
    Some(String::from_utf8_lossy(&head).contains("Connection: close"))
}

#[test]
fn every_way_to_ask_is_answered() {
    let identity = Identity::new();
    let authority = identity.authority();
    for more in [&[][..], &["--depth", "8"], &["--rate", "200"], &["--idle"], &["--payload", "300000"]] {
        let serve = if more.first() == Some(&"--payload") { serve_body } else { serve_and_close };
        let target = url("https", identity.serve(&["http/1.1"], serve));
        let output = bench(&target, &[&["--cacert", &authority], more].concat());
        let result = result(&output);
        assert!(output.status.success() && kinds(&result).is_empty(), "{more:?}: {result}");
        assert!(count(&result, "/requests") > 0, "{more:?}");
        assert!((1..=4).contains(&count(&result, "/tls/handshakes/full")), "{more:?}: {result}");
        assert_eq!(count(&result, "/tls/handshakes/resumed"), 0);
        assert!(result.pointer("/tls/handshake_us/p50").and_then(Value::as_f64) > Some(0.0), "{result}");
        let agreed = result["tls"]["agreed"].as_object().expect("what was agreed on");
        assert!(agreed.keys().all(|on| on.starts_with("TLS 1.3, ") && on.ends_with(", http/1.1")), "{agreed:?}");
    }
}

/// Reads a body of 300,000 bytes, and answers.
fn serve_body(mut stream: Secure, _: usize) {
    let mut body = vec![0; 300_000];
    while read_request(&mut stream) && stream.read_exact(&mut body).is_ok() {
        assert!(body.iter().all(|byte| *byte == b'b'));
        if stream.write_all(ANSWER).is_err() {
            return;
        }
    }
}

#[test]
fn new_connections_resume_where_that_is_wanted_and_are_closed_in_order() {
    let identity = Identity::new();
    let authority = identity.authority();
    for suite in ["TLS_AES_128_GCM_SHA256", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"] {
        for resume in ["--resume", "--no-resume"] {
            let target = url("https", identity.serve(&["http/1.1"], serve_and_close));
            let more = ["--cacert", &authority, "--requests-per-connection", "1", "--suite", suite, resume];
            let output = bench(&target, &more);
            let result = result(&output);
            assert!(output.status.success() && kinds(&result).is_empty(), "{more:?}: {result}");
            let (full, resumed) = (count(&result, "/tls/handshakes/full"), count(&result, "/tls/handshakes/resumed"));
            if resume == "--resume" {
                // The first connections have no session to resume.
                assert!((1..=4).contains(&full) && resumed > 4, "{result}");
            } else {
                assert!(full > 4 && resumed == 0, "{result}");
            }
            assert_eq!(count(&result, "/tls/closed_without_close_notify"), 0, "{result}");
            let agreed = result["tls"]["agreed"].as_object().expect("what was agreed on");
            assert!(agreed.keys().all(|on| on.contains(suite)), "{agreed:?}");
        }
    }
}

#[test]
fn certificates_are_checked_unless_any_will_do() {
    let (identity, stranger) = (Identity::new(), Identity::signed_by("other"));
    let target = url("https", identity.serve(&["http/1.1"], serve_well));
    for (more, told) in [
        (&["--cacert", &stranger.authority()][..], "signed by none"),
        (&["--cacert", &identity.authority(), "--servername", "example.org"], "not valid for name \"example.org\""),
    ] {
        let output = bench(&target, more);
        let result = result(&output);
        assert_eq!((output.status.code(), kinds(&result)), (Some(1), vec!["tls"]), "{result}");
        assert_eq!(count(&result, "/requests"), 0);
        assert!(result["reasons"][0].as_str().is_some_and(|reason| reason.contains(told)), "{result}");
    }
    let output = bench(&target, &["--insecure", "--servername", "example.org"]);
    assert!(output.status.success(), "{}", result(&output));
    // The certificate does not have the address, but it has the name.
    let by_address = target.replace("localhost", "127.0.0.1");
    let refused = result(&bench(&by_address, &["--cacert", &identity.authority()]));
    assert!(refused["reasons"][0].as_str().is_some_and(|reason| reason.contains("127.0.0.1")), "{refused}");
    let output = bench(&by_address, &["--cacert", &identity.authority(), "--servername", "localhost"]);
    assert!(output.status.success(), "{}", result(&output));
}

/// Answers wrongly from the second request on.
fn serve_wrong(mut stream: Secure, _: usize) {
    while read_request(&mut stream) && stream.write_all(ANSWER).is_ok() {
        read_request(&mut stream);
        let _ = stream.write_all(&ANSWER.to_ascii_uppercase());
    }
}

#[test]
fn what_goes_wrong_has_a_name() {
    let identity = Identity::new();
    let cases: [(&str, SocketAddr); 6] = [
        ("wrong", identity.serve(&[], serve_wrong)),
        // A body that ends with the connection is only complete after a close_notify.
        (
            "short",
            identity.serve(&[], |mut stream, _| {
                read_request(&mut stream);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nhello");
            }),
        ),
        ("empty", identity.serve(&[], |mut stream, _| _ = read_request(&mut stream))),
        ("tls", listen(|mut stream, _| _ = stream.read(&mut [0; 16 * 1024]))),
        ("timed_out", listen(|mut stream, _| while stream.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {})),
        (
            "tls",
            listen(|mut stream, _| {
                let _ = stream.read(&mut [0; 16 * 1024]);
                let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
            }),
        ),
    ];
    for (kind, target) in cases {
        let more = ["--insecure", "--timeout", if kind == "timed_out" { "0.2" } else { PATIENCE }];
        let output = bench_until(&url("https", target), &more, |result| kinds(result).contains(&kind));
        let result = result(&output);
        assert_eq!(output.status.code(), Some(1), "{kind}: {result}");
        let seen = kinds(&result);
        // A server that closes before it has read everything resets the connection.
        assert!(seen.contains(&kind) && seen.iter().all(|one| *one == kind || *one == "reset"), "{kind}: {result}");
        if matches!(kind, "short" | "empty") {
            assert!(count(&result, "/tls/closed_without_close_notify") > 0, "{result}");
        }
    }
}

#[test]
fn a_body_that_ends_with_a_close_notify_is_whole() {
    let identity = Identity::new();
    let target = identity.serve(&[], |mut stream, _| {
        read_request(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nhello");
        stream.conn.send_close_notify();
        let _ = stream.flush();
    });
    let output = bench(&url("https", target), &["--insecure", "--expect", "hello"]);
    let result = result(&output);
    assert!(output.status.success() && count(&result, "/requests") > 4, "{result}");
    assert_eq!(count(&result, "/tls/closed_without_close_notify"), 0);
}

#[test]
fn alerts_are_counted_by_name() {
    let identity = Identity::new();
    let target = url("https", identity.serve(&["gopher"], serve_well));
    let output = bench(&target, &["--insecure"]);
    let refused = result(&output);
    assert_eq!((output.status.code(), kinds(&refused)), (Some(1), vec!["tls"]), "{refused}");
    assert!(count(&refused, "/tls/alerts/no_application_protocol") > 0, "{refused}");
    for more in [&["--no-alpn"][..], &["--alpn", "x", "--alpn", "gopher"]] {
        let output = bench(&target, &[&["--insecure"], more].concat());
        assert!(output.status.success(), "{}", result(&output));
    }
}

#[test]
fn echo_and_web_sockets_come_back() {
    let identity = Identity::new();
    let echo = identity.serve(&[], |mut stream, _| {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            if stream.write_all(&buffer[..count]).is_err() {
                return;
            }
        }
    });
    let target = format!("tls://localhost:{}", echo.port());
    for more in [&[][..], &["--depth", "5"], &["--payload", "100000"], &["--requests-per-connection", "3"]] {
        let output = bench(&target, &[&["--protocol", "echo", "--insecure"], more].concat());
        let result = result(&output);
        assert!(output.status.success() && count(&result, "/requests") > 4, "{more:?}: {result}");
    }
    let socket = identity.serve(&["http/1.1"], |stream, _| serve_socket(stream, false));
    for more in [&[][..], &["--depth", "5"], &["--requests-per-connection", "2"]] {
        let output = bench(&url("wss", socket), &[&["--insecure"], more].concat());
        let result = result(&output);
        assert!(output.status.success() && count(&result, "/requests") > 10, "{more:?}: {result}");
    }
    let wrong = identity.serve(&["http/1.1"], |stream, _| serve_socket(stream, true));
    assert!(kinds(&result(&bench(&url("wss", wrong), &["--insecure"]))).contains(&"wrong"));
}

#[test]
fn keys_are_set_within_tls_too() {
    let identity = Identity::new();
    let target = identity.serve(&[], |mut stream, _| {
        let mut value = Vec::new();
        let mut buffer = vec![0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            let request = String::from_utf8_lossy(&buffer[..count]).into_owned();
            let answer = if request.contains("SET") {
                let text = request.trim_end().rsplit("\r\n").next().unwrap_or_default().to_owned();
                *VALUE.lock().expect("a value") = text;
                "+OK\r\n".to_owned()
            } else {
                let text = VALUE.lock().expect("a value").clone();
                format!("${}\r\n{text}\r\n", text.len())
            };
            value.clear();
            value.extend_from_slice(answer.as_bytes());
            if stream.write_all(&value).is_err() {
                return;
            }
        }
    });
    let target = format!("tls://localhost:{}", target.port());
    let output = bench(&target, &["--protocol", "resp", "--insecure"]);
    let result = result(&output);
    assert!(output.status.success() && count(&result, "/requests") > 4, "{result}");
}

/// The stored value.
static VALUE: std::sync::Mutex<String> = std::sync::Mutex::new(String::new());

/// A program under test, ended together with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // By SIGTERM, so that nginx's workers end with it.
        let _ = kill(Pid::from_raw(self.0.id() as i32), Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port()
}

/// Starts a program that listens; `None` if it is not installed.
fn start(command: &mut Command, port: u16) -> Option<Running> {
    let child = match command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!("SKIPPED: {} is not installed", command.get_program().display());
            return None;
        }
        Err(error) => panic!("{command:?}: {error}"),
    };
    let mut running = Running(child);
    let deadline = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(running.0.try_wait().expect("a child").is_none(), "{command:?} has ended");
        assert!(Instant::now() < deadline, "{command:?} does not listen");
        thread::sleep(Duration::from_millis(10));
    }
    Some(running)
}

#[test]
fn openssl_is_spoken_to() {
    let identity = Identity::new();
    for (version, suite) in [("-tls1_3", "TLS 1.3, TLS_"), ("-tls1_2", "TLS 1.2, TLS_ECDHE_ECDSA_WITH_")] {
        let port = free_port();
        let mut command = Command::new("openssl");
        command.args(["s_server", "-www", "-quiet", "-accept", &format!("127.0.0.1:{port}"), version, "-cert"]);
        command.arg(identity.path("certificate.pem")).arg("-key").arg(identity.path("key.pem"));
        let Some(_running) = start(&mut command, port) else { return };
        // Its page describes the session, and ends with the connection. It serves one connection at a time, and others
        // wait.
        let target = format!("https://localhost:{port}/");
        let output = bench(&target, &["--cacert", &identity.authority(), "--any-body", "--resume", "--no-alpn"]);
        let result = result(&output);
        assert!(output.status.success(), "{version}: {result}");
        assert!(count(&result, "/requests") > 2 && count(&result, "/tls/handshakes/resumed") > 0, "{result}");
        let agreed = result["tls"]["agreed"].as_object().expect("what was agreed on");
        assert!(agreed.keys().all(|on| on.starts_with(suite)), "{agreed:?}");
    }
}

fn nginx(folder: &Path, identity: &Identity, port: u16) -> Command {
    let user = if nix::unistd::getuid().is_root() { "user root;" } else { "" };
    let text = format!(
        "daemon off; pid {0}/pid; error_log {0}/error.log; {user}\nevents {{ }}\nhttp {{ access_log off;\n\
         client_body_temp_path {0}/body; proxy_temp_path {0}/proxy; fastcgi_temp_path {0}/fastcgi;\n\
         uwsgi_temp_path {0}/uwsgi; scgi_temp_path {0}/scgi; ssl_protocols TLSv1.2 TLSv1.3;\n\
         server {{ listen 127.0.0.1:{port} ssl reuseport; ssl_certificate {1}; ssl_certificate_key {2};\n\
         location / {{ return 200 hello; }} location /file/ {{ alias {0}/; }} }} }}\n",
        folder.display(),
        identity.path("certificate.pem").display(),
        identity.path("key.pem").display(),
    );
    std::fs::write(folder.join("nginx.conf"), text).expect("written");
    let mut command = Command::new("nginx");
    command.args(["-p".as_ref(), folder.as_os_str(), "-c".as_ref(), folder.join("nginx.conf").as_os_str()]);
    command
}

#[test]
fn nginx_is_spoken_to() {
    let identity = Identity::new();
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("large"), vec![b'l'; 1 << 20]).expect("written");
    let port = free_port();
    let Some(_running) = start(&mut nginx(folder.path(), &identity, port), port) else { return };
    let authority = identity.authority();
    for (path, more) in [
        ("", &["--expect", "hello"][..]),
        ("", &["--expect", "hello", "--depth", "16"]),
        ("", &["--expect", "hello", "--requests-per-connection", "1", "--resume"]),
        ("file/large", &[]),
        ("file/large", &["--suite", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"]),
    ] {
        let target = format!("https://localhost:{port}/{path}");
        let output = bench(&target, &[&["--cacert", &authority], more].concat());
        let result = result(&output);
        assert!(output.status.success() && kinds(&result).iter().all(|kind| *kind == "stale"), "{more:?}: {result}");
        assert!(count(&result, "/requests") > 4, "{more:?}: {result}");
        if more.contains(&"--resume") {
            assert!(count(&result, "/tls/handshakes/resumed") > count(&result, "/tls/handshakes/full"), "{result}");
        }
    }
}

#[test]
fn wrong_usage_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let empty = folder.path().join("empty.pem");
    std::fs::write(&empty, "").expect("written");
    let empty = empty.to_str().expect("a path");
    for (arguments, part) in [
        (&["https://127.0.0.1:1/"][..], "--cacert FILE"),
        (&["https://127.0.0.1:1/", "--cacert", "/nowhere.pem"], "--cacert /nowhere.pem"),
        (&["https://127.0.0.1:1/", "--cacert", empty], empty),
        (&["https://127.0.0.1:1/", "--cacert", empty, "--insecure"], "--insecure"),
        (&["https://127.0.0.1:1/", "--insecure", "--suite", "RC4"], "TLS_AES_128_GCM_SHA256"),
        (&["https://127.0.0.1:1/", "--insecure", "--group", "x"], "X25519"),
        (&["https://127.0.0.1:1/", "--insecure", "--alpn", ""], "--alpn"),
        (&["https://127.0.0.1:1/", "--insecure", "--servername", "a b"], "--servername"),
        (&["https://127.0.0.1:1/", "--insecure", "--protocol", "echo"], "--protocol echo"),
        (&["https://127.0.0.1:1/a", "--insecure", "--path", "/b"], "(/a)"),
        (&["tls://127.0.0.1:1", "--insecure"], "--protocol"),
        (&["tls://127.0.0.1", "--insecure", "--protocol", "echo"], "target \"tls://127.0.0.1\""),
        (&["ftp://127.0.0.1:1"], "https://"),
        (&["127.0.0.1:1", "--insecure"], "--insecure"),
        (&["http://127.0.0.1:1", "--resume"], "--resume"),
    ] {
        let output =
            Command::new(env!("CARGO_BIN_EXE_baton-bench")).arg("run").args(arguments).output().expect("it runs");
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        assert!(text.contains(part), "{arguments:?}: {text}");
    }
}
