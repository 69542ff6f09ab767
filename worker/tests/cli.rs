//! The command line as a person or a service manager uses it: exit codes, messages, files, output without a reader.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);

fn batond(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_batond"));
    command.args(arguments).stdin(Stdio::null()).env("NO_COLOR", "1");
    command
}

fn run(arguments: &[&str]) -> Output {
    batond(arguments).output().expect("batond runs")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn file(folder: &TempDir, text: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.path().join("batond.toml");
    fs::write(&path, text).expect("a file");
    path
}

fn check_file(text: impl AsRef<[u8]>) -> Output {
    let folder = TempDir::new().expect("a folder");
    run(&["--check", "--config", file(&folder, text).to_str().expect("a name")])
}

/// The message for a file that is refused, from the position in it on.
fn refusal(text: impl AsRef<[u8]>) -> String {
    let output = check_file(text);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert_eq!(stdout(&output), "");
    assert_eq!(message.lines().count(), 1, "one line says it: {message}");
    let (start, rest) = message.split_once("batond.toml:").unwrap_or_else(|| panic!("no file is named: {message}"));
    assert!(start.starts_with("batond: error: "), "{message}");
    rest.trim_end().to_owned()
}

fn wait(child: &mut Child) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("waited") {
            return status;
        }
        if start.elapsed() > PATIENCE {
            let _ = child.kill();
            panic!("it did not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn terminate(child: &Child) {
    let status = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("kill runs");
    assert!(status.success());
}

/// A port on which no process listens. Another process could take it before it is used; tests that use it must not
/// depend on that.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("bound").local_addr().expect("an address").port()
}

#[test]
fn mistakes_in_the_file_are_named_by_place() {
    assert_eq!(
        refusal("workers = 1\n\n[limits]\n  bakclog = 5\n"),
        "4:3: there is no setting `bakclog`; did you mean `backlog`?"
    );
    assert!(refusal("[limitz]\n").starts_with("1:2: there is no setting `limitz`; did you mean `limits`?"));
    assert!(refusal("workers = 1\nworkers = 2\n").starts_with("2:1: duplicate key"));
    assert!(refusal("workers = \n").starts_with("1:"));
    assert!(refusal("[limits]\nbacklog = \"many\"\n").starts_with("2:11: invalid type"));
    assert!(refusal("[limits]\nreceive_buffers = 100\n").starts_with("2:1: receive_buffers: "));
    assert!(refusal("[limits]\nmessage_bytes_max = \"1 parsec\"\n").starts_with("2:21: "));
    assert!(refusal("listen = [\"nowhere\"]\n").starts_with("1:11: "));
    assert!(refusal("listen = []\n").starts_with("1:1: listen: "));
    assert!(refusal("protocol = \"gopher\"\n").contains("gopher"));
    assert!(refusal(b"workers = 1 # \xff\n").starts_with("1:15: the file is not UTF-8"));
    assert!(refusal("workers = -1\n").starts_with("1:11: "));
    assert!(refusal("[timeouts]\nidle_ms = 99999999999999999999\n").starts_with("2:11: "));
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    for path in ["/nonexistent/batond.toml", "/"] {
        let output = run(&["--check", "--config", path]);
        assert_eq!(output.status.code(), Some(2));
        let message = stderr(&output);
        assert!(message.starts_with(&format!("batond: error: cannot read {path}: ")), "{message}");
    }
}

/// A wrong path must not delete a file.
#[test]
fn a_control_socket_is_never_made_in_place_of_a_file() {
    let folder = TempDir::new().expect("a folder");
    let path = file(&folder, "a key");
    let output = run(&["--listen", "127.0.0.1:0", "--control", path.to_str().expect("a name")]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    let text =
        format!("control socket {}: a file is there and was left untouched; choose another path\n", path.display());
    assert!(stderr(&output).ends_with(&text), "{}", stderr(&output));
    assert_eq!(fs::read_to_string(path).expect("there"), "a key");
}

#[test]
fn an_empty_file_means_the_defaults() {
    let folder = TempDir::new().expect("a folder");
    let path = file(&folder, "");
    // The test does not depend on which process has the default port and control socket here.
    let output =
        run(&["--check", "--config", path.to_str().expect("a name"), "--listen", "127.0.0.1:0", "--control", "off"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let memory = "each worker needs at most about 299MiB of memory, plus the kernel's socket buffers";
    assert_eq!(stdout(&output), format!("configuration ok: http on 127.0.0.1:0, 1 worker\n{memory}\n"));
}

#[test]
fn flags_win_over_the_file() {
    let folder = TempDir::new().expect("a folder");
    let path = file(&folder, "listen = [\"127.0.0.1:0\"]\nworkers = 3\nprotocol = \"echo\"\n");
    let path = path.to_str().expect("a name");
    let of_file = run(&["--check", "--config", path]);
    assert!(stdout(&of_file).starts_with("configuration ok: echo on 127.0.0.1:0, 3 workers\n"));
    let output = run(&["--check", "--config", path, "--workers", "2", "--listen", "127.0.0.2:0", "--protocol", "http"]);
    assert!(stdout(&output).starts_with("configuration ok: http on 127.0.0.2:0, 2 workers\n"));
}

#[test]
fn a_flag_out_of_range_is_named_and_not_the_file() {
    for (flag, value) in
        [("--receive-buffers", "100"), ("--connections-max", "0"), ("--idle-ms", "18446744073709551615")]
    {
        let output = run(&["--check", flag, value]);
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.starts_with(&format!("batond: error: {flag}: ")), "{message}");
    }
    for wrong in [&["--listen", "nowhere"][..], &["--workers", "none"], &["--wrokers", "1"], &["surplus"]] {
        let output = run(wrong);
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains(wrong[0]), "{}", stderr(&output));
    }
}

#[test]
fn the_example_file_and_the_flags_name_the_same_settings() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("batond.toml");
    let output = run(&["--check", "--config", path.to_str().expect("a name"), "--listen", "127.0.0.1:0"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = fs::read_to_string(path).expect("the example");
    let mut in_file = Vec::new();
    let mut section = "";
    for line in text.lines() {
        // Settings without a default are shown after a number sign. Sentences have more than one word before an equals
        // sign.
        let setting = line.strip_prefix("# ").unwrap_or(line).split_once(" = ").filter(|(key, _)| !key.contains(' '));
        if let Some(name) = line.strip_prefix("# [[") {
            // Its flag sets the whole table.
            section = name.trim_end_matches(']');
            in_file.push(section.to_owned());
        } else if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']');
        } else if let Some((key, _)) = setting.filter(|_| section != "static") {
            in_file.push(match (section, key) {
                // Flags exist for the simplest case.
                ("tls", "certificates") => "tls-cert".to_owned(),
                ("tls", "tickets") => "tls-key".to_owned(),
                ("tls", _) => continue,
                ("log", "access") => "access-log".to_owned(),
                ("log", "level" | "format") => format!("log-{key}"),
                ("http", "server") => "server-name".to_owned(),
                _ => key.replace('_', "-"),
            });
        }
    }
    let help = stdout(&run(&["--help"]));
    let flags = help.lines().filter_map(|line| line.trim_start().strip_prefix("--")?.split_once(" <"));
    let mut flags: Vec<String> =
        flags.map(|(flag, _)| flag.to_owned()).filter(|flag| flag != "config" && flag != "check").collect();
    in_file.sort();
    flags.sort();
    assert_eq!(flags, in_file);
}

#[test]
fn help_and_version_go_to_standard_output() {
    for flag in ["--help", "-h", "--version"] {
        let output = run(&[flag]);
        assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()));
        assert!(stdout(&output).contains("batond") || flag != "--version");
    }
    assert!(stdout(&run(&["--help"])).contains("Exit codes: 0 "));
}

