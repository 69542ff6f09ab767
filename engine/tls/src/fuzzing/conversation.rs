//! A client of rustls and a session that exchange data.

use std::io::Write as _;

use rustls::ClientConnection;

use super::rig;
use crate::accept::{Accepted, Progress};
use crate::record::{HEADER_BYTES, Limits, OVERHEAD_BYTES, Session, Status, TRAILER_BYTES, Window};
use crate::settings::Version;
use crate::state::{self, Negotiated};

/// KeyUpdates of a conversation: neither side accepts more than about this many without data between them.
const UPDATES_MAX: usize = 30;

/// Both sides, and the bytes in flight between them.
struct Talk {
    client: ClientConnection,
    session: Session,
    negotiated: Negotiated,
    to_server: Vec<u8>,
    to_client: Vec<u8>,
    /// As in a server: plaintext that was not taken, and records.
    buffer: Vec<u8>,
    window: Window,
    written: [Vec<u8>; 2],
    read: [Vec<u8>; 2],
    updates: usize,
    limits: Limits,
}

const CLIENT: usize = 0;
const SERVER: usize = 1;

pub(super) fn run(data: &[u8]) {
    let (choice, script) = data.split_first().unwrap_or((&0, &[]));
    let suite = rig::suite_of(*choice);
    let mut client = rig::client(&rig::client_config(suite));
    let mut written = [Vec::new(), Vec::new()];
    if choice & 16 != 0 {
        // It comes in one flight with the client's Finished.
        client.writer().write_all(b"early").expect("buffered");
        written[CLIENT].extend_from_slice(b"early");
    }
    let parts = [1, 5, 400, usize::MAX][usize::from(choice / 64)];
    let (progress, buffer) = rig::shake(rig::server_config_with_tickets(suite), &mut client, parts);
    let Progress::Accepted(Accepted::Session(session, negotiated)) = progress else { panic!("{progress:?}") };
    let mut talk = Talk {
        client,
        session: *session,
        negotiated,
        to_server: Vec::new(),
        to_client: Vec::new(),
        buffer,
        window: Window::default(),
        written,
        read: [Vec::new(), Vec::new()],
        updates: 0,
        limits: rig::limits_of(suite),
    };
    for step in script.chunks_exact(2) {
        talk.step(step[0], usize::from(step[1]));
    }
    talk.end();
}

impl Talk {
    fn step(&mut self, kind: u8, count: usize) {
        let is_tls13 = self.negotiated.version == Version::Tls13;
        match kind % 12 {
            0 => self.client_writes(count * 3),
            1 => self.client_writes(count * 100),
            2 => self.server_writes(count * 150),
            3 if is_tls13 => self.server_writes_in_place(count, 0),
            4 if is_tls13 => self.server_writes_in_place(count, count / 3),
            5 if is_tls13 && self.updates < UPDATES_MAX => {
                self.updates += 1;
                self.client.refresh_traffic_keys().expect("TLS 1.3");
            }
            6 if is_tls13 && self.updates < UPDATES_MAX => {
                self.updates += 1;
                let update = self.session.update_key(count.is_multiple_of(2)).expect("open");
                self.to_client.extend_from_slice(&update);
            }
            7 | 8 => self.bring_to_server(count * 37),
            9 => self.bring_to_client(count * 37),
            10 => self.take(count),
            _ => self.move_away(),
        }
    }

    fn client_writes(&mut self, bytes: usize) {
        let text: Vec<u8> = (0..bytes).map(|at| (at * 7) as u8).collect();
        // rustls accepts as much as its buffer holds.
        let taken = self.client.writer().write(&text).expect("buffered");
        self.written[CLIENT].extend_from_slice(&text[..taken]);
    }

    fn server_writes(&mut self, bytes: usize) {
        let text: Vec<u8> = (0..bytes).map(|at| (at * 11) as u8).collect();
        self.session.seal_into(&text, &mut self.to_client).expect("open");
        self.written[SERVER].extend_from_slice(&text);
    }

    fn server_writes_in_place(&mut self, bytes: usize, padding_bytes: usize) {
        if let Some(update) = self.session.next_control() {
            self.to_client.extend_from_slice(&update);
        }
        let text: Vec<u8> = (0..bytes).map(|at| (at * 13) as u8).collect();
        let start = self.to_client.len();
        self.to_client.resize(start + OVERHEAD_BYTES + bytes + padding_bytes, 9);
        let record = &mut self.to_client[start..];
        record[HEADER_BYTES..][..bytes].copy_from_slice(&text);
        assert_eq!(record.len(), HEADER_BYTES + bytes + padding_bytes + TRAILER_BYTES);
        self.session.seal_padded(record, padding_bytes).expect("room, and no update that is due");
        self.written[SERVER].extend_from_slice(&text);
    }

    fn bring_to_server(&mut self, bytes: usize) {
        while self.client.wants_write() {
            self.client.write_tls(&mut self.to_server).expect("into memory");
        }
        self.buffer.extend(self.to_server.drain(..bytes.min(self.to_server.len())));
        let status = self.session.open_all(&mut self.buffer, &mut self.window).expect("good records");
        if let Status::Incomplete { at_least } = status {
            assert!(at_least > self.buffer.len() - self.window.records);
        }
    }

    /// The application takes some of the plaintext.
    fn take(&mut self, bytes: usize) {
        let taken = bytes.min(self.window.plaintext.len());
        let end = self.window.plaintext.start + taken;
        self.read[CLIENT].extend_from_slice(&self.buffer[self.window.plaintext.start..end]);
        self.window.plaintext.start = end;
        if self.window.plaintext.is_empty() {
            self.buffer.drain(..self.window.records);
            self.window = Window::default();
        }
    }

    fn bring_to_client(&mut self, bytes: usize) {
        let part: Vec<u8> = self.to_client.drain(..bytes.min(self.to_client.len())).collect();
        let text = rig::tell(&mut self.client, &part).expect("good records");
        self.read[SERVER].extend_from_slice(&text);
    }

    fn move_away(&mut self) {
        let frozen = state::freeze(&self.session, &self.negotiated).expect("it has not failed");
        let (session, negotiated) = state::thaw(&frozen, self.limits).expect("what was frozen");
        assert_eq!(negotiated, self.negotiated);
        self.session = session;
    }

    fn end(mut self) {
        self.client.send_close_notify();
        self.bring_to_server(usize::MAX);
        assert!(self.session.has_peer_closed(), "all has come");
        self.take(usize::MAX);
        // The server still has something to send.
        self.server_writes(10);
        self.to_client.extend_from_slice(&self.session.close().expect("the first"));
        self.bring_to_client(usize::MAX);
        assert!(self.read[CLIENT] == self.written[CLIENT] && self.read[SERVER] == self.written[SERVER]);
        let state = self.client.process_new_packets().expect("good records");
        assert!(state.peer_has_closed());
    }
}
