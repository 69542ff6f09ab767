//! What every Rust peer does first: reads its first argument and raises its limit of descriptors to the maximum. Each
//! peer includes this file as a module.

use std::net::{Ipv4Addr, SocketAddr};
use std::{env, process};

const NAME: &str = env!("CARGO_PKG_NAME");

/// The loopback address to listen on, from the command line. Raises the soft limit of descriptors to the hard one.
/// Ends the process with code 2 when the command line is wrong.
pub fn address() -> SocketAddr {
    // A second argument is the folder for peers that serve files; a certificate and its key follow for TLS.
    let Some(port) = env::args().nth(1).filter(|_| [2, 3, 5].contains(&env::args().len())) else {
        eprintln!("usage: {NAME} PORT [FOLDER [CERTIFICATE KEY]]");
        process::exit(2);
    };
    let Some(port) = port.parse::<u16>().ok().filter(|port| *port > 0) else {
        eprintln!("{NAME}: {port:?} is not a port; give a number from 1 to 65535");
        process::exit(2);
    };
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        eprintln!("{NAME}: cannot raise the limit of open descriptors: {error}; going on with what there is");
    }
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Prints that the server could not be started or has failed, and ends the process.
pub fn fail(address: SocketAddr, error: &dyn std::error::Error) -> ! {
    eprintln!("{NAME}: cannot serve on {address}: {error}");
    process::exit(1);
}
