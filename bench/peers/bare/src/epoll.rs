//! The loop on epoll: level-triggered, one receive and one send at once per readiness.

use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{MsgFlags, recv, send};

use crate::answer::{Answers, Carry};
use crate::listener::Served;
use crate::upload::Upload;

pub(crate) const BUFFER_BYTES: u32 = 64 * 1024;

/// What the server does with input.
pub(crate) enum Service {
    Answers(Answers),
    Echo,
    Uploads,
}

struct Connection {
    stream: TcpStream,
    carry: Carry,
    upload: Upload,
    /// Bytes that the socket did not take. While there are some, nothing more is read.
    unsent: Vec<u8>,
}

/// What to do with a connection after its turn.
#[derive(PartialEq)]
enum Next {
    Receive,
    Send,
    Close,
}

pub(crate) fn run(listener: &TcpListener, mut service: Service, buffer_bytes: u32) -> Served {
    let epoll = Epoll::new(EpollCreateFlags::empty()).map_err(|error| format!("cannot make an epoll: {error}"))?;
    let register = |error| format!("cannot register a socket with epoll: {error}");
    let listening = listener.as_raw_fd() as u64;
    epoll.add(listener, EpollEvent::new(EpollFlags::EPOLLIN, listening)).map_err(register)?;
    let mut buffer = vec![0; buffer_bytes as usize];
    let mut events = vec![EpollEvent::empty(); 1024];
    // Indexed by descriptor: the kernel gives the lowest free one.
    let mut connections: Vec<Option<Connection>> = Vec::new();
    loop {
        let ready = match epoll.wait(&mut events, EpollTimeout::NONE) {
            Ok(ready) => ready,
            Err(Errno::EINTR) => 0,
            Err(error) => return Err(format!("cannot wait for events: {error}")),
        };
        for event in &events[..ready] {
            if event.data() == listening {
                while let Some(stream) = accept(listener)? {
                    let fd = stream.as_raw_fd() as usize;
                    epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, fd as u64)).map_err(register)?;
                    if fd >= connections.len() {
                        connections.resize_with(fd + 1, || None);
                    }
                    connections[fd] =
                        Some(Connection { stream, carry: 0, upload: Upload::default(), unsent: Vec::new() });
                }
                continue;
            }
            let slot = &mut connections[event.data() as usize];
            let Some(connection) = slot else { continue };
            let blocked = !connection.unsent.is_empty();
            let next = if blocked { connection.flush() } else { connection.receive(&mut buffer, &mut service) };
            let interest = match next {
                Next::Close => {
                    *slot = None;
                    continue;
                }
                Next::Receive if blocked => EpollFlags::EPOLLIN,
                Next::Send if !blocked => EpollFlags::EPOLLOUT,
                _ => continue,
            };
            epoll.modify(&connection.stream, &mut EpollEvent::new(interest, event.data())).map_err(register)?;
        }
    }
}

fn accept(listener: &TcpListener) -> Result<Option<TcpStream>, String> {
    loop {
        match listener.accept() {
            Ok((stream, _)) => return Ok(Some(stream)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
            Err(error) => return Err(format!("cannot accept a connection: {error}")),
        }
    }
}

impl Connection {
    fn receive(&mut self, buffer: &mut [u8], service: &mut Service) -> Next {
        // MSG_DONTWAIT saves the call that would make each accepted socket non-blocking.
        let received = match recv(self.stream.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => return Next::Close,
            Ok(received) => &buffer[..received],
            Err(Errno::EAGAIN | Errno::EINTR) => return Next::Receive,
            Err(_) => return Next::Close,
        };
        let answers = match service {
            Service::Answers(answers) => answers,
            Service::Echo => return self.send(received),
            Service::Uploads => {
                return match self.upload.take(received) {
                    Ok(Some(answer)) => self.send(&answer),
                    Ok(None) => Next::Receive,
                    Err(()) => Next::Close,
                };
            }
        };
        if let Some(answer) = answers.learn(received) {
            return self.send(answer);
        }
        let requests = answers.count(&mut self.carry, received);
        if answers.close && requests > 0 {
            // One small answer always fits into the empty send buffer of a new connection.
            answers.pieces(1).for_each(|(piece, _)| _ = self.send(piece));
            return Next::Close;
        }
        let mut next = Next::Receive;
        for (piece, _) in answers.pieces(requests) {
            match next {
                Next::Receive => next = self.send(piece),
                Next::Send => self.unsent.extend_from_slice(piece),
                Next::Close => break,
            }
        }
        next
    }

    fn send(&mut self, bytes: &[u8]) -> Next {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let sent = match send(self.stream.as_raw_fd(), bytes, flags) {
            Ok(sent) if sent == bytes.len() => return Next::Receive,
            Ok(sent) => sent,
            Err(Errno::EAGAIN | Errno::EINTR) => 0,
            Err(_) => return Next::Close,
        };
        self.unsent.extend_from_slice(&bytes[sent..]);
        Next::Send
    }

    fn flush(&mut self) -> Next {
        let unsent = std::mem::take(&mut self.unsent);
        self.send(&unsent)
    }
}
