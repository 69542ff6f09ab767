//! Selects the handler that answers a request.

use std::any::TypeId;
use std::collections::HashMap;

use crate::error::Error;
use crate::exchange::{Receive, Thawed};
use crate::method::Method;
use crate::redirect::Redirect;
use crate::reply::{Done, Reply, Started};
use crate::request::Request;
use crate::websocket::{Socket, WebSockets};

/// How a route takes a body in parts.
pub enum Receiving<S> {
    /// The answer comes when the body is complete.
    Answers(Box<dyn Receive<S>>),
    /// The answer has begun, and its body is written while the request's arrives.
    Started(Started, Box<dyn Receive<S>>),
    /// The request was answered without its body, which is skipped.
    Answered(Done),
}

pub(crate) type Handler<S> = Box<dyn Fn(&mut S, &Request<'_>, Reply<'_, '_>) -> Result<Done, Error>>;
pub(crate) type Begin<S> = Box<dyn Fn(&mut S, &Request<'_>, Reply<'_, '_>) -> Result<Receiving<S>, Error>>;
type Thaw<S> = Box<dyn Fn(&[u8]) -> Option<Thawed<S>>>;

pub(crate) enum Endpoint<S> {
    /// Called with the complete request.
    Whole(Handler<S>),
    /// Called with the head; the result is then called with the body.
    Parts(Begin<S>),
}

const METHODS: [Method; 8] = [
    Method::Get,
    Method::Head,
    Method::Post,
    Method::Put,
    Method::Delete,
    Method::Patch,
    Method::Options,
    Method::Trace,
];

/// The endpoints of one path.
struct Resource {
    /// Indices of the router's endpoints, by method.
    endpoints: [Option<u16>; METHODS.len()],
    /// Value of the `Allow` header.
    allow: String,
}

/// What was found for a request.
pub(crate) enum Found<'r, 'p, S> {
    Endpoint(&'r Endpoint<S>, Option<matchit::Params<'r, 'p>>),
    /// Answer with the allowed methods.
    Options(&'r str),
    NotAllowed(&'r str),
    /// Redirect to TLS.
    Redirect(&'r Redirect),
    Nothing,
}

impl<'r, 'p, S> Found<'r, 'p, S> {
    /// The values of the route's parameters in the path.
    #[inline]
    pub(crate) fn parameters(&self) -> Option<&matchit::Params<'r, 'p>> {
        if let Self::Endpoint(_, parameters) = self { parameters.as_ref() } else { None }
    }

    /// Whether a request's body is passed on in parts.
    #[inline]
    pub(crate) fn takes_parts(&self) -> bool {
        matches!(self, Self::Endpoint(Endpoint::Parts(_), _))
    }

    /// Whether a handler wants the body.
    pub(crate) fn wants_body(&self, method: Method) -> bool {
        matches!(self, Self::Endpoint(Endpoint::Whole(_), _))
            && matches!(method, Method::Post | Method::Put | Method::Patch)
    }
}

/// Routes, each a path and a method with a handler.
///
/// A path is compared with the request's path as it was sent, with its percent-encoding. `{name}` matches one segment, or a part of
/// one, and `{*name}` the rest; an exact match wins. The handler of `GET` also answers `HEAD`. `OPTIONS` is answered with the allowed
/// methods, another method with 405, another path with 404 or the fallback.
pub struct Router<S = ()> {
    endpoints: Vec<Endpoint<S>>,
    resources: Vec<Resource>,
    /// Paths without parameters with their resources, by length.
    exact: Vec<Vec<(Box<str>, u16)>>,
    patterns: matchit::Router<u16>,
    /// All paths, to add a method to an existing one.
    paths: HashMap<String, u16>,
    fallback: Option<u16>,
    allow_any: String,
    thaws: HashMap<&'static str, Thaw<S>>,
    /// The kinds of sockets among these.
    sockets: HashMap<&'static str, TypeId>,
}

impl<S: 'static> Default for Router<S> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S: 'static> Router<S> {
    /// A router without routes, which answers 404 to everything.
    #[must_use]
    pub fn new() -> Self {
        Self {
            endpoints: Vec::new(),
            resources: Vec::new(),
            exact: Vec::new(),
            patterns: matchit::Router::new(),
            paths: HashMap::new(),
            fallback: None,
            allow_any: "OPTIONS".to_owned(),
            thaws: HashMap::new(),
            sockets: HashMap::new(),
        }
    }

    /// `GET`, and `HEAD` too.
    ///
    /// # Panics
    /// As [`Router::route`].
    #[must_use]
    pub fn get(
        self,
        path: &str,
        handler: impl Fn(&mut S, &Request<'_>, Reply<'_, '_>) -> Result<Done, Error> + 'static,
    ) -> Self {
        self.route(Method::Get, path, handler)
    }

    /// `POST`, with the whole body.
    ///
    /// # Panics
    /// As [`Router::route`].
    #[must_use]
    pub fn post(
        self,
        path: &str,
        handler: impl Fn(&mut S, &Request<'_>, Reply<'_, '_>) -> Result<Done, Error> + 'static,
    ) -> Self {
        self.route(Method::Post, path, handler)
    }

    /// `PUT`, with the whole body.
    ///
    /// # Panics
    /// As [`Router::route`].
    #[must_use]
    pub fn put(
        self,
        path: &str,
        handler: impl Fn(&mut S, &Request<'_>, Reply<'_, '_>) -> Result<Done, Error> + 'static,
    ) -> Self {
        self.route(Method::Put, path, handler)
    }

    /// `DELETE`.
    ///
    /// # Panics
    /// As [`Router::route`].
    #[must_use]
    pub fn delete(
        self,
        path: &str,
        handler: impl Fn(&mut S, &Request<'_>, Reply<'_, '_>) -> Result<Done, Error> + 'static,
    ) -> Self {
        self.route(Method::Delete, path, handler)
    }

    /// Any method. `handler` is called with the whole request.
    ///
    /// # Panics
    /// If the path is no valid pattern, already has a handler for the method, or conflicts with another pattern.
    #[must_use]
    pub fn route(
        mut self,
        method: Method,
        path: &str,
        handler: impl Fn(&mut S, &Request<'_>, Reply<'_, '_>) -> Result<Done, Error> + 'static,
    ) -> Self {
        self.add(method, path, Endpoint::Whole(Box::new(handler)));
        self
    }

    /// Any method; the body comes in parts. `begin` is called with the head alone. If it returns no error, a client that waits for
    /// `100 Continue` gets it.
    ///
    /// # Panics
    /// As [`Router::route`].
    #[must_use]
    pub fn receive(
        mut self,
        method: Method,
        path: &str,
        begin: impl Fn(&mut S, &Request<'_>, Reply<'_, '_>) -> Result<Receiving<S>, Error> + 'static,
    ) -> Self {
        self.add(method, path, Endpoint::Parts(Box::new(begin)));
        self
    }

    /// `GET` opens a WebSocket: `make` returns the value that handles its messages, or fails. It moves to other workers if it
    /// implements [`Socket::freeze`] and [`Socket::thaw`].
    ///
    /// # Panics
    /// As [`Router::route`], and where sockets of another kind, or something else that thaws, have the same [`Socket::NAME`].
    #[must_use]
    pub fn websocket<T: Socket>(
        self,
        path: &str,
        sockets: &WebSockets,
        make: impl Fn(&mut S, &Request<'_>) -> Result<T, Error> + 'static,
    ) -> Self {
        let (opening, thawing) = (sockets.clone(), sockets.clone());
        let mut this =
            self.get(path, move |state, request, reply| opening.open_with(request, reply, || make(state, request)));
        if this.sockets.insert(T::NAME, TypeId::of::<T>()) != Some(TypeId::of::<T>()) {
            let thaw: Thaw<S> = Box::new(move |state| thawing.thaw(state, T::thaw));
            let earlier = this.thaws.insert(T::NAME, thaw);
            assert!(earlier.is_none(), "two kinds of sockets have the name {:?} (Socket::NAME)", T::NAME);
        }
        this
    }

    /// Answers requests without a route, instead of 404.
    #[must_use]
    pub fn fallback(
        mut self,
        handler: impl Fn(&mut S, &Request<'_>, Reply<'_, '_>) -> Result<Done, Error> + 'static,
    ) -> Self {
        self.fallback = Some(self.push(Endpoint::Whole(Box::new(handler))));
        self
    }

    /// Thaws what was frozen under this name; `thaw` returns `None` for malformed bytes.
    #[must_use]
    pub fn thaws(mut self, name: &'static str, thaw: impl Fn(&[u8]) -> Option<Thawed<S>> + 'static) -> Self {
        self.thaws.insert(name, Box::new(thaw));
        self
    }

    pub(crate) fn thaw(&self, name: &str, state: &[u8]) -> Option<Thawed<S>> {
        self.thaws.get(name)?(state)
    }

    fn push(&mut self, endpoint: Endpoint<S>) -> u16 {
        self.endpoints.push(endpoint);
        u16::try_from(self.endpoints.len() - 1).expect("at most 65,536 handlers")
    }

    fn add(&mut self, method: Method, path: &str, endpoint: Endpoint<S>) {
        assert!(path.starts_with('/'), "the path {path:?} of a route begins with /");
        let place = self.push(endpoint);
        let resource = self.resource(path);
        let resource = &mut self.resources[usize::from(resource)];
        let earlier = resource.endpoints[method as usize].replace(place);
        assert!(earlier.is_none(), "there are two handlers for {method} {path}");
        resource.allow = allow(|method| resource.endpoints[method as usize].is_some());
        self.allow_any =
            allow(|method| self.resources.iter().any(|resource| resource.endpoints[method as usize].is_some()));
    }

    fn resource(&mut self, path: &str) -> u16 {
        if let Some(known) = self.paths.get(path) {
            return *known;
        }
        let place = u16::try_from(self.resources.len()).expect("fewer paths than handlers");
        self.resources.push(Resource { endpoints: [None; METHODS.len()], allow: String::new() });
        self.paths.insert(path.to_owned(), place);
        if let Err(problem) = self.patterns.insert(path, place) {
            panic!("the path {path:?} of a route: {problem}");
        }
        if !path.contains(['{', '}']) {
            if self.exact.len() <= path.len() {
                self.exact.resize_with(path.len() + 1, Vec::new);
            }
            self.exact[path.len()].push((path.into(), place));
        }
        place
    }

    /// Finds what answers a request.
    #[inline]
    pub(crate) fn find<'p>(&self, method: Method, path: &'p str) -> Found<'_, 'p, S> {
        let exact = self.exact.get(path.len()).and_then(|same| same.iter().find(|(other, _)| **other == *path));
        if let Some((_, place)) = exact {
            return self.of_resource(*place, method, None);
        }
        self.find_pattern(method, path)
    }

    fn find_pattern<'p>(&self, method: Method, path: &'p str) -> Found<'_, 'p, S> {
        if path == "*" {
            return Found::Options(&self.allow_any);
        }
        match self.patterns.at(path) {
            Ok(found) => self.of_resource(*found.value, method, Some(found.params)),
            Err(_) => match self.fallback {
                Some(place) => Found::Endpoint(&self.endpoints[usize::from(place)], None),
                None => Found::Nothing,
            },
        }
    }

    #[inline]
    fn of_resource<'r, 'p>(
        &'r self,
        place: u16,
        method: Method,
        parameters: Option<matchit::Params<'r, 'p>>,
    ) -> Found<'r, 'p, S> {
        let resource = &self.resources[usize::from(place)];
        let of = |method: Method| resource.endpoints[method as usize];
        match of(method).or_else(|| (method == Method::Head).then(|| of(Method::Get)).flatten()) {
            Some(place) => Found::Endpoint(&self.endpoints[usize::from(place)], parameters),
            None if method == Method::Options => Found::Options(&resource.allow),
            None => Found::NotAllowed(&resource.allow),
        }
    }
}

/// The value of `Allow`: `HEAD` comes with `GET`, and `OPTIONS` is always allowed.
fn allow(has: impl Fn(Method) -> bool) -> String {
    let is_allowed =
        |method: &Method| has(*method) || *method == Method::Options || *method == Method::Head && has(Method::Get);
    let names: Vec<&str> = METHODS.into_iter().filter(is_allowed).map(Method::name).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router() -> Router {
        let ok = |_: &mut (), _: &Request<'_>, reply: Reply<'_, '_>| reply.empty();
        Router::new()
            .get("/", ok)
            .post("/users", ok)
            .get("/users/{id}", ok)
            .delete("/users/{id}", ok)
            .get("/users/me", ok)
    }

    fn found(method: Method, path: &str) -> String {
        match router().find(method, path) {
            Found::Endpoint(_, parameters) => {
                let parameters = parameters.iter().flat_map(matchit::Params::iter);
                format!("found {:?}", parameters.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>())
            }
            Found::Options(allow) => format!("options {allow}"),
            Found::NotAllowed(allow) => format!("not allowed {allow}"),
            Found::Redirect(_) => "a redirect, which no router knows of".to_owned(),
            Found::Nothing => "not found".to_owned(),
        }
    }

    #[test]
    fn routes_are_found() {
        assert_eq!(found(Method::Get, "/"), "found []");
        assert_eq!(found(Method::Head, "/"), "found []");
        assert_eq!(found(Method::Get, "/users/7"), r#"found ["id=7"]"#);
        assert_eq!(found(Method::Get, "/users/me"), "found []");
        assert_eq!(found(Method::Delete, "/users/me"), "not allowed GET, HEAD, OPTIONS");
        assert_eq!(found(Method::Delete, "/users/7"), r#"found ["id=7"]"#);
        assert_eq!(found(Method::Put, "/users/7"), "not allowed GET, HEAD, DELETE, OPTIONS");
        assert_eq!(found(Method::Options, "/users"), "options POST, OPTIONS");
        assert_eq!(found(Method::Options, "*"), "options GET, HEAD, POST, DELETE, OPTIONS");
        assert_eq!(found(Method::Get, "/users/7/x"), "not found");
        assert_eq!(found(Method::Get, "/users/"), "not found");
    }

    #[test]
    #[should_panic(expected = "two handlers for GET /")]
    fn a_route_is_given_once() {
        let _ = router().get("/", |_, _, reply| reply.empty());
    }
}
