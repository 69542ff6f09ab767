//! Connections with TLS: requests are encrypted, and input is decrypted before it is read.

use baton::{CloseReason, Io, Next, Step};

use super::Client;
use super::lane::Secure;
use crate::load::tally::Failure;
use crate::load::tls::{Sessions, TlsProblem};

/// What a thread's connections with TLS share.
pub(super) struct Tls {
    sessions: Sessions,
    /// Memory for decrypted input, and for output to encrypt.
    decrypted: Vec<u8>,
    plain: Vec<u8>,
}

impl Tls {
    pub(super) fn new(sessions: Sessions) -> Self {
        Self { sessions, decrypted: Vec::new(), plain: Vec::new() }
    }
}

impl Client {
    /// The connection is established: the handshake begins.
    pub(super) fn begin_secure(&mut self, index: u32, io: &mut Io<'_>) {
        let Some(tls) = &self.tls else { return };
        let began_ns = io.clock().as_nanos() as u64;
        match tls.sessions.begin(io) {
            Ok(session) => {
                let secure = Secure { session, unread: Vec::new(), began_ns, leaves_since_ns: None };
                self.lanes[index as usize].secure = Some(Box::new(secure));
            }
            Err(problem) => {
                self.fail_secure(index, &problem, io);
                io.wake(io.id());
            }
        }
    }

    /// Encrypts requests.
    pub(super) fn write_secure(&mut self, index: u32, count: u32, is_last: bool, io: &mut Io<'_>) {
        let salt = self.salt(index);
        let (Some(tls), lane) = (&mut self.tls, &mut self.lanes[index as usize]) else { return };
        tls.plain.clear();
        self.exchange.write(&mut lane.progress, salt, count, is_last, &mut tls.plain);
        self.send_plain(index, io);
    }

    /// Encrypts messages that have waited for the server's upgrade.
    pub(super) fn write_deferred_secure(&mut self, index: u32, io: &mut Io<'_>) {
        let salt = self.salt(index);
        let (Some(tls), lane) = (&mut self.tls, &mut self.lanes[index as usize]) else { return };
        tls.plain.clear();
        self.exchange.write_deferred(&mut lane.progress, salt, &mut tls.plain);
        self.send_plain(index, io);
    }

    fn send_plain(&mut self, index: u32, io: &mut Io<'_>) {
        let (Some(tls), Some(secure)) = (&self.tls, &mut self.lanes[index as usize].secure) else { return };
        if let Err(problem) = secure.session.send(&tls.plain, io) {
            self.fail_secure(index, &problem, io);
            // The caller continues; the connection ends when it is woken.
            io.wake(io.id());
        }
    }

    /// The session has failed, and the connection must end with it.
    fn fail_secure(&mut self, index: u32, problem: &TlsProblem, io: &Io<'_>) {
        let lane = &mut self.lanes[index as usize];
        if std::mem::replace(&mut lane.has_failed, true) {
            return;
        }
        if let TlsProblem::Alert(name) = problem {
            self.outcome.tls.alert(name);
        }
        self.drop_pending(index);
        self.fail(io.now().as_nanos() as u64, Failure::Tls, || problem.to_string());
    }

    pub(super) fn read_secure(&mut self, index: u32, input: &[u8], io: &mut Io<'_>) -> Step {
        let (Some(tls), Some(secure)) = (&mut self.tls, &mut self.lanes[index as usize].secure) else {
            return Step::abort();
        };
        let mut plain = std::mem::take(&mut secure.unread);
        if plain.is_empty() {
            plain = std::mem::take(&mut tls.decrypted);
        }
        let was_open = secure.session.is_open();
        let received = tls.sessions.receive(&mut secure.session, input, &mut plain, io);
        let (is_open, is_ended) = (secure.session.is_open(), secure.session.is_ended());
        if let Err(problem) = received {
            self.fail_secure(index, &problem, io);
            // The alert with the reason is written.
            return Step::finish(input.len());
        }
        if is_open && !was_open {
            self.count_handshake(index, io);
            self.send_next(index, io);
        }
        let mut next = Next::Keep;
        if !plain.is_empty() {
            let step = self.read_answers(index, &plain, io);
            next = step.next;
            plain.drain(..step.consumed);
        }
        let has_rest = !plain.is_empty();
        self.keep_plain(index, plain);
        let next = match next {
            Next::Abort => return Step::abort(),
            Next::Finish if !is_ended && self.waits_for_end(index, io) => Next::Keep,
            Next::Finish => Next::Finish,
            _ if is_ended => self.read_close_notify(index, has_rest, io),
            _ => Next::Keep,
        };
        if next == Next::Finish {
            self.close_secure(index, io);
            return Step::finish(input.len());
        }
        Step::more(input.len())
    }

