//! The example's store in the harness, without a kernel. The test that uses it has the example as its module `service`.

use baton::testing::{Client, Harness};

use crate::service::Service;

/// A store and its first client.
pub(crate) fn store() -> (Harness<Service>, Client) {
    let mut harness = Harness::new(Service::default());
    let client = harness.open();
    (harness, client)
}

/// The answer to one line.
pub(crate) fn ask(harness: &mut Harness<Service>, client: Client, request: &str) -> String {
    harness.send(client, format!("{request}\r\n").as_bytes());
    String::from_utf8_lossy(&harness.take_output(client)).into_owned()
}
