//! WebSockets on connections of [`Http`](crate::Http).

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use baton::{CannotFreeze, Drain, Io, Limit, Next, Step};

use super::close::{CloseCode, CloseFrame};
use super::decoder::{Decoder, MaskedMessage};
use super::frame::ProtocolError;
use super::handshake::{self, VERSION};
use super::message::Message;
use super::state::ReceiveState;
use crate::error::Error;
use crate::exchange::{Thawed, Upgraded};
use crate::reply::{Done, Reply};
use crate::request::Request;

/// One WebSocket. The library answers pings and closes the connection.
pub trait Socket: 'static {
    /// The name of frozen sockets of this kind. If a router has several kinds, each needs its own.
    const NAME: &'static str = "websocket";

    /// A complete message has arrived: [`Message::Text`] or [`Message::Binary`].
    fn on_message(&mut self, message: Message<'_>, sender: &mut Sender<'_, '_>);

    /// A message has arrived in one frame, still masked. Override this to send it on as it is
    /// ([`Sender::send_masked`]), which unmasks it directly into the output.
    ///
    /// # Errors
    /// Those of `message`, passed on: the WebSocket is closed with their code.
    fn on_masked(&mut self, message: MaskedMessage<'_>, sender: &mut Sender<'_, '_>) -> Result<Taken, ProtocolError> {
        let _ = (message, sender);
        Ok(Taken::No)
    }

    /// After a [`Waker::wake`](crate::Waker::wake).
    fn on_wake(&mut self, sender: &mut Sender<'_, '_>) {
        let _ = sender;
    }

    /// Writes the state that another worker needs to continue.
    ///
    /// # Errors
    /// The default: the WebSocket is closed with 1001 when its worker leaves.
    fn freeze(&self, state: &mut Vec<u8>) -> Result<(), CannotFreeze> {
        let _ = state;
        Err(CannotFreeze::Stays)
    }

    /// Reads what [`Socket::freeze`] has written; `None`, the default, if it is malformed. Called for the sockets of
    /// [`Router::websocket`](crate::Router::websocket).
    fn thaw(state: &[u8]) -> Option<Self>
    where
        Self: Sized,
    {
        let _ = state;
        None
    }
}

/// Whether [`Socket::on_masked`] has handled the message; otherwise [`Socket::on_message`] gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Taken {
    Yes,
    No,
}

/// The sending side of a WebSocket.
pub struct Sender<'s, 'io> {
    io: &'s mut Io<'io>,
    is_closed: bool,
}

impl Sender<'_, '_> {
    /// Sends a message as one frame. After a `Close` nothing more is sent.
    #[inline]
    pub fn send(&mut self, message: &Message<'_>) {
        if self.is_closed {
            return;
        }
        let length = message.frame_bytes();
        message.encode_into(&mut self.io.reserve(length)[..length]);
        self.io.commit(length);
        self.is_closed = matches!(message, Message::Close(_));
    }

    /// Sends on a message that has just arrived.
    ///
    /// # Errors
    /// [`ProtocolError::Utf8`] if it is a text and not UTF-8: return it from [`Socket::on_masked`].
    #[inline]
    pub fn send_masked(&mut self, message: &MaskedMessage<'_>) -> Result<(), ProtocolError> {
        if !self.is_closed {
            let length = message.frame_bytes();
            message.encode_into(&mut self.io.reserve(length)[..length])?;
            self.io.commit(length);
        }
        Ok(())
    }

    /// Closes the WebSocket with this code.
    pub fn close(&mut self, code: CloseCode, reason: &str) {
        self.send(&Message::Close(Some(CloseFrame { code, reason })));
    }

    /// Whether the client has to catch up first.
    pub fn is_full(&self) -> bool {
        self.io.is_full()
    }
}

/// Opens WebSockets; one for a whole worker. Cheap to clone.
#[derive(Clone, Debug)]
pub struct WebSockets {
    decoder: Rc<RefCell<Decoder>>,
}

impl WebSockets {
    /// Messages of more bytes than this are refused with 1009.
    pub fn new(message_bytes_max: usize) -> Self {
        Self { decoder: Rc::new(RefCell::new(Decoder::new(message_bytes_max))) }
    }

    /// Answers a request by opening a WebSocket, or with the reason why it cannot be opened.
    ///
    /// # Errors
    /// If a header cannot be sent.
    pub fn open(&self, request: &Request<'_>, reply: Reply<'_, '_>, socket: impl Socket) -> Result<Done, Error> {
        self.open_with(request, reply, || Ok(socket))
    }

