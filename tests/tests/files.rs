//! Files and the access log with real processes: large files, replaced workers, a renamed log, and what a worker may
//! read.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use baton_tests::client::{connect, pattern, read_answer};
use baton_tests::lineage::Lineage;
use baton_tests::namespace::run;
use baton_tests::process::kilobytes;
use baton_tests::program::Server;
use baton_tests::wait_until;
use nix::sys::signal::Signal;
use tempfile::TempDir;

const LARGE_BYTES: usize = 24 << 20;

fn site() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let mut large = vec![0; LARGE_BYTES];
    pattern(0, &mut large);
    fs::write(folder.path().join("large"), large).expect("written");
    fs::write(folder.path().join("small.txt"), "small").expect("written");
    folder
}

fn mount(folder: &TempDir) -> String {
    format!("/s/={}", folder.path().display())
}

fn get(stream: &mut TcpStream, path: &str, headers: &str) -> String {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\n{headers}\r\n").as_bytes()).expect("sent");
    read_answer(stream).expect("an answer")
}

/// A download of the large file that has begun.
struct Download {
    stream: TcpStream,
    offset: usize,
}

impl Download {
    fn begin(address: SocketAddr) -> Self {
        let mut stream = connect(address);
        stream.write_all(b"GET /s/large HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("a head");
            head.push(byte[0]);
        }
        assert!(head.starts_with(b"HTTP/1.1 200 OK\r\n"), "{}", String::from_utf8_lossy(&head));
        Self { stream, offset: 0 }
    }

    /// Reads this many bytes, and compares them with the file's.
    fn read(&mut self, count: usize) {
        let (mut bytes, mut expected) = (vec![0; count], vec![0; count]);
        self.stream.read_exact(&mut bytes).expect("bytes");
        pattern(self.offset, &mut expected);
        assert!(bytes == expected, "wrong within {count} bytes from {}", self.offset);
        self.offset += count;
    }

    fn finish(mut self) {
        self.read(LARGE_BYTES - self.offset);
        assert!(get(&mut self.stream, "/s/small.txt", "").ends_with("\r\n\r\nsmall"), "its connection goes on");
    }
}

#[test]
fn a_slow_reader_of_a_large_file_costs_little_memory() {
    let folder = site();
    let server = Server::start(&["--static", &mount(&folder)]);
    let worker = server.workers()[0];
    let mut downloads: Vec<Download> = (0..100).map(|_| Download::begin(server.address())).collect();
    downloads.iter_mut().for_each(|download| download.read(100_000));
    let peak = kilobytes(worker, "status", "VmHWM");
    assert!(peak < 80_000, "{peak} kB");
    downloads.truncate(5);
    downloads.into_iter().for_each(Download::finish);
    let peak = kilobytes(worker, "status", "VmHWM");
    assert!(peak < 80_000, "{peak} kB");
    server.stop();
}

#[test]
fn large_files_go_on_where_workers_are_replaced() {
    let folder = site();
    let log = folder.path().join("log");
    let arguments = ["--settle-ms", "50", "--workers", "2", "--access-log", log.to_str().expect("UTF-8")];
    let server = Server::start(&[&["--static", &mount(&folder)], &arguments[..]].concat());
    let mut downloads: Vec<Download> = (0..6).map(|_| Download::begin(server.address())).collect();
    let first = server.workers();
    for _ in 0..2 {
        downloads.iter_mut().for_each(|download| download.read(1_000_000));
        server.reload();
        wait_until("the old workers have left", || server.workers().len() == 2);
    }
    // The workers left long before the downloads are over: they did not wait for them.
    assert!(server.workers().iter().all(|pid| !first.contains(pid)));
    // They have written their log lines, and no download is over.
    assert_eq!(whole_downloads(&log), 0);
    downloads.into_iter().for_each(Download::finish);
    server.stop();
    assert_eq!(whole_downloads(&log), 6);
}

#[test]
fn large_files_go_on_across_upgrades() {
    run("large_files_go_on_across_upgrades", || {
        let folder = site();
        let log = folder.path().join("log");
        let lineage = Lineage::start(1, |control, pid_file| {
            let arguments = ["--settle-ms", "50", "--control", control, "--pid-file", pid_file];
            let logged = ["--access-log", log.to_str().expect("UTF-8"), "--static", &mount(&folder)];
            Server::start(&[&arguments[..], &logged].concat())
        });
        let mut downloads: Vec<Download> = (0..4).map(|_| Download::begin(lineage.first.address())).collect();
        for _ in 0..2 {
            downloads.iter_mut().for_each(|download| download.read(500_000));
            lineage.done(&["upgrade"]);
            lineage.settle();
        }
        downloads.into_iter().for_each(Download::finish);
        lineage.done(&["stop"]);
        wait_until("all have left", || {
            lineage.reap();
            lineage.masters().is_empty() && lineage.workers().is_empty()
        });
        assert_eq!(whole_downloads(&log), 4);
    });
}

