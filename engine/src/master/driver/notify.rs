//! Messages to the service manager over `$NOTIFY_SOCKET` (sd_notify(3)), if there is one. Never waits: a manager that
//! does not read must not stop the master. The crates for this would wait.

use std::env;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use crate::master::core::{Notice, Time};
use crate::sys::clock::monotonic_ns;

/// Pings per time limit of the manager.
const PINGS_PER_LIMIT: u64 = 2;

/// Sends a message about the service.
pub(super) fn tell(notice: Notice) {
    match notice {
        // Also after a reload, whether it succeeded or not.
        Notice::Ready => say("READY=1"),
        Notice::Reloading => say(&format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic_ns() / 1000)),
        Notice::Stopping => say("STOPPING=1"),
        Notice::MainIsThis => say(&format!("MAINPID={}", std::process::id())),
        Notice::MainIs(process) => say(&format!("MAINPID={}", process.0)),
    }
}

/// Sends a message. A missing listener is not an error.
fn say(message: &str) {
    if let Err(error) = send(message) {
        tracing::debug!("cannot tell the service manager {message:?}: {error}");
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

/// Tells the service manager that this master is alive, as often as the manager requires.
pub(super) struct Watchdog {
    interval_ns: u64,
    next: Time,
}

impl Watchdog {
    /// `None` if the manager does not want pings from this process (sd_watchdog_enabled(3)).
    pub(super) fn from_environment(now: Time) -> Option<Self> {
        let number = |name| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let limit_us = number("WATCHDOG_USEC").filter(|limit_us| *limit_us > 0)?;
        let is_meant =
            env::var_os("WATCHDOG_PID").is_none() || number("WATCHDOG_PID") == Some(std::process::id().into());
        let interval_ns = (limit_us / PINGS_PER_LIMIT).max(1_000).saturating_mul(1_000);
        is_meant.then_some(Self { interval_ns, next: now })
    }

    /// When the next ping is due.
    pub(super) fn next(&self) -> Time {
        self.next
    }

    pub(super) fn ping(&mut self, now: Time) {
        if self.next <= now {
            self.next = Time(now.0.saturating_add(self.interval_ns));
            say("WATCHDOG=1");
        }
    }
}
