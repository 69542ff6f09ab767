//! The transfer of a worker's own state to the worker that replaces it. One writes it while the other reads it, and
//! neither does anything else meanwhile, so the state cannot change. Each side gives up if the other is too slow.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use super::transfer::{Channel, PACKET_BYTES_MAX};
use crate::handover::Message;
use crate::handover::limits::{BATCH_MS_MAX, STATE_BYTES_PER_MS, STATE_MS_MAX};

/// Bytes of one part, with room left for the packet's head.
const PART_BYTES: usize = PACKET_BYTES_MAX - 256;

/// How many bytes have moved, and since when.
struct Pace {
    began: Instant,
    bytes: u64,
}

impl Pace {
    fn new() -> Self {
        Self { began: Instant::now(), bytes: 0 }
    }

    /// # Errors
    /// `TimedOut` if it took longer than allowed.
    fn check(&self) -> io::Result<()> {
        let may = Duration::from_millis(STATE_MS_MAX.saturating_add(self.bytes / STATE_BYTES_PER_MS));
        if self.began.elapsed() <= may { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) }
    }
}

/// The writer that a leaving worker uses.
pub(crate) struct StateWriter<'a> {
    channel: &'a mut Channel,
    /// Shows that this worker is not hung, and how many bytes have moved.
    beat: &'a dyn Fn(u64),
    part: Vec<u8>,
    pace: Pace,
    bytes_max: u64,
}

impl<'a> StateWriter<'a> {
    pub(crate) fn new(channel: &'a mut Channel, beat: &'a dyn Fn(u64), bytes_max: u64) -> Self {
        Self { channel, beat, part: Vec::with_capacity(PART_BYTES), pace: Pace::new(), bytes_max }
    }

    /// Bytes written so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.pace.bytes
    }

    /// Whether more was written than allowed.
    pub(crate) fn is_too_large(&self) -> bool {
        self.pace.bytes > self.bytes_max
    }

    /// Tells the other side that this was all, or that no more will come.
    pub(crate) fn end(&mut self, is_whole: bool) -> io::Result<()> {
        if is_whole {
            self.flush()?;
        }
        self.channel.say_waiting(&Message::StateEnd { bytes: self.bytes(), is_whole }, &[])
    }
}

impl Write for StateWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = bytes.len().min(PART_BYTES - self.part.len());
        self.pace.bytes = self.pace.bytes.saturating_add(length as u64);
        if self.is_too_large() {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                "the worker's state is larger than state_bytes_max",
            ));
        }
        self.part.extend_from_slice(&bytes[..length]);
        if self.part.len() == PART_BYTES {
            self.flush()?;
        }
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.part.is_empty() {
            (self.beat)(self.bytes());
            self.channel.say_waiting(&Message::StatePart, &self.part)?;
            self.part.clear();
            self.pace.check()?;
        }
        Ok(())
    }
}

/// The reader that the serving worker uses. It ends with the state; if the state is not whole, with an error.
pub(crate) struct StateReader<'a> {
    channel: &'a mut Channel,
    /// As in [`StateWriter`].
    beat: &'a dyn Fn(u64),
    part: Vec<u8>,
    at: usize,
    pace: Pace,
    bytes_max: u64,
    is_over: bool,
}

impl<'a> StateReader<'a> {
    pub(crate) fn new(channel: &'a mut Channel, beat: &'a dyn Fn(u64), bytes_max: u64) -> Self {
        Self { channel, beat, part: Vec::new(), at: 0, pace: Pace::new(), bytes_max, is_over: false }
    }

    /// Skips unread bytes, so that the next message is read.
    ///
    /// # Errors
    /// If the other side is gone, or late, or sends something illegal. Its next messages are then unreliable.
    pub(crate) fn skip_rest(&mut self) -> io::Result<()> {
        while !self.is_over {
            self.next_part()?;
        }
        Ok(())
    }

    /// Whether more arrived than allowed.
    pub(crate) fn is_too_large(&self) -> bool {
        self.pace.bytes > self.bytes_max
    }

