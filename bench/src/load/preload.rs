//! Sets the values that RESP GETs will read, before the load begins.

use std::io::{Read, Write};

use super::exchange::set_requests;
use super::plan::{ExchangePlan, Plan, RespCommand};
use super::stream::Stream;

/// The required answer to each SET.
const OK: &[u8] = b"+OK\r\n";

/// Sets every key of the plan, if it uses GET.
///
/// # Errors
/// If the server cannot be reached, or refuses.
pub(super) fn run(plan: &Plan) -> Result<(), String> {
    let ExchangePlan::Resp { command: RespCommand::Get, payload_bytes, keys } = plan.exchange else { return Ok(()) };
    let target = plan.target;
    let failed = |error: std::io::Error| format!("setting the keys to be asked for at {target}: {error}");
    let mut stream = Stream::connect(target, plan.tls.as_ref(), plan.timeout).map_err(failed)?;
    for request in set_requests(payload_bytes, keys) {
        stream.write_all(&request).and_then(|()| stream.flush()).map_err(failed)?;
        let mut answer = [0; OK.len()];
        stream.read_exact(&mut answer).map_err(failed)?;
        if answer != OK {
            return Err(format!("setting the keys to be asked for at {target}: {}", answer.escape_ascii()));
        }
    }
    Ok(())
}
