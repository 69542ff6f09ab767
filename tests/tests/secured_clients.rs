//! Widely used client programs against batond with TLS. Programs that are not installed are skipped, with a message.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use baton_tests::program::{Server, is_missing, run, run_ok, text};
use baton_tests::stream::Certificate;

fn start() -> Server {
    let certificate = Certificate::default();
    let flags = certificate.flags();
    Server::start_secured(&flags.each_ref().map(String::as_str))
}

/// What OpenSSL's client reports about a connection.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// The suite and the key exchange, and whether the answer was complete.
    Answered { suite: String, group: String, is_whole: bool },
    /// The number of the server's alert (RFC 8446 section 6).
    Alert(u8),
}

const HANDSHAKE_FAILURE: u8 = 40;
const PROTOCOL_VERSION: u8 = 70;
const NO_APPLICATION_PROTOCOL: u8 = 120;

fn openssl_says(server: &Server, arguments: &str) -> (Outcome, String) {
    let client = format!("openssl s_client -connect {} -servername localhost -ign_eof {arguments}", server.address());
    let Output { stdout, stderr, .. } =
        run(Command::new("sh").args(["-c", &format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | {client}")]));
    let (said, errors) = (text(&stdout), text(&stderr));
    let behind = |what: &str| said.split_once(what).and_then(|(_, rest)| rest.lines().next()).map(str::trim);
    let alert =
        errors.split_once("SSL alert number ").and_then(|(_, number)| number.lines().next()?.trim().parse().ok());
    let outcome = match alert {
        Some(alert) => Outcome::Alert(alert),
        None => Outcome::Answered {
            suite: behind(", Cipher is ").unwrap_or_default().to_owned(),
            group: behind("Server Temp Key: ").unwrap_or_default().to_owned(),
            is_whole: said.contains("\r\n\r\nHello, World!")
                && said.ends_with("closed\n")
                && !errors.contains(":error:"),
        },
    };
    (outcome, said + &errors)
}

fn answered(suite: &str, group: &str) -> Outcome {
    Outcome::Answered { suite: suite.to_owned(), group: group.to_owned(), is_whole: true }
}

/// Each suite with each group, by OpenSSL's arguments and as it names the group, and lines that it must print.
fn assert_each_is_had(version: &str, suites: &[&str], groups: &[(&str, &str)], lines: &[&str]) {
    if is_missing("openssl") {
        return;
    }
    let server = start();
    for suite in suites {
        for (asked, group) in groups {
            let (outcome, said) = openssl_says(&server, &format!("{version} {suite} -groups {asked}"));
            assert_eq!(outcome, answered(suite, group), "{asked}: {said}");
            for expected in lines {
                assert!(said.contains(expected), "{expected}: {said}");
            }
        }
    }
    server.stop();
}

#[test]
fn openssl_gets_each_suite_and_group() {
    assert_each_is_had(
        "-tls1_3 -ciphersuites",
        &["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"],
        &[
            ("X25519", "X25519, 253 bits"),
            ("P-256", "ECDH, prime256v1, 256 bits"),
            ("P-384", "ECDH, secp384r1, 384 bits"),
            // The last one takes another round trip: the client has guessed P-521, which the server does not offer.
            ("P-521:X25519", "X25519, 253 bits"),
        ],
        &["Compression: NONE", "Early data was not sent", "Max Early Data: 0"],
    );
}

#[test]
fn openssl_gets_each_suite_of_tls_1_2() {
    assert_each_is_had(
        "-tls1_2 -cipher",
        &["ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305"],
        // The curve of the certificate's key must be among them.
        &[("X25519:P-256", "X25519, 253 bits"), ("P-256", "ECDH, prime256v1, 256 bits")],
        &["Compression: NONE", "Extended master secret: yes", "Secure Renegotiation IS supported"],
    );
}

#[test]
fn openssl_hears_at_once_that_there_is_no_second_handshake() {
    if is_missing("openssl") {
        return;
    }
    let server = start();
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &server.address().to_string(), "-tls1_2"]);
    let mut client =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("openssl");
    // Its command for a renegotiation. It sends nothing else, and ends if there is none.
    let mut stdin = client.stdin.take().expect("piped");
    stdin.write_all(b"R\n").expect("it reads");
    let Output { stderr, .. } = client.wait_with_output().expect("it ends");
    assert!(text(&stderr).contains("no renegotiation"), "{}", text(&stderr));
    server.stop();
}

#[test]
fn tls_1_2_can_be_refused() {
    if is_missing("openssl") {
        return;
    }
    let certificate = Certificate::default();
    let [cert, key] = certificate.files();
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("batond.toml");
    let text = format!("[tls]\nversion_min = \"1.3\"\ncertificates = [{{ certificate = {cert:?}, key = {key:?} }}]\n");
    std::fs::write(&config, text).expect("written");
    let server = Server::start_secured(&["--config", config.to_str().expect("UTF-8")]);
    let (outcome, said) = openssl_says(&server, "-tls1_2");
    assert_eq!(outcome, Outcome::Alert(PROTOCOL_VERSION), "{said}");
    server.stop();
}

#[test]
fn openssl_is_refused_with_an_alert() {
    if is_missing("openssl") {
        return;
    }
    let server = start();
    for (arguments, alert) in [
        // It sends no signature algorithms, which rustls checks first.
        ("-tls1_1 -cipher DEFAULT@SECLEVEL=0", HANDSHAKE_FAILURE),
        // Without ephemeral keys, and without authenticated encryption.
        ("-tls1_2 -cipher AES128-GCM-SHA256", HANDSHAKE_FAILURE),
        ("-tls1_2 -cipher ECDHE-ECDSA-AES128-SHA256", HANDSHAKE_FAILURE),
        ("-tls1_3 -ciphersuites TLS_AES_128_CCM_SHA256", HANDSHAKE_FAILURE),
        ("-tls1_3 -groups P-521", HANDSHAKE_FAILURE),
        // The certificate's key is on P-256.
        ("-tls1_3 -sigalgs RSA-PSS+SHA256", HANDSHAKE_FAILURE),
        ("-tls1_3 -alpn h2", NO_APPLICATION_PROTOCOL),
    ] {
        let (outcome, said) = openssl_says(&server, arguments);
        assert_eq!(outcome, Outcome::Alert(alert), "{arguments}: {said}");
    }
    server.stop();
}

#[test]
fn openssl_agrees_on_a_protocol() {
    if is_missing("openssl") {
        return;
    }
    let server = start();
    for (offered, chosen) in [
        ("", "No ALPN negotiated"),
        ("-alpn h2,http/1.1", "ALPN protocol: http/1.1"),
        ("-alpn http/1.0,http/1.1", "ALPN protocol: http/1.1"),
        ("-alpn http/1.0", "ALPN protocol: http/1.0"),
    ] {
        let (outcome, said) = openssl_says(&server, &format!("-tls1_3 {offered}"));
        assert!(matches!(outcome, Outcome::Answered { is_whole: true, .. }), "{offered}: {said}");
        assert!(said.contains(chosen), "{offered}: {said}");
    }
    server.stop();
}

#[test]
fn curl() {
    if is_missing("curl") {
        return;
    }
    let server = start();
    let url = |path: &str| format!("https://{}{path}", server.address());
    let curl = |arguments: &[&str], path: &str| {
        let mut command = Command::new("curl");
        run(command.args(["-sSk", "--max-time", "20"]).args(arguments).arg(url(path)).stdin(Stdio::null()))
    };
    for arguments in [&[][..], &["--tlsv1.3"], &["--http1.0"], &["--tls-max", "1.2"]] {
        let Output { status, stdout, .. } = curl(arguments, "/plaintext");
        assert_eq!((status.code(), text(&stdout).as_str()), (Some(0), "Hello, World!"), "{arguments:?}");
    }
    // CURLE_SSL_CONNECT_ERROR.
    assert_eq!(
        curl(&["--tls-max", "1.1", "--tlsv1.1", "--ciphers", "DEFAULT@SECLEVEL=0"], "/").status.code(),
        Some(35)
    );

    let folder = tempfile::tempdir().expect("a folder");
    let (body, back) = (folder.path().join("body"), folder.path().join("back"));
    let bytes: Vec<u8> = (0..900_000u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(&body, &bytes).expect("written");
    let data = format!("@{}", body.display());
    for how in [
        &["-H", "Expect: 100-continue"][..],
        &["-H", "Transfer-Encoding: chunked"],
        &["-H", "Expect:"],
        &["--tls-max", "1.2", "-H", "Transfer-Encoding: chunked"],
    ] {
        let to = back.to_str().expect("a name");
        let status = curl(&[how, &["--data-binary", &data, "-o", to]].concat(), "/echo").status;
        assert_eq!(status.code(), Some(0), "{how:?}");
        assert!(std::fs::read(&back).expect("an answer") == bytes, "{how:?}");
    }
    server.stop();
}

#[test]
fn load_programs_count_every_request() {
    let server = start();
    let url = format!("https://{}/plaintext", server.address());
    if !is_missing("h2load") {
        let report = run_ok(Command::new("h2load").args(["--h1", "-n", "2000", "-c", "20"]).arg(&url));
        assert!(report.contains("2000 succeeded, 0 failed, 0 errored, 0 timeout"), "{report}");
    }
    if !is_missing("wrk") {
        let report = run_ok(Command::new("wrk").args(["-t1", "-c20", "-d1"]).arg(&url));
        assert!(!report.contains("Socket errors") && !report.contains("Non-2xx"), "{report}");
        assert!(report.contains("Requests/sec"), "{report}");
    }
    if !is_missing("ab") {
        for keep_alive in [&["-k"][..], &[]] {
            let load = ["-q", "-n", "500", "-c", "10", "-f", "TLS1.3"];
            let report = run_ok(Command::new("ab").args(load).args(keep_alive).arg(&url));
            assert!(report.contains("SSL/TLS Protocol:       TLSv1.3,"), "{report}");
            let number = |name: &str| report.split_once(name)?.1.split_whitespace().next()?.parse().ok();
            assert_eq!((number("Complete requests:"), number("Failed requests:")), (Some(500), Some(0)), "{report}");
        }
    }
    server.stop();
}
