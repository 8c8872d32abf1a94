//! COM1 of the machine, over which the host is told to stop and the guest is typed to.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use anyhow::{Context, Result};
use nix::unistd::{getpgrp, tcgetpgrp};

/// Ctrl-X: the host prints the guest's registers and ends.
pub const STOP: u8 = 0x18;

pub struct Serial {
    listener: TcpListener,
    port: u16,
    line: Arc<Mutex<Line>>,
}

enum Line {
    /// The emulator has not connected yet; this is to be sent when it does.
    Waiting(Vec<u8>),
    Connected(TcpStream),
}

impl Serial {
    pub fn listen() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen for COM1")?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        Ok(Serial { listener, port, line: Arc::new(Mutex::new(Line::Waiting(Vec::new()))) })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Takes the emulator's connection once it comes, and gives what to read of it.
    pub fn accept(&mut self) -> Result<Option<TcpStream>> {
        let stream = match self.listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error).context("cannot connect COM1"),
        };
        stream.set_nonblocking(false)?;
        let reader = stream.try_clone()?;
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *line, Line::Connected(stream));
        if let Line::Waiting(bytes) = before {
            for byte in bytes {
                line.send(byte);
            }
        }
        Ok(Some(reader))
    }

    pub fn send(&mut self, byte: u8) {
        send(&self.line, byte);
    }

    /// Sends what is typed on this terminal from now on.
    pub fn connect_keyboard(&self) {
        // In the background, reading the terminal would stop this process.
        if tcgetpgrp(io::stdin()).is_ok_and(|foreground| foreground != getpgrp()) {
            return;
        }
        let line = Arc::clone(&self.line);
        thread::spawn(move || {
            for byte in io::stdin().lock().bytes() {
                let Ok(byte) = byte else { return };
                send(&line, byte);
            }
        });
    }
}

impl Line {
    fn send(&mut self, byte: u8) {
        match self {
            Line::Waiting(bytes) => bytes.push(byte),
            // An emulator that has ended hears nothing, which the session sees by itself.
            Line::Connected(stream) => {
                let _ = stream.write_all(&[byte]);
            }
        }
    }
}

fn send(line: &Mutex<Line>, byte: u8) {
    line.lock().unwrap_or_else(PoisonError::into_inner).send(byte);
}
