//! The cost of idle connections. Run with: cargo test --release -p baton-tests --test memory -- --ignored --nocapture

use std::net::TcpStream;

use baton_tests::client::{ask, connect};
use baton_tests::process::kilobytes;
use baton_tests::program::Server;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

const CONNECTIONS: usize = 10_000;
const KILOBYTES_MAX: u64 = 2_600;

#[test]
#[ignore = "needs 20,000 descriptors, and figures of a release build"]
fn ten_thousand_idle_connections() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("raised to the hard limit");
    assert!(hard as usize > CONNECTIONS + 100, "the limit of open files is {hard}; raise it (ulimit -Hn)");
    let server = Server::start(&["--log-level", "info"]);
    let worker = server.workers()[0];
    let memory = || kilobytes(worker, "smaps_rollup", "Private_Dirty");
    ask(&mut connect(server.address())).expect("an answer");
    let empty = memory();
    let mut open: Vec<TcpStream> = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        let mut stream = connect(server.address());
        ask(&mut stream).expect("an answer");
        open.push(stream);
    }
    let grown = memory() - empty;
    println!("{CONNECTIONS} idle connections, each answered once: {grown} kB above an empty worker of {empty} kB");
    assert!(grown < KILOBYTES_MAX, "{grown} kB");
    drop(open);
    server.stop();
}
