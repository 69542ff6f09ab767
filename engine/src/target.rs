//! The destination of an outbound connection.

use std::net::IpAddr;
use std::rc::Rc;

use crate::endpoint::Endpoint;

/// Where an outbound connection goes, and through which layer. An address alone is a target, too.
///
/// ```
/// # use std::net::SocketAddr;
/// use baton::Target;
///
/// let upstream = SocketAddr::from(([192, 0, 2, 7], 443));
/// let target = Target::new(upstream).with_layer("upstream", "api.example.com");
/// assert_eq!(target.address(), upstream.into());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub(crate) address: Endpoint,
    pub(crate) source: Option<IpAddr>,
    pub(crate) layer: Option<Through>,
}

/// The layer of an outbound connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Through {
    /// A name in [`Settings::outbound_layers`](crate::config::Settings::outbound_layers).
    pub(crate) name: Rc<str>,
    /// The server that the layer must meet at the other end.
    pub(crate) server_name: Rc<str>,
}

impl Target {
    /// This address, without a layer.
    pub fn new(address: impl Into<Endpoint>) -> Self {
        Self { address: address.into(), source: None, layer: None }
    }

    /// The same through the layer of this name in
    /// [`Settings::outbound_layers`](crate::config::Settings::outbound_layers), to the server `server_name`. With TLS,
    /// this is the name that the certificate must have, and that the server gets (SNI).
    #[must_use]
    pub fn with_layer(self, name: impl Into<Rc<str>>, server_name: impl Into<Rc<str>>) -> Self {
        Self { layer: Some(Through { name: name.into(), server_name: server_name.into() }), ..self }
    }

    /// The address.
    pub fn address(&self) -> Endpoint {
        self.address
    }

    /// The names of the layer and of the server, if there is a layer.
    pub fn layer(&self) -> Option<(&str, &str)> {
        self.layer.as_ref().map(|layer| (&*layer.name, &*layer.server_name))
    }
}

impl<T: Into<Endpoint>> From<T> for Target {
    fn from(address: T) -> Self {
        Self::new(address)
    }
}
