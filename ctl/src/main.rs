//! `batonctl`: will drive a running server (status, reload, scale, upgrade). It has no commands yet, and says so.
#![deny(unsafe_code)]

use clap::Parser;

/// Control of a running baton server; this program has no commands yet.
///
/// The master has no control socket that it could speak to. It will show status and
/// drive reload, scaling and upgrades. Until then batond is controlled by signals: TERM, INT or QUIT let connections
/// finish, a second one stops at once.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {}

fn main() {
    // Without commands every call ends here: help, version, or a usage error with exit code 2.
    Arguments::parse();
}