    /// Receives the next part, or the end.
    fn next_part(&mut self) -> io::Result<()> {
        self.pace.check()?;
        let beat = || (self.beat)(self.pace.bytes);
        let (message, bytes) = self.channel.hear_waiting(BATCH_MS_MAX, &beat)?;
        match message {
            Message::StatePart => {
                self.pace.bytes = self.pace.bytes.saturating_add(bytes.len() as u64);
                if self.is_too_large() {
                    return Err(io::Error::new(
                        io::ErrorKind::FileTooLarge,
                        "the worker's state is larger than state_bytes_max",
                    ));
                }
                (self.part, self.at) = (bytes, 0);
                Ok(())
            }
            Message::StateEnd { bytes, is_whole } => {
                self.is_over = true;
                if is_whole && bytes == self.pace.bytes { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
            }
            _ => {
                self.is_over = true;
                Err(io::ErrorKind::InvalidData.into())
            }
        }
    }
}

impl Read for StateReader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.at == self.part.len() && !self.is_over {
            self.next_part()?;
        }
        let length = into.len().min(self.part.len() - self.at);
        into[..length].copy_from_slice(&self.part[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::meeting::both_ends as pair;

    /// Sends `state`, with the limit `bytes_max`, and reads it at the same time. Returns what was read.
    fn send(state: &[u8], bytes_max: u64) -> io::Result<Vec<u8>> {
        let (mut ours, mut theirs) = pair();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut writer = StateWriter::new(&mut ours, &|_| {}, bytes_max);
                let is_whole = writer.write_all(state).is_ok();
                writer.end(is_whole).expect("said");
            });
            let mut read = Vec::new();
            StateReader::new(&mut theirs, &|_| {}, u64::MAX).read_to_end(&mut read).map(|_| read)
        })
    }

    #[test]
    fn what_is_written_is_read() {
        let state: Vec<u8> = (0..1_000_000u32).map(|index| (index % 251) as u8).collect();
        assert!(send(&state, u64::MAX).expect("read") == state);
        assert!(send(&[], 0).expect("read").is_empty());
    }

    #[test]
    fn what_is_too_large_is_not_taken_for_whole() {
        assert_eq!(send(&[0; 500_000], 400_000).expect_err("cut").kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn whoever_goes_meanwhile_leaves_an_error() {
        let (ours, mut theirs) = pair();
        drop(ours);
        assert!(StateReader::new(&mut theirs, &|_| {}, 1000).read_to_end(&mut Vec::new()).is_err());
        let (mut ours, theirs) = pair();
        drop(theirs);
        assert!(StateWriter::new(&mut ours, &|_| {}, u64::MAX).write_all(&[0; 100_000]).is_err());
    }

    /// Sends parts with `pause` between them until the other side is gone.
    fn drip(mut channel: Channel, pause: Duration) {
        while channel.say_waiting(&Message::StatePart, b"drip").is_ok() {
            std::thread::sleep(pause);
        }
    }

    #[test]
    fn whoever_sends_slowly_is_given_up_in_time() {
        let (ours, mut theirs) = pair();
        let dripping = std::thread::spawn(move || drip(ours, Duration::from_millis(BATCH_MS_MAX / 4)));
        let begun = Instant::now();
        let read = StateReader::new(&mut theirs, &|_| {}, u64::MAX).read_to_end(&mut Vec::new());
        assert_eq!(read.expect_err("late").kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() < Duration::from_millis(STATE_MS_MAX + 2 * BATCH_MS_MAX), "{:?}", begun.elapsed());
        drop(theirs);
        dripping.join().expect("it ends");
    }

    #[test]
    fn whoever_reads_slowly_is_given_up_in_time() {
        let (mut ours, mut theirs) = pair();
        let sipping = std::thread::spawn(move || {
            while theirs.hear_waiting(BATCH_MS_MAX, &|| {}).is_ok() {
                std::thread::sleep(Duration::from_millis(BATCH_MS_MAX / 4));
            }
        });
        let begun = Instant::now();
        let written = StateWriter::new(&mut ours, &|_| {}, u64::MAX).write_all(&vec![0; 100 << 20]);
        assert_eq!(written.expect_err("late").kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() < Duration::from_millis(STATE_MS_MAX + 2 * BATCH_MS_MAX), "{:?}", begun.elapsed());
        drop(ours);
        sipping.join().expect("it ends");
    }

    #[test]
    fn no_more_is_read_than_may_be() {
        let (ours, mut theirs) = pair();
        let dripping = std::thread::spawn(move || drip(ours, Duration::ZERO));
        let mut reader = StateReader::new(&mut theirs, &|_| {}, 1000);
        let read = reader.read_to_end(&mut Vec::new());
        assert_eq!(read.expect_err("too large").kind(), io::ErrorKind::FileTooLarge);
        assert!(reader.is_too_large());
        drop(theirs);
        dripping.join().expect("it ends");
    }
}