/// The number of a log's lines about the large file, if each reports that it was sent completely.
fn whole_downloads(log: &Path) -> usize {
    let lines = lines(log);
    let expected = format!(r#"127.0.0.1 - - [] "GET /s/large HTTP/1.1" 200 {LARGE_BYTES} "-" "-""#);
    let of_large: Vec<&String> = lines.iter().filter(|line| line.contains("/s/large")).collect();
    assert!(of_large.iter().all(|line| **line == expected), "{of_large:#?}");
    of_large.len()
}

/// Lines without their times.
fn lines(log: &Path) -> Vec<String> {
    let text = fs::read_to_string(log).expect("a log");
    let without = |line: &str, from: &str, to: &str| {
        let (before, rest) = line.split_once(from).expect(from);
        let (_, after) = rest.split_once(to).expect(to);
        format!("{before}{from}{to}{after}")
    };
    text.lines()
        .map(|line| match line.starts_with('{') {
            true => without(&without(line, "\"time\":\"", "\""), "\"took_us\":", ","),
            false => without(line, "[", "]"),
        })
        .collect()
}

#[test]
fn each_answer_has_a_line_of_either_format() {
    let folder = site();
    for (format, expected) in [
        (
            "combined",
            [
                r#"127.0.0.1 - - [] "GET /s/small.txt?q=1 HTTP/1.1" 200 5 "http://x/\x22" "a\x5Cgent""#,
                r#"127.0.0.1 - - [] "GET /nothing HTTP/1.1" 404 22 "-" "-""#,
                r#"127.0.0.1 - - [] "GET /s/large HTTP/1.1" 206 2097153 "-" "-""#,
                r#"127.0.0.1 - - [] "-" 400 69 "-" "-""#,
            ],
        ),
        (
            "json",
            [
                r#"{"time":"","remote_addr":"127.0.0.1","method":"GET","target":"/s/small.txt?q=1","protocol":"HTTP/1.1","status":200,"body_bytes":5,"took_us":,"referer":"http://x/\"","user_agent":"a\\gent"}"#,
                r#"{"time":"","remote_addr":"127.0.0.1","method":"GET","target":"/nothing","protocol":"HTTP/1.1","status":404,"body_bytes":22,"took_us":,"referer":null,"user_agent":null}"#,
                r#"{"time":"","remote_addr":"127.0.0.1","method":"GET","target":"/s/large","protocol":"HTTP/1.1","status":206,"body_bytes":2097153,"took_us":,"referer":null,"user_agent":null}"#,
                r#"{"time":"","remote_addr":"127.0.0.1","method":null,"target":null,"protocol":null,"status":400,"body_bytes":69,"took_us":,"referer":null,"user_agent":null}"#,
            ],
        ),
    ] {
        let log = folder.path().join(format);
        let file = log.to_str().expect("UTF-8");
        let server = Server::start(&["--static", &mount(&folder), "--access-log", file, "--access-format", format]);
        let mut stream = connect(server.address());
        get(&mut stream, "/s/small.txt?q=1", "Referer: http://x/\"\r\nUser-Agent: a\\gent\r\n");
        get(&mut stream, "/nothing", "");
        stream.write_all(b"GET /s/large HTTP/1.1\r\nHost: a\r\nRange: bytes=0-2097152\r\n\r\n").expect("sent");
        let mut answer = vec![0; 2_097_153];
        stream.read_exact(&mut answer).expect("an answer");
        let mut other = connect(server.address());
        wait_until("the range was sent", || fs::read_to_string(&log).is_ok_and(|log| log.contains("206")));
        other.write_all(b"nonsense\r\n\r\n").expect("sent");
        read_answer(&mut other).expect("an answer");
        // Pending lines are written when the worker ends.
        server.stop();
        assert_eq!(lines(&log), expected, "{format}");
    }
}

#[test]
fn one_of_a_hundred_answers_is_logged_if_asked() {
    let folder = site();
    let log = folder.path().join("log");
    let server = Server::start(&["--access-log", log.to_str().expect("UTF-8"), "--access-sample", "100"]);
    let mut stream = connect(server.address());
    (0..1_000).for_each(|_| drop(get(&mut stream, "/", "")));
    server.stop();
    assert_eq!(lines(&log).len(), 10);
}

#[test]
fn a_log_that_is_renamed_and_opened_anew_loses_no_line() {
    let folder = site();
    let log = folder.path().join("log");
    let server = Server::start(&["--access-log", log.to_str().expect("UTF-8"), "--workers", "2", "--settle-ms", "50"]);
    let (is_over, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
    let renamed = |index: usize| folder.path().join(format!("log.{index}"));
    thread::scope(|scope| {
        let _loads: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut stream = connect(server.address());
                    while !is_over.load(Ordering::Relaxed) {
                        let number = sent.fetch_add(1, Ordering::Relaxed);
                        get(&mut stream, &format!("/health?{number}."), "");
                    }
                })
            })
            .collect();
        for index in 0..8 {
            let before = sent.load(Ordering::Relaxed);
            wait_until("there was some load", || sent.load(Ordering::Relaxed) > before + 500);
            fs::rename(&log, renamed(index)).expect("renamed");
            server.signal(Signal::SIGUSR1);
            wait_until("the log was opened anew", || log.exists());
            if index == 4 {
                server.reload();
            }
        }
        is_over.store(true, Ordering::Relaxed);
    });
    server.stop();
    let all: Vec<String> = (0..8).map(renamed).chain([log]).flat_map(|path| lines(&path)).collect();
    let numbers = all.iter().map(|line| {
        assert!(line.starts_with("127.0.0.1 - - []") && line.ends_with("\"-\" \"-\""), "it is whole: {line}");
        let (_, number) = line.split_once('?').expect("a number");
        number.split_once('.').expect("a number").0.parse::<usize>().expect("a number")
    });
    let distinct: BTreeSet<usize> = numbers.collect();
    let expected = sent.load(Ordering::Relaxed);
    assert_eq!((all.len(), distinct.len()), (expected, expected));
}