    /// The same; the socket is only made if the request is valid.
    pub(crate) fn open_with<T: Socket>(
        &self,
        request: &Request<'_>,
        reply: Reply<'_, '_>,
        make: impl FnOnce() -> Result<T, Error>,
    ) -> Result<Done, Error> {
        match handshake::accept(request.method(), request.headers()) {
            Ok(key) => {
                let (state, socket, decoder) = (ReceiveState::default(), make()?, Rc::clone(&self.decoder));
                let reply = reply.header("Sec-WebSocket-Accept", key.as_bytes());
                reply.upgrade("websocket", Open { state, socket, decoder, is_closing: false })
            }
            Err(error) => {
                let reply = reply.status(error.status()).header("Upgrade", "websocket");
                reply.header("Sec-WebSocket-Version", VERSION).text(&format!("{error}\n"))
            }
        }
    }

    /// Makes a frozen WebSocket again: for [`Router::thaws`](crate::Router::thaws) under [`Socket::NAME`], if `make`
    /// instead of [`Socket::thaw`] reads what [`Socket::freeze`] has written.
    pub fn thaw<S, T: Socket>(&self, state: &[u8], make: impl Fn(&[u8]) -> Option<T>) -> Option<Thawed<S>> {
        let (length, rest) = state.split_first_chunk::<4>()?;
        let (receiving, own) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        let state: ReceiveState = serde_json::from_slice(receiving).ok()?;
        let decoder = Rc::clone(&self.decoder);
        let is_sound = state.held_bytes() <= decoder.borrow().message_bytes_max();
        let socket = make(own).filter(|_| is_sound)?;
        Some(Thawed::Upgraded(Box::new(Open { state, socket, decoder, is_closing: false })))
    }
}

struct Open<T> {
    state: ReceiveState,
    socket: T,
    decoder: Rc<RefCell<Decoder>>,
    /// A Close frame was sent.
    is_closing: bool,
}

impl<T: Socket> Open<T> {
    /// Handles the messages at the start of `input`; what is not taken stays there.
    fn receive(&mut self, input: &mut &[u8], io: &mut Io<'_>) -> Result<Next, ProtocolError> {
        let mut decoder = self.decoder.borrow_mut();
        let mut sender = Sender { io, is_closed: self.is_closing };
        loop {
            if sender.is_full() {
                return Ok(Next::Yield);
            }
            if let Some(message) = decoder.take_masked(&self.state, input) {
                if self.socket.on_masked(message, &mut sender)? == Taken::No {
                    self.socket.on_message(decoder.unmask(&message)?, &mut sender);
                }
            } else {
                match decoder.decode(&mut self.state, input)? {
                    None => return Ok(Next::Keep),
                    Some(Message::Ping(payload)) => sender.send(&Message::Pong(payload)),
                    Some(Message::Pong(_)) => {}
                    Some(Message::Close(frame)) => {
                        let code = frame.map(|frame| CloseFrame { code: frame.code, reason: "" });
                        sender.send(&Message::Close(code));
                    }
                    Some(message) => self.socket.on_message(message, &mut sender),
                }
            }
            if sender.is_closed {
                self.is_closing = true;
                return Ok(Next::Close);
            }
        }
    }

    fn close(&mut self, code: CloseCode, io: &mut Io<'_>) {
        let mut sender = Sender { io, is_closed: self.is_closing };
        sender.close(code, "");
        self.is_closing = true;
    }
}

impl<T: Socket> Upgraded for Open<T> {
    #[inline]
    fn on_data(&mut self, input: &[u8], io: &mut Io<'_>) -> Step {
        let mut rest = input;
        match self.receive(&mut rest, io) {
            Ok(next) => Step { consumed: input.len() - rest.len(), next },
            Err(error) => {
                self.close(error.close_code(), io);
                Step::close(input.len())
            }
        }
    }

    fn on_wake(&mut self, io: &mut Io<'_>) -> Next {
        let mut sender = Sender { io, is_closed: self.is_closing };
        self.socket.on_wake(&mut sender);
        self.is_closing = sender.is_closed;
        if self.is_closing { Next::Close } else { Next::Keep }
    }

    fn on_limit(&mut self, _limit: Limit, _input: &[u8], io: &mut Io<'_>) -> Next {
        self.close(CloseCode::GOING_AWAY, io);
        Next::Close
    }

    fn on_drain(&mut self, _deadline: Duration, _input: &[u8], io: &mut Io<'_>) -> Drain {
        self.close(CloseCode::GOING_AWAY, io);
        Drain::Close
    }

    fn held_bytes(&self) -> usize {
        self.state.held_bytes()
    }

    fn freeze(&self, state: &mut Vec<u8>) -> Result<&'static str, CannotFreeze> {
        let receiving = serde_json::to_vec(&self.state).map_err(|_| CannotFreeze::Stays)?;
        let length = u32::try_from(receiving.len()).map_err(|_| CannotFreeze::Stays)?;
        state.extend_from_slice(&length.to_le_bytes());
        state.extend_from_slice(&receiving);
        self.socket.freeze(state)?;
        Ok(T::NAME)
    }
}