    fn keep_plain(&mut self, index: u32, plain: Vec<u8>) {
        let (Some(tls), Some(secure)) = (&mut self.tls, &mut self.lanes[index as usize].secure) else { return };
        if plain.is_empty() {
            tls.decrypted = plain;
        } else {
            secure.unread = plain;
        }
    }

    /// Everything is answered. Returns whether the server has announced its close, so that its close_notify must come.
    fn waits_for_end(&mut self, index: u32, io: &Io<'_>) -> bool {
        let lane = &mut self.lanes[index as usize];
        if let Some(secure) = lane.secure.as_mut().filter(|_| lane.server_closes) {
            secure.leaves_since_ns = Some(io.now().as_nanos() as u64);
            return true;
        }
        false
    }

    /// Whether it has waited long enough for that.
    pub(super) fn has_waited_for_end(&mut self, index: u32) -> bool {
        let has_waited =
            self.lanes[index as usize].secure.as_ref().is_some_and(|secure| secure.leaves_since_ns.is_some());
        self.outcome.tls.without_close_notify += u64::from(has_waited);
        has_waited
    }

    /// Nothing more comes in the session.
    fn read_close_notify(&mut self, index: u32, has_rest: bool, io: &mut Io<'_>) -> Next {
        let lane = &self.lanes[index as usize];
        if !lane.secure.as_ref().is_some_and(|secure| secure.session.is_open()) {
            let problem = TlsProblem::Refused("the server closed the session within the handshake".to_owned());
            self.fail_secure(index, &problem, io);
        } else if lane.secure.as_ref().is_none_or(|secure| secure.leaves_since_ns.is_none()) {
            self.read_end(index, has_rest, false, io.now().as_nanos() as u64);
        }
        Next::Finish
    }

    /// The server has sent its FIN without a close_notify: after one, the connection would have been closed already.
    pub(super) fn end_secure(&mut self, index: u32, io: &mut Io<'_>) -> Next {
        let lane = &self.lanes[index as usize];
        let Some(secure) = lane.secure.as_ref().filter(|_| !lane.has_failed) else { return Next::Finish };
        if !secure.session.is_open() {
            let problem = TlsProblem::Refused("the server closed the connection within the handshake".to_owned());
            self.fail_secure(index, &problem, io);
            return Next::Finish;
        }
        self.outcome.tls.without_close_notify += 1;
        if secure.leaves_since_ns.is_none() {
            let has_rest = secure.session.is_within() || !secure.unread.is_empty();
            // RFC 9112, section 9.8: a body that ends with the connection is not known to be whole.
            self.read_end(index, has_rest, true, io.now().as_nanos() as u64);
        }
        self.close_secure(index, io);
        Next::Finish
    }

    /// Tells the server that nothing more will be sent, if there is a session.
    pub(super) fn close_secure(&mut self, index: u32, io: &mut Io<'_>) {
        if let Some(secure) = &mut self.lanes[index as usize].secure {
            secure.session.close(io);
        }
    }

    fn count_handshake(&mut self, index: u32, io: &Io<'_>) {
        let phase = self.phase();
        let Some(secure) = &self.lanes[index as usize].secure else { return };
        let took_ns = (io.clock().as_nanos() as u64).saturating_sub(secure.began_ns);
        self.outcome.shook_hands(phase, secure.session.agreed(), took_ns);
    }

    /// The connection is gone, perhaps during its handshake.
    pub(super) fn drop_secure(&mut self, index: u32, reason: CloseReason) {
        let lane = &mut self.lanes[index as usize];
        let Some(secure) = lane.secure.take().filter(|_| self.stop_at_ns.is_none()) else { return };
        if secure.session.is_open() {
            let is_cut = reason == CloseReason::Reset && !secure.session.is_ended();
            self.outcome.tls.without_close_notify += u64::from(is_cut);
            return;
        }
        if lane.has_failed {
            return;
        }
        lane.has_failed = true;
        let failure = if reason == CloseReason::Reset { Failure::Reset } else { Failure::Other };
        self.fail(self.now_ns, failure, || format!("the connection ended within the handshake: {}", reason.name()));
    }
}
