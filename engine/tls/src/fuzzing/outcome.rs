//! A server's result for some bytes, and which differences from rustls are intended.

use std::fmt;

use rustls::{AlertDescription, PeerMisbehaved};

use super::rig::{Rig, feed};
use crate::record::{Error, Limits, Opened, Session, Window};
use crate::state::{self, Negotiated};

/// How a server's input ended.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum End {
    /// More can come.
    Open,
    /// `close_notify`.
    Closed,
    /// With an error of this crate.
    Failed(Error),
    /// With an error of rustls.
    Refused(rustls::Error),
}

#[derive(Clone, PartialEq)]
pub(super) struct Outcome {
    pub(super) plaintext: Vec<u8>,
    pub(super) end: End,
    /// The alert that the server has sent at its end.
    pub(super) alert: Option<AlertDescription>,
}

impl fmt::Debug for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { plaintext, end, alert } = self;
        write!(formatter, "{} bytes, {end:?}, alert {alert:?}", plaintext.len())
    }
}

impl Outcome {
    /// Whether the bytes and the alert are the same; or it is a case in which RFC 8446 requires another alert than
    /// rustls sends, or this crate refuses earlier.
    pub(super) fn agrees_with(&self, rustls: &Self, is_tls12: bool) -> bool {
        let is_begun_by = |whole: &Self, part: &Self| whole.plaintext.starts_with(&part.plaintext);
        let has_refused = matches!(rustls.end, End::Refused(_));
        let are_same_bytes = self.plaintext == rustls.plaintext;
        if rustls.is_tired_of_cancellations() {
            // rustls accepts four of them, with TLS 1.2 of all warnings, and none that are called fatal (section 6.1:
            // the level means nothing). Before that, it may have accepted what is refused here.
            return is_begun_by(self, rustls) || is_begun_by(rustls, self);
        }
        if is_tls12 && matches!(rustls.end, End::Refused(rustls::Error::InvalidMessage(_))) {
            // It may be a ClientHello for another handshake, which rustls reads, and which is skipped here.
            return is_begun_by(self, rustls);
        }
        match &self.end {
            End::Open | End::Closed => self.end == rustls.end && are_same_bytes && self.alert == rustls.alert,
            // Detected from the header alone. rustls waits for the record, does not authenticate its type and version
            // (section 5.2), and tries records of up to 2^14 + 2048 bytes.
            End::Failed(Error::RecordType(_) | Error::Version(_) | Error::RecordOverflow) => is_begun_by(rustls, self),
            // Empty records, KeyUpdates and cancellations are counted together, so that mixing them does not help.
            End::Failed(Error::IdleRecords) => is_begun_by(rustls, self),
            // Section 5.4 forbids them; rustls accepts an empty part of a handshake message.
            End::Failed(Error::EmptyContent(_)) => is_begun_by(rustls, self),
            // Refused at their first byte, while rustls waits for the whole message and reads it.
            End::Failed(
                Error::HandshakeType(_) | Error::KeyUpdateLength | Error::HelloLength(_) | Error::Renegotiation,
            ) => are_same_bytes,
            // What follows the KeyUpdate, or the number of them, may end rustls first, and without an alert.
            End::Failed(Error::KeyUpdateNotAtEnd | Error::KeyUpdateRequest(_)) if rustls.alert.is_none() => {
                are_same_bytes && has_refused
            }
            // Sections 5 and 5.4 require `unexpected_message`; rustls sends nothing, or `decode_error`.
            End::Failed(Error::NoContentType | Error::Interleaved) => {
                are_same_bytes && has_refused && (rustls.alert.is_none() || rustls.alert == self.alert)
            }
            End::Failed(Error::ContentType(_)) => {
                are_same_bytes && has_refused && rustls.alert != Some(AlertDescription::BadRecordMac)
            }
            // Section 6.2: these are errors, whatever their level is, and need no answer; rustls answers warnings with
            // `decode_error`.
            End::Failed(Error::AlertReceived(_)) => {
                are_same_bytes && has_refused && matches!(rustls.alert, None | Some(AlertDescription::DecodeError))
            }
            End::Failed(_) => are_same_bytes && has_refused && self.alert == rustls.alert,
            End::Refused(_) => false,
        }
    }

