//! A visitor's connection: blocking, from an address of its own; and its failures.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, Type};

use super::loads::TIMEOUT;
use super::state::State;
use crate::random::Random;

/// How often a waiting visitor checks whether the run continues.
const SLICE: Duration = Duration::from_millis(50);

/// Why a visit failed.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) what: String,
    /// Since when the lost connection existed; a kill of its worker may excuse the loss.
    pub(super) lost_since: Option<Instant>,
}

impl Trouble {
    /// A failure that no kill excuses.
    pub(super) fn wrong(what: impl Into<String>) -> Self {
        Self { what: what.into(), lost_since: None }
    }
}

/// See the module's head.
pub(super) struct Wire {
    pub(super) stream: TcpStream,
    established: Instant,
}

impl Wire {
    /// Connects from a random address of this machine.
    pub(super) fn connect(address: SocketAddr, random: &mut Random) -> Result<Self, Trouble> {
        let mut byte = || 1 + random.below(250) as u8;
        let source = SocketAddr::from((Ipv4Addr::new(127, 2 + byte() / 2, byte(), byte()), 0));
        let connected = || -> io::Result<TcpStream> {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.bind(&source.into())?;
            socket.connect_timeout(&address.into(), TIMEOUT)?;
            let stream = TcpStream::from(socket);
            stream.set_read_timeout(Some(TIMEOUT))?;
            stream.set_write_timeout(Some(TIMEOUT))?;
            stream.set_nodelay(true)?;
            Ok(stream)
        };
        let stream = connected().map_err(|error| Trouble::wrong(format!("a connect: {error}")))?;
        Ok(Self { stream, established: Instant::now() })
    }

    /// An error or end of the connection that a kill may excuse.
    pub(super) fn lost(&self, what: impl Into<String>) -> Trouble {
        Trouble { what: what.into(), lost_since: Some(self.established) }
    }

    fn trouble(&self, doing: &str, error: &io::Error) -> Trouble {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                Trouble::wrong(format!("{doing}: nothing within {} s", TIMEOUT.as_secs()))
            }
            _ => self.lost(format!("{doing}: {error}")),
        }
    }

    /// Writes bytes, in pieces that end at random places, with random pauses of up to `pause` between them.
    pub(super) fn write(
        &mut self,
        bytes: &[u8],
        pieces: u64,
        pause: Duration,
        random: &mut Random,
    ) -> Result<(), Trouble> {
        let mut cuts: Vec<usize> = (1..pieces).map(|_| random.below(bytes.len() as u64 + 1) as usize).collect();
        cuts.push(bytes.len());
        cuts.sort_unstable();
        let mut at = 0;
        for cut in cuts {
            self.stream.write_all(&bytes[at..cut]).map_err(|error| self.trouble("writing", &error))?;
            at = cut;
            if !pause.is_zero() {
                thread::sleep(Duration::from_micros(random.below(pause.as_micros() as u64 + 1)));
            }
        }
        Ok(())
    }

    /// Reads some bytes; none at the end.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Trouble> {
        loop {
            match self.stream.read(buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => return result.map_err(|error| self.trouble("reading", &error)),
            }
        }
    }

    /// Waits, and checks that the server sends nothing meanwhile.
    pub(super) fn stay_silent(&mut self, time: Duration, state: &State) -> Result<(), Trouble> {
        let until = Instant::now() + time;
        let timed = |stream: &TcpStream, time| {
            stream.set_read_timeout(Some(time)).map_err(|error| Trouble::wrong(format!("a time-out: {error}")))
        };
        timed(&self.stream, SLICE)?;
        while Instant::now() < until && !state.is_over() {
            match self.stream.read(&mut [0; 64]) {
                Ok(0) => return Err(self.lost("closed, though nothing was said")),
                Ok(count) => return Err(Trouble::wrong(format!("{count} bytes came, though nothing was asked"))),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => return Err(self.lost(format!("saying nothing: {error}"))),
            }
        }
        timed(&self.stream, TIMEOUT)
    }

    /// Sends FIN, and continues to read.
    pub(super) fn half_close(&mut self) -> Result<(), Trouble> {
        self.stream.shutdown(Shutdown::Write).map_err(|error| self.trouble("half-closing", &error))
    }

    /// Checks that the server sends nothing more, and closes.
    pub(super) fn read_end(&mut self) -> Result<(), Trouble> {
        match self.read(&mut [0; 64])? {
            0 => Ok(()),
            count => Err(Trouble::wrong(format!("{count} bytes came after the last answer"))),
        }
    }

    /// Leaves with a reset.
    pub(super) fn reset(self) -> Result<(), Trouble> {
        let set = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        set.map_err(|error| Trouble::wrong(format!("SO_LINGER: {error}")))
    }

    /// Receives little at a time.
    pub(super) fn narrow(&self) {
        // The kernel may have a larger minimum.
        let _ = SockRef::from(&self.stream).set_recv_buffer_size(16 * 1024);
    }
}
