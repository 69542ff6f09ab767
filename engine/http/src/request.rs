//! A request as its handler sees it: slices of the received bytes.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use ::http::StatusCode;
use matchit::Params;
use percent_encoding::percent_decode_str;
use serde::de::{Deserialize, DeserializeOwned};

use crate::accept::{self, Encoding};
use crate::error::Error;
use crate::head::{Field, Head};
use crate::method::Method;

/// A request. It borrows from the connection's input, and copies nothing before you ask for it.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    pub(crate) head: Head<'a>,
    /// The bytes to which the positions in the head's fields refer.
    pub(crate) bytes: &'a [u8],
    pub(crate) fields: &'a [Field],
    pub(crate) parameters: Option<&'a Params<'a, 'a>>,
    pub(crate) body: &'a [u8],
}

impl<'a> Request<'a> {
    /// The method.
    #[inline]
    pub fn method(&self) -> Method {
        self.head.method
    }

    /// The target as in the request line.
    pub fn target(&self) -> &'a str {
        self.head.target
    }

    /// The path, with its percent-encoding.
    #[inline]
    pub fn path(&self) -> &'a str {
        self.head.path
    }

    /// The part of the target after the first `?`.
    #[inline]
    pub fn query(&self) -> Option<&'a str> {
        self.head.query
    }

    /// The decoded value of the first pair of this name in the query, as a form has it; see [`query`](crate::query).
    pub fn query_value(&self, name: &str) -> Option<Cow<'a, str>> {
        crate::query::value(self.head.query, name)
    }

    /// The same, parsed; `None` if the query has no such pair.
    ///
    /// # Errors
    /// 400 if it does not parse.
    pub fn parse_query_value<T: FromStr<Err: fmt::Display>>(&self, name: &str) -> Result<Option<T>, Error> {
        self.query_value(name).map(|text| parse(name, &text)).transpose()
    }

    /// The query as a struct with a field for each name: `Option` or `#[serde(default)]` for a pair that may be missing, `Vec` for one
    /// that may be repeated. Parsed as [`query`](crate::query) does.
    ///
    /// # Errors
    /// 400 if it does not parse.
    pub fn parse_query<T: Deserialize<'a>>(&self) -> Result<T, Error> {
        serde_html_form::from_str(self.head.query.unwrap_or_default())
            .map_err(|error| Error::bad_request(format!("the query: {error}")))
    }

    /// The minor version of HTTP/1: 0 or 1.
    pub fn minor_version(&self) -> u8 {
        self.head.minor
    }

    /// The part of the path that stands for `{name}` in the route, percent-decoded.
    ///
    /// # Errors
    /// 400 if it is not UTF-8; 500 if the route has no such parameter.
    pub fn parameter(&self, name: &str) -> Result<Cow<'a, str>, Error> {
        let raw = self.parameters.and_then(|parameters| parameters.get(name)).ok_or_else(|| {
            Error::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the route has no parameter {name}"))
        })?;
        percent_decode_str(raw).decode_utf8().map_err(|_| Error::bad_request(format!("{name} is not UTF-8")))
    }

    /// The same, parsed.
    ///
    /// # Errors
    /// As [`Request::parameter`], and 400 if it does not parse.
    pub fn parse_parameter<T: FromStr<Err: fmt::Display>>(&self, name: &str) -> Result<T, Error> {
        parse(name, &self.parameter(name)?)
    }

    /// The value of the first header of this name, without whitespace around it.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.header_values(name).next()
    }

    /// The values of all headers of this name, in their order.
    pub fn header_values(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.headers().filter_map(move |(other, value)| other.eq_ignore_ascii_case(name.as_bytes()).then_some(value))
    }

    /// The coding for the answer that the client prefers, among those that the server `has`, in the server's order
    /// of preference. `None` if the client accepts none of them and not identity either: answer 406, or use identity anyway. An answer
    /// that depends on this needs `Vary: Accept-Encoding`. See [`accept::negotiate`].
    pub fn accepted_encoding(&self, has: &[Encoding]) -> Option<Encoding> {
        accept::negotiate(self.header_values("accept-encoding"), has)
    }

    /// All headers: name as it was sent, and value.
    pub fn headers(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let bytes = self.bytes;
        self.fields.iter().map(move |field| (field.name(bytes), field.value(bytes)))
    }

    /// The complete body; empty if the body goes to a [`Receive`](crate::Receive), and for `GET`, `HEAD`, `DELETE`,
    /// `OPTIONS` and `TRACE`, whose bodies are skipped.
    #[inline]
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// 400, with what is wrong and where.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(self.body)
            .map_err(|error| Error::bad_request(format!("the body is not the expected JSON: {error}")))
    }

    /// The body as a form's (`application/x-www-form-urlencoded`); see [`Request::parse_query`].
    ///
    /// # Errors
    /// 400 if it does not parse.
    pub fn form<T: Deserialize<'a>>(&self) -> Result<T, Error> {
        serde_html_form::from_bytes(self.body).map_err(|error| Error::bad_request(format!("the form: {error}")))
    }

    /// The length of the body as the client announced it; `None` if it is chunked.
    pub fn content_length(&self) -> Option<u64> {
        match self.head.framing {
            crate::head::Framing::Length(length) => Some(length),
            crate::head::Framing::Chunked => None,
        }
    }
}

fn parse<T: FromStr<Err: fmt::Display>>(name: &str, text: &str) -> Result<T, Error> {
    text.parse().map_err(|error| Error::bad_request(format!("{name}: {error}")))
}

impl fmt::Debug for Request<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_struct("Request");
        shown.field("method", &self.head.method).field("target", &self.head.target);
        shown.field("headers", &self.fields.len()).field("body_bytes", &self.body.len()).finish()
    }
}
