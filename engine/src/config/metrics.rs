//! The address at which the server offers metrics.

use std::io;
use std::net::{SocketAddr, TcpListener};

use super::{InvalidSetting, Listener, Settings};
use crate::sys::listener::{ListenError, bind_alone};

/// Connections that may wait.
const BACKLOG: i32 = 64;

fn invalid(problem: String) -> InvalidSetting {
    InvalidSetting { setting: "metrics", problem }
}

pub(super) fn validate(address: Option<SocketAddr>, listen: &[Listener]) -> Result<(), InvalidSetting> {
    let Some(address) = address else { return Ok(()) };
    if address.port() == 0 {
        return Err(invalid(format!(
            "{address} has port 0; choose a fixed port for your monitoring system, such as 9180"
        )));
    }
    let is_taken = |listener: &Listener| listener.address.internet() == Some(address);
    if listen.iter().any(is_taken) {
        return Err(invalid(format!("`listen` also has {address}; choose another port for metrics")));
    }
    Ok(())
}

/// Listens at the address for metrics.
///
/// # Errors
/// Names the setting and the address, and says why it failed and what to do.
pub(crate) fn listen(address: SocketAddr) -> Result<TcpListener, InvalidSetting> {
    try_listen(address).map_err(|error| refused(address, &error))
}

fn refused(address: SocketAddr, error: &io::Error) -> InvalidSetting {
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => "another program listens there; stop it, or choose another port",
        io::ErrorKind::AddrNotAvailable => "this machine does not have the address; choose one that it has",
        io::ErrorKind::PermissionDenied => "ports below 1024 need a privilege; choose a higher port",
        _ => "choose another address",
    };
    invalid(format!("cannot listen on {address}: {error}; {advice}"))
}

fn try_listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = bind_alone(address).map_err(ListenError::into_io)?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

impl Settings {
    /// Asks whether metrics could be served at [`Settings::metrics`]. That the address is in use is no error: the running server
    /// may have it.
    ///
    /// # Errors
    /// Names the setting, the address, and says why not.
    pub fn check_metrics(&self) -> Result<(), InvalidSetting> {
        let Some(address) = self.metrics else { return Ok(()) };
        match try_listen(address) {
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => Err(refused(address, &error)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_cannot_be_had_is_said_with_what_to_do() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = taken.local_addr().expect("an address");
        let error = listen(address).expect_err("taken").to_string();
        assert!(error.starts_with(&format!("metrics: cannot listen on {address}")), "{error}");
        assert!(error.ends_with("stop it, or choose another port"), "{error}");
        let settings = |metrics| Settings { metrics: Some(metrics), ..Settings::default() };
        assert_eq!(settings(address).check_metrics(), Ok(()));
        drop(taken);
        assert_eq!(settings(address).check_metrics(), Ok(()));
        let elsewhere = ([192, 0, 2, 1], 9180).into();
        let error = settings(elsewhere).check_metrics().expect_err("not of this machine").to_string();
        assert!(error.contains("choose one that it has"), "{error}");
        assert!(settings(([127, 0, 0, 1], 0).into()).validate().is_err());
        let both = Settings { listen: vec![Listener::new(address)], ..settings(address) };
        assert!(both.validate().is_err_and(|error| error.setting == "metrics"));
        assert_eq!(settings(address).validate(), Ok(()));
    }
}
