//! What a service manager is told over `$NOTIFY_SOCKET` (sd_notify(3)); nothing where there is none. Never waits: a manager
//! that does not read must not stop the master, which the crates for this would let it.

use std::env;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use super::Master;
use crate::sys::clock::monotonic_ns;

/// Pings are sent so many times as often as they are asked for.
const PINGS_PER_LIMIT: u64 = 2;

/// Tells it; that nobody listens is no error.
fn tell(message: &str) {
    if let Err(error) = send(message) {
        tracing::debug!("the service manager was not told {message:?}: {error}");
    }
}

fn send(message: &str) -> io::Result<()> {
    let Ok(name) = env::var("NOTIFY_SOCKET") else { return Ok(()) };
    let address = match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to_addr(message.as_bytes(), &address).map(drop)
}

/// The service's main process is this one, or another.
pub(super) fn main_process(pid: u32) {
    tell(&format!("MAINPID={pid}"));
}

/// It serves; also after a reload, however that went.
pub(super) fn ready() {
    tell("READY=1");
}

pub(super) fn reloading() {
    tell(&format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic_ns() / 1000));
}

pub(super) fn stopping() {
    tell("STOPPING=1");
}

/// Between two pings, where the service manager wants any of this process (sd_watchdog_enabled(3)).
pub(super) fn watchdog_interval() -> Option<Duration> {
    let number = |name| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let limit_us = number("WATCHDOG_USEC").filter(|limit_us| *limit_us > 0)?;
    let is_meant = env::var_os("WATCHDOG_PID").is_none() || number("WATCHDOG_PID") == Some(std::process::id().into());
    is_meant.then(|| Duration::from_micros(limit_us / PINGS_PER_LIMIT).max(Duration::from_millis(1)))
}

impl Master<'_> {
    /// When the next ping is due.
    pub(super) fn watchdog_at(&self) -> Option<Instant> {
        self.watchdog.map(|(_, at)| at)
    }

    pub(super) fn ping(&mut self, now: Instant) {
        if let Some((interval, at)) = &mut self.watchdog
            && *at <= now
        {
            *at = now + *interval;
            tell("WATCHDOG=1");
        }
    }
}