#[test]
fn a_taken_port_is_one_message_and_exit_code_1() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = taken.local_addr().expect("an address").to_string();
    for flags in [&["--log-level", "error"][..], &["--check"]] {
        let output = run(&[&["--listen", &address, "--control", "off"], flags].concat());
        assert_eq!(output.status.code(), Some(1));
        let message = stderr(&output);
        assert!(message.starts_with("batond: error: ") && message.contains(&address), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
}

#[test]
fn asked_for_output_that_cannot_be_written_is_a_failure_and_no_panic() {
    let full = || File::options().write(true).open("/dev/full").expect("/dev/full");
    let check = ["--check", "--listen", "127.0.0.1:0"];
    let output = batond(&check).stdout(full()).stderr(Stdio::piped()).output().expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).starts_with("batond: error: "), "{}", stderr(&output));
    let output = batond(&check).stdout(full()).stderr(full()).output().expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    let output = batond(&["--check", "--workers", "0"]).stderr(full()).output().expect("it runs");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn every_line_of_a_json_log_is_an_object() {
    let mut child = batond(&["--listen", "127.0.0.1:0", "--log-format", "json", "--log-level", "debug"])
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut lines = Vec::new();
    for line in BufReader::new(child.stderr.take().expect("piped")).lines() {
        let line = line.expect("a line");
        let object: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(object["timestamp"].is_string() && object["level"].is_string(), "{line}");
        if object["message"] == "listening" {
            terminate(&child);
        }
        lines.push(line);
    }
    assert_eq!(wait(&mut child).code(), Some(0), "{lines:#?}");
    for kind in ["starting", "worker_ready", "serves", "stopping"] {
        let is_told =
            |line: &String| serde_json::from_str::<serde_json::Value>(line).is_ok_and(|line| line["event"] == kind);
        assert_eq!(lines.iter().filter(|line| is_told(line)).count(), 1, "{kind}: {lines:#?}");
    }
}

#[test]
fn a_log_that_nobody_reads_any_more_does_not_end_the_server() {
    let port = free_port();
    let mut child = batond(&["--listen", &port.to_string(), "--log-level", "debug"])
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut log = BufReader::new(child.stderr.take().expect("piped"));
    let mut line = String::new();
    while !line.contains("listening") {
        line.clear();
        assert!(log.read_line(&mut line).expect("a line") > 0, "it ended before it listened");
    }
    drop(log);
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connected");
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    terminate(&child);
    assert_eq!(wait(&mut child).code(), Some(0));
}
