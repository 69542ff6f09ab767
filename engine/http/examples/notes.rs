//! Notes as JSON, in memory: `curl -d '{"text":"milk"}' localhost:8000/notes` and `curl localhost:8000/notes/0`.

use baton::Server;
use baton_http::{Error, Http, HttpConfig, Router, State, StatusCode};

#[derive(serde::Deserialize, serde::Serialize)]
struct Note {
    text: String,
}

#[derive(Default)]
struct Notes(Vec<Note>);
impl State for Notes {}

fn main() -> Result<(), baton::ServerError> {
    let router = || {
        Router::new()
            .get("/notes/{id}", |notes: &mut Notes, request, reply| {
                let id: usize = request.parse_parameter("id")?;
                reply.json(notes.0.get(id).ok_or_else(Error::not_found)?)
            })
            .post("/notes", |notes: &mut Notes, request, reply| {
                notes.0.push(request.json()?);
                reply.status(StatusCode::CREATED).json(&(notes.0.len() - 1))
            })
    };
    let http = |_slot| Http::new(&HttpConfig::default(), router(), Notes::default());
    Server::builder().listen(([127, 0, 0, 1], 8000)).build()?.run(http)
}
