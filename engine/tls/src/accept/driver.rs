//! Feeds rustls and takes its output, on both sides of a connection.

use std::mem;

use rustls::ContentType;
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedConnectionCommon, UnbufferedStatus};

use super::{SPOKEN, TOLD, Told};
use crate::record::HEADER_BYTES;

/// A server's or a client's connection.
pub(crate) trait Side {
    type Data;

    fn common(&self) -> &UnbufferedConnectionCommon<Self::Data>;

    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
}

impl Side for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn common(&self) -> &UnbufferedConnectionCommon<Self::Data> {
        self
    }

    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(input)
    }
}

impl Side for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn common(&self) -> &UnbufferedConnectionCommon<Self::Data> {
        self
    }

    fn process<'c, 'i>(&'c mut self, input: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(input)
    }
}

/// Lets rustls do all it can with the `fed` bytes from `consumed` on that it got before, and `more` bytes after them,
/// which are not a whole record.
pub(crate) fn run<S: Side>(
    connection: &mut S,
    told: &mut Told,
    fed: &mut usize,
    more: usize,
    input: &mut [u8],
    consumed: &mut usize,
    output: &mut Vec<u8>,
) -> Result<State, rustls::Error> {
    loop {
        TOLD.take();
        SPOKEN.set(connection.common().protocol_version());
        let window = &mut input[*consumed..][..*fed + more];
        let UnbufferedStatus { discard, state } = connection.process(window);
        SPOKEN.set(None);
        *told = mem::take(told).and(TOLD.take());
        let waits = match state? {
            ConnectionState::EncodeTlsData(mut message) => {
                encode(&mut message, output)?;
                false
            }
            ConnectionState::TransmitTlsData(message) => {
                message.done();
                false
            }
            ConnectionState::WriteTraffic(_) | ConnectionState::BlockedHandshake => true,
            _ => return Err(rustls::Error::General("application data in a handshake".to_owned())),
        };
        *consumed += discard;
        *fed -= discard;
        if waits {
            return Ok(if connection.common().is_handshaking() { State::Waits } else { State::Over });
        }
    }
}

/// Takes rustls's output after an error.
pub(crate) fn take_alert<S: Side>(connection: &mut S, output: &mut Vec<u8>) {
    while connection.common().wants_write() {
        let status = connection.process(&mut []);
        let Ok(ConnectionState::EncodeTlsData(mut message)) = status.state else { break };
        if encode(&mut message, output).is_err() {
            break;
        }
    }
}

fn encode<Data>(message: &mut EncodeTlsData<'_, Data>, output: &mut Vec<u8>) -> Result<(), rustls::Error> {
    let start = output.len();
    let mut room = 0;
    loop {
        output.resize(start + room, 0);
        match message.encode(&mut output[start..]) {
            Ok(written) => {
                output.truncate(start + written);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(needed)) if needed.required_size > room => room = needed.required_size,
            Err(error) => {
                output.truncate(start);
                return Err(rustls::Error::General(error.to_string()));
            }
        }
    }
}

/// The state of rustls when it has done all it can.
pub(crate) enum State {
    Waits,
    Over,
}

/// What follows all that rustls has seen.
pub(crate) enum Record {
    /// A complete record of this many bytes.
    Whole(usize),
    /// Part of a record, or nothing.
    Begun,
    /// This many bytes with which no record may begin: rustls reports what is wrong with them.
    Odd(usize),
}

/// rustls only gets complete records, since with each byte it tries anew to decrypt what it skips: refused early data.
/// But it would wait for the end of bytes with which no record begins, so these are detected here.
pub(crate) fn first_record(rest: &[u8]) -> Record {
    let odd_if = |is_odd| if is_odd { Record::Odd(rest.len()) } else { Record::Begun };
    match *rest {
        [] => Record::Begun,
        [content_type] | [content_type, _] => odd_if(!is_known(content_type)),
        [content_type, major, _] | [content_type, major, _, _] => odd_if(!is_known(content_type) || major != 3),
        [content_type, major, _, high, low, ..] => {
            let bytes = HEADER_BYTES + usize::from(u16::from_be_bytes([high, low]));
            if rest.len() >= bytes {
                Record::Whole(bytes)
            } else {
                odd_if(!is_known(content_type) || major != 3 || bytes >= HEADER_BYTES + LEGACY_BYTES_MAX)
            }
        }
    }
}

/// If a header announces this many bytes or more, rustls refuses it: the limit of TLS 1.2 (RFC 5246 section 6.2.3).
const LEGACY_BYTES_MAX: usize = (1 << 14) + 2048;

fn is_known(content_type: u8) -> bool {
    !matches!(ContentType::from(content_type), ContentType::Unknown(_))
}