    fn is_tired_of_cancellations(&self) -> bool {
        let End::Refused(error) = &self.end else { return false };
        let too_many = PeerMisbehaved::TooManyWarningAlertsReceived;
        *error == too_many.into() || *error == rustls::Error::AlertReceived(AlertDescription::UserCanceled)
    }
}

/// rustls's result for bytes that arrive in parts.
pub(super) fn of_rustls(rig: &mut Rig, bytes: &[u8], cuts: &[usize]) -> Outcome {
    let mut plaintext = Vec::new();
    let mut end = End::Open;
    for part in cuts.windows(2) {
        let fed = feed(&mut rig.rustls, &bytes[part[0]..part[1]]);
        match fed {
            Ok(more) => plaintext.extend_from_slice(&more),
            Err(error) => {
                end = End::Refused(error);
                break;
            }
        }
    }
    // rustls reports an error again.
    match rig.rustls.process_new_packets() {
        Err(error) => end = End::Refused(error),
        Ok(state) if state.peer_has_closed() => end = End::Closed,
        Ok(_) => {}
    }
    let mut sent = Vec::new();
    while rig.rustls.wants_write() {
        rig.rustls.write_tls(&mut sent).expect("into memory");
    }
    Outcome { plaintext, end, alert: alert_in(rig.reader(), &mut sent) }
}

/// A session's result for them. `moves`: it is frozen and thawed before each part.
pub(super) fn of_session(rig: &mut Rig, bytes: &[u8], cuts: &[usize], moves: bool) -> Outcome {
    let mut buffer = Vec::new();
    let mut plaintext = Vec::new();
    let mut end = End::Open;
    for (index, part) in cuts.windows(2).enumerate() {
        if moves {
            let frozen = state::freeze(&rig.session, &Negotiated::default()).expect("it has not failed");
            let thawed = state::thaw(&frozen, Limits::default());
            rig.session = thawed.expect("what was frozen").0;
        }
        buffer.extend_from_slice(&bytes[part[0]..part[1]]);
        // The two ways to open take turns.
        if index % 2 == 0 {
            let mut window = Window::default();
            let status = rig.session.open_all(&mut buffer, &mut window);
            plaintext.extend_from_slice(&buffer[window.plaintext]);
            buffer.drain(..window.records);
            if let Err(error) = status {
                end = End::Failed(error);
            }
        } else {
            end = open_each(&mut rig.session, &mut buffer, &mut plaintext);
        }
        if rig.session.has_peer_closed() {
            end = End::Closed;
        }
        if end != End::Open {
            break;
        }
    }
    let mut sent = Vec::new();
    if let End::Failed(error) = end {
        assert_eq!(rig.session.open(&mut buffer), Err(error), "errors are for good");
        let answer = rig.session.answer(error);
        assert_eq!(answer.is_some(), error.alert().is_some(), "{error:?}");
        answer.iter().for_each(|answer| sent.extend_from_slice(answer));
    }
    Outcome { plaintext, end, alert: alert_in(rig.reader(), &mut sent) }
}

fn open_each(session: &mut Session, buffer: &mut Vec<u8>, plaintext: &mut Vec<u8>) -> End {
    loop {
        let consumed = match session.open(buffer) {
            Ok(Opened::Incomplete { at_least }) => {
                assert!(at_least > buffer.len(), "{at_least} bytes of {} are enough", buffer.len());
                return End::Open;
            }
            Ok(Opened::Closed { .. }) => return End::Closed,
            Ok(Opened::Data { consumed, plaintext: found }) => {
                plaintext.extend_from_slice(&buffer[found]);
                consumed
            }
            Ok(Opened::Control { consumed }) => consumed,
            Err(error) => return End::Failed(error),
        };
        buffer.drain(..consumed);
    }
}

/// The alert at the end of a server's output, if there is one.
fn alert_in(mut reader: Session, sent: &mut [u8]) -> Option<AlertDescription> {
    match reader.open_all(sent, &mut Window::default()) {
        Err(Error::AlertReceived(description)) => Some(description),
        Err(error) => panic!("the server has sent what nobody can read: {error}"),
        Ok(_) => reader.has_peer_closed().then_some(AlertDescription::CloseNotify),
    }
}
