//! WebSocket (RFC 6455) without I/O: the opening handshake, and frames from bytes and to bytes. No extension is negotiated.
//!
//! [`accept`] checks the client's headers. Then a [`Decoder`] takes the client's bytes, in any pieces, and returns complete
//! [`Message`]s; the same type writes the server's messages.
//!
//! ```
//! use baton_http::websocket::{Decoder, Message, ReceiveState};
//!
//! let mut decoder = Decoder::new(65_536);
//! let mut state = ReceiveState::default();
//! let mut input: &[u8] = &[0x81, 0x82, 1, 2, 3, 4, b'h' ^ 1, b'i' ^ 2];
//! let mut output = Vec::new();
//! while let Some(message) = decoder.decode(&mut state, &mut input)? {
//!     match message {
//!         Message::Ping(payload) => Message::Pong(payload).encode(&mut output),
//!         Message::Pong(_) => {}
//!         message => message.encode(&mut output),
//!     }
//! }
//! assert_eq!(output, b"\x81\x02hi");
//! # Ok::<(), baton_http::websocket::ProtocolError>(())
//! ```

mod close;
mod decoder;
mod frame;
mod handshake;
mod mask;
mod message;
mod socket;
mod state;

pub use self::close::{CloseCode, CloseFrame};
pub use self::decoder::{Decoder, MaskedMessage};
pub use self::frame::{FrameHeader, Opcode, ProtocolError};
pub use self::handshake::{AcceptKey, HandshakeError, VERSION, accept, choose_protocol};
pub use self::message::Message;
pub use self::socket::{Sender, Socket, Taken, WebSockets};
pub use self::state::ReceiveState;