#[test]
fn a_full_disk_stops_nobody_and_lost_lines_are_counted() {
    let server = Server::start_controlled(&["--access-log", "/dev/full", "--workers", "2"]);
    let mut streams: Vec<TcpStream> = (0..20).map(|_| connect(server.address())).collect();
    streams.iter_mut().for_each(|stream| (0..50).for_each(|_| drop(get(stream, "/", ""))));
    // Counters by name: of the server, of its generation, and of each worker.
    wait_until("a thousand lines are counted", || {
        let status = baton_tests::control::status(&server.control()).expect("a status");
        let generation = &status.generations[0];
        let workers: Vec<_> = generation.workers.iter().flat_map(|worker| worker.counters.clone()).collect();
        let all = [status.counters, generation.counters.clone(), workers];
        let sums = all.map(|counters| {
            assert!(counters.iter().all(|(name, _)| name == "access_log_lines_lost"), "{counters:?}");
            counters.iter().map(|(_, count)| count).sum::<u64>()
        });
        sums == [1_000; 3]
    });
    server.stop();
}

#[test]
fn a_log_that_cannot_be_used_is_refused_at_a_reload_and_the_one_before_goes_on() {
    let folder = site();
    let (config, log) = (folder.path().join("batond.toml"), folder.path().join("log"));
    let write = |access: &Path, site: &Path| {
        let text = format!("[log]\naccess = {access:?}\n[[static]]\npath = \"/s/\"\nfolder = {site:?}\n",);
        fs::write(&config, text).expect("written");
    };
    write(&log, folder.path());
    let server = Server::start(&["--config", config.to_str().expect("UTF-8")]);
    std::os::unix::fs::symlink(&log, folder.path().join("link")).expect("a link");
    let (nowhere, link) = (folder.path().join("nowhere"), folder.path().join("link"));
    for (access, site, wrong) in [
        (nowhere.join("log"), folder.path().to_owned(), nowhere.join("log")),
        (link.clone(), folder.path().to_owned(), link),
        (log.clone(), nowhere.clone(), nowhere),
    ] {
        write(&access, &site);
        assert!(!server.try_reload());
        let events = server.events("not_reloaded");
        let message = events.last().and_then(|event| event["message"].as_str()).expect("a text");
        assert!(message.contains(wrong.to_str().expect("UTF-8")), "{message}");
    }
    let mut stream = connect(server.address());
    assert!(get(&mut stream, "/s/small.txt", "").ends_with("small"));
    server.stop();
    assert_eq!(lines(&log).len(), 1);
}
