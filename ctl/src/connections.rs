//! The commands about single connections. During an upgrade there are two masters, each with workers of its own: both
//! are asked.

use std::io::{self, Write};
use std::path::Path;

use baton::control::{
    CannotClose, ConnectionList, ConnectionName, ConnectionOrder, ConnectionStatus, Failure as Refused, Outcome,
    PeerStatus, Reply, Request, escaped,
};

use crate::arguments::Format;
use crate::show::{self, duration, table};
use crate::{ANSWER_TIME_MAX, Failure, announce, ask, other_sockets, print, unexpected};

/// Shows the connections of the master that has the control socket's name, then those of the others.
pub(crate) fn list(path: &Path, request: &Request, Format { json }: Format) -> Result<(), Failure> {
    let (reply, user) = ask(path, request, Some(ANSWER_TIME_MAX))?;
    announce(path, user);
    show_list(&reply, json, "")?;
    for other in other_sockets(path) {
        // A master that has left meanwhile has no connections, and one of an earlier release may not know the request.
        match ask(&other, request, Some(ANSWER_TIME_MAX)) {
            Ok((Reply::Failed(why), _)) => {
                let _ = writeln!(io::stderr(), "batonctl: the other master: {}", escaped(&why.to_string()));
            }
            Ok((reply, _)) => show_list(&reply, json, "\nthe other master:\n")?,
            Err(_) => {}
        }
    }
    Ok(())
}

fn show_list(reply: &Reply, json: bool, heading: &str) -> Result<(), Failure> {
    if json {
        print(&show::json(reply))?;
    }
    match reply {
        Reply::Done(Outcome::Connections(_)) if json => Ok(()),
        Reply::Done(Outcome::Connections(list)) => print(&format!("{heading}{}", self::text(list))),
        other => Err(unexpected(other)),
    }
}

/// Asks the master whose worker has the connection to end it.
pub(crate) fn close(path: &Path, id: ConnectionName, now: bool, Format { json }: Format) -> Result<(), Failure> {
    let request = Request::Close { id, now };
    let is_elsewhere =
        |reply: &Reply| matches!(reply, Reply::Failed(Refused::NotClosed { why: CannotClose::NoWorker, .. }));
    let (mut reply, user) = ask(path, &request, None)?;
    announce(path, user);
    if is_elsewhere(&reply) {
        let others = other_sockets(path);
        let replies = others.iter().filter_map(|other| Some(ask(other, &request, None).ok()?.0));
        reply = replies.into_iter().find(|reply| !is_elsewhere(reply)).unwrap_or(reply);
    }
    if json {
        print(&show::json(&reply))?;
    }
    match &reply {
        Reply::Done(Outcome::Closed { .. }) if json => Ok(()),
        Reply::Done(outcome @ Outcome::Closed { .. }) => print(&show::outcome(outcome)),
        other => Err(unexpected(other)),
    }
}

fn text(list: &ConnectionList) -> String {
    let table = if list.order == ConnectionOrder::ByPeer {
        table(&["peer", "connections"], list.peers.iter().map(peer))
    } else {
        let is_counted = list.order == ConnectionOrder::Busiest;
        let headings = ["id", "worker", "peer", "local", "state", "layer", "age", "idle", "held B", "events/s"];
        let headings = &headings[..headings.len() - usize::from(!is_counted)];
        table(headings, list.connections.iter().map(|one| connection(one, is_counted)))
    };
    format!("{table}{}\n", escaped(&list.to_string()))
}

fn connection(connection: &ConnectionStatus, is_counted: bool) -> Vec<String> {
    let ConnectionStatus { id, generation, worker, facts } = connection;
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let mut cells = vec![
        id.to_string(),
        format!("{generation}.{worker}"),
        facts.peer.to_string(),
        or_dash(facts.local.map(|local| escaped(&local.to_string()))),
        facts.state.to_string(),
        if facts.is_layered { "yes" } else { "-" }.to_owned(),
        duration(facts.age_ms),
        duration(facts.idle_ms),
        facts.held_bytes.to_string(),
    ];
    if is_counted {
        cells.push(or_dash(facts.events_per_second.map(|count| count.to_string())));
    }
    cells
}

fn peer(peer: &PeerStatus) -> Vec<String> {
    let PeerStatus { peer, connections, connections_max } = peer;
    let range = if connections_max > connections { format!(" to {connections_max}") } else { String::new() };
    vec![peer.to_string(), format!("{connections}{range}")]
}
