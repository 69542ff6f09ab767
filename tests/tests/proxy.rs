//! batond behind proxies that send the PROXY header: with replaced workers and masters, and with HAProxy and curl.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use baton_tests::client::{connect, read_answer};
use baton_tests::lineage::Lineage;
use baton_tests::program::{Server, batond, free_port, is_installed, run};
use baton_tests::{skip, wait_until};
use tempfile::TempDir;

/// One test at a time: a test that ends a lineage ends all processes that this one has started.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

const SETTINGS: &str = r#"listen = [{ address = "127.0.0.1:0", proxy_protocol = true, trusted = ["127.0.0.0/8"] }]
workers = 2
"#;

const IPV4_ENDS: [u8; 12] = [192, 0, 2, 2, 198, 51, 100, 1, 0x10, 0x00, 0x01, 0xbb];

/// Starts batond with [`SETTINGS`] and an access log, both in this folder.
fn start(folder: &Path, more: &[&str]) -> Server {
    let (settings, log) = (folder.join("batond.toml"), folder.join("access.log"));
    fs::write(&settings, SETTINGS).expect("written");
    let mut command = Command::new(batond());
    command.arg("--config").arg(settings).arg("--access-log").arg(log).args(["--access-format", "json"]).args(more);
    Server::start_command(command)
}

/// Waits until this many answers are logged, and returns the clients' addresses with their requests.
fn logged(folder: &Path, count: usize) -> Vec<(String, String)> {
    let lines = || fs::read_to_string(folder.join("access.log")).expect("an access log");
    wait_until("all is logged", || lines().lines().count() >= count);
    let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
    let line = |line: &str| serde_json::from_str::<serde_json::Value>(line).expect("JSON");
    let mut logged: Vec<_> =
        lines().lines().map(line).map(|line| (text(&line["remote_addr"]), text(&line["target"]))).collect();
    logged.sort();
    logged
}

fn get(stream: &mut TcpStream, target: &str) {
    stream.write_all(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).expect("sent");
    assert!(read_answer(stream).expect("an answer").starts_with("HTTP/1.1 "));
}

#[test]
fn clients_addresses_cross_reloads_and_upgrades() {
    let _turn = turn();
    let folder = tempfile::tempdir().expect("a folder");
    let lineage = Lineage::start(2, |control, pid_file| {
        start(folder.path(), &["--control", control, "--pid-file", pid_file, "--settle-ms", "50"])
    });
    let address = lineage.first.address();
    let mut line = connect(address);
    line.write_all(b"PROXY TCP4 192.0.2.1 198.51.100.1 4096 443\r\n").expect("sent");
    get(&mut line, "/line");
    let mut binary = connect(address);
    let header = [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x10".as_slice(), &IPV4_ENDS, b"\x04\0\x01x"].concat();
    binary.write_all(&header).expect("sent");
    get(&mut binary, "/binary");
    let mut late = connect(address);
    late.write_all(b"PROXY TCP4 192.0.2.3 ").expect("sent");

    // The third connection's header has not arrived yet; it moves, too.
    lineage.done(&["reload"]);
    get(&mut line, "/line");
    late.write_all(b"198.51.100.1 4096 443\r\n").expect("sent");
    get(&mut late, "/late");
    let mut all = [(line, "/line"), (binary, "/binary"), (late, "/late")];
    all.iter_mut().for_each(|(stream, target)| get(stream, target));
    for _ in 0..2 {
        lineage.done(&["upgrade"]);
        all.iter_mut().for_each(|(stream, target)| get(stream, target));
    }
    lineage.settle();
    all.iter_mut().for_each(|(stream, target)| get(stream, target));
    let logged = logged(folder.path(), 16);
    for (client, target, count) in [("192.0.2.1", "/line", 6), ("192.0.2.2", "/binary", 5), ("192.0.2.3", "/late", 5)] {
        assert_eq!(logged.iter().filter(|one| *one == &(client.to_owned(), target.to_owned())).count(), count);
    }
    assert_eq!(logged.len(), 16);
}

struct Haproxy {
    child: Child,
    address: SocketAddr,
    _folder: TempDir,
}

impl Haproxy {
    /// Forwards to `server`, with this version of the header.
    fn start(server: SocketAddr, header: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let settings = folder.path().join("haproxy.cfg");
        let text = format!(
            "global\n maxconn 100\ndefaults\n mode tcp\n timeout connect 5s\n timeout client 20s\n timeout server 20s\n\
             frontend in\n bind {address}\n default_backend out\n\
             backend out\n server batond {server} {header} check inter 100ms\n"
        );
        fs::write(&settings, text).expect("written");
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(settings).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("it starts");
        wait_until("HAProxy listens", || TcpStream::connect(address).is_ok());
        Self { child, address, _folder: folder }
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a request as a client with this address.
fn curl(source: &str, address: SocketAddr, more: &[&str]) {
    let url = format!("http://{address}/?{source}");
    let arguments = ["--silent", "--max-time", "20", "--interface", source, &url];
    let output = run(Command::new("curl").args(arguments).args(more));
    assert_eq!(output.stdout, b"Hello, World!", "{output:?}");
}

#[test]
fn haproxy_says_whose_connections_it_passes_on() {
    let _turn = turn();
    if !is_installed("haproxy") || !is_installed("curl") {
        skip("haproxy or curl is not installed");
        return;
    }
    for header in ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c"] {
        let folder = tempfile::tempdir().expect("a folder");
        let server = start(folder.path(), &[]);
        let haproxy = Haproxy::start(server.address(), header);
        curl("127.0.0.77", haproxy.address, &[]);
        curl("127.0.0.78", haproxy.address, &[]);
        drop(haproxy);
        let expected = ["77", "78"].map(|last| (format!("127.0.0.{last}"), format!("/?127.0.0.{last}")));
        assert_eq!(logged(folder.path(), 2), expected, "{header}");
        server.stop();
    }
}

#[test]
fn curl_says_whose_connection_it_is() {
    let _turn = turn();
    if !is_installed("curl") {
        skip("curl is not installed");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let server = start(folder.path(), &[]);
    curl("127.0.0.79", server.address(), &["--haproxy-protocol"]);
    assert_eq!(logged(folder.path(), 1), [("127.0.0.79".to_owned(), "/?127.0.0.79".to_owned())]);
    server.stop();
}
