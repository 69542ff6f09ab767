//! The example `arena` as the ranking starts it, with and without a certificate.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use baton_tests::namespace::run;
use baton_tests::program::{Server, http_example};
use baton_tests::stream::{Certificate, Stream, Trust};

/// The test has a network namespace of its own, in which all ports are free.
const PLAIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
const SECURED: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8081);

/// Starts it with the files of the ranking's data set, and these for TLS.
fn start(program: &Path, data: &Path, [certificate, key]: &[PathBuf; 2]) -> Server {
    let given = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/http/examples/arena/data/dataset.json");
    std::fs::copy(given, data.join("dataset.json")).expect("a copy");
    std::fs::create_dir_all(data.join("static")).expect("a folder");
    std::fs::write(data.join("static/app.js"), "a file").expect("written");
    let mut command = Command::new(program);
    command.args(["--workers", "2", "--data"]).arg(data).arg("--certificate").arg(certificate).arg("--key").arg(key);
    Server::start_unlogged(command, PLAIN)
}

/// The body of an answer of 200.
fn get(address: SocketAddr, trust: Option<&Trust>, target: &str) -> String {
    let mut stream = Stream::connect(address, trust);
    let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer, and its end");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    answer.split_once("\r\n\r\n").expect("a body").1.to_owned()
}

#[test]
fn the_same_is_served_with_tls() {
    let program = http_example("arena");
    run("the_same_is_served_with_tls", || {
        let data = tempfile::tempdir().expect("a folder");
        let certificate = Certificate::default();
        let server = start(&program, data.path(), &certificate.files());
        for target in ["/json/5?m=3", "/json/50?m=6", "/static/app.js"] {
            assert_eq!(get(SECURED, Some(&certificate.trust), target), get(PLAIN, None, target));
        }
        let page = get(SECURED, Some(&certificate.trust), "/json/5?m=3");
        let page: serde_json::Value = serde_json::from_str(&page).expect("JSON");
        assert_eq!(page["count"], 5);
        server.stop();
    });
}

#[test]
fn without_a_certificate_nothing_is_served_with_tls() {
    let program = http_example("arena");
    run("without_a_certificate_nothing_is_served_with_tls", || {
        let data = tempfile::tempdir().expect("a folder");
        let server = start(&program, data.path(), &["server.crt", "server.key"].map(|name| data.path().join(name)));
        assert_eq!(server.count_of("server.key is there: nothing is served with TLS"), 1, "{:#?}", server.log());
        assert_eq!(get(PLAIN, None, "/pipeline"), "ok");
        assert!(TcpStream::connect(SECURED).is_err());
        server.stop();
    });
}
