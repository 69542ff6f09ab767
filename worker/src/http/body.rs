//! A request body in progress: what is missing of it, and what is kept. Boxed, since few connections have one.

use baton::{CannotFreeze, ThawError};
use serde::{Deserialize, Serialize};

use super::chunked::Chunked;
use super::head::{Framing, Head, Request};
use super::refusal::Refusal;
use super::route::Action;

/// Room made at first for a body to be kept: no more on a peer's word alone.
const KEPT_BYTES_FIRST: usize = 64 * 1024;

#[derive(Serialize, Deserialize)]
enum Rest {
    Length(u64),
    Chunked(Chunked),
}

/// See the module's head.
#[derive(Serialize, Deserialize)]
pub(super) struct Body {
    pub(super) request: Request,
    pub(super) content_type: Option<Box<[u8]>>,
    /// The data, where the action wants it.
    #[serde(skip)]
    pub(super) kept: Vec<u8>,
    /// The time-out for the whole of it is set.
    pub(super) has_timer: bool,
    is_kept: bool,
    rest: Rest,
}

impl Body {
    pub(super) fn new(head: &Head<'_>, body_bytes_max: u64) -> Box<Self> {
        let is_kept = head.request.action == Action::Echo;
        let (rest, room) = match head.framing {
            Framing::Length(length) => (Rest::Length(length), usize::try_from(length).unwrap_or(usize::MAX)),
            Framing::Chunked => (Rest::Chunked(Chunked::new(body_bytes_max)), 0),
        };
        Box::new(Self {
            request: head.request,
            content_type: head.content_type.filter(|_| is_kept).map(Box::from),
            kept: Vec::with_capacity(if is_kept { room.min(KEPT_BYTES_FIRST) } else { 0 }),
            has_timer: false,
            is_kept,
            rest,
        })
    }

    /// Memory that it has.
    pub(super) fn held_bytes(&self) -> usize {
        size_of::<Self>() + self.kept.capacity() + self.content_type.as_ref().map_or(0, |name| name.len())
    }

    /// Takes input up to the end of the body, or all of it; says how much that was.
    pub(super) fn receive(&mut self, input: &[u8]) -> Result<usize, Refusal> {
        let Self { kept, is_kept, rest, .. } = self;
        let mut keep = |data: &[u8]| {
            if *is_kept {
                kept.extend_from_slice(data);
            }
        };
        match rest {
            Rest::Length(missing) => {
                let count = usize::try_from(*missing).unwrap_or(usize::MAX).min(input.len());
                keep(&input[..count]);
                *missing -= count as u64;
                Ok(count)
            }
            Rest::Chunked(chunked) => chunked.decode(input, keep),
        }
    }

    /// A head, its length before it, and what is kept.
    pub(super) fn freeze(&self, state: &mut Vec<u8>) -> Result<(), CannotFreeze> {
        let head = serde_json::to_vec(self).map_err(|_| CannotFreeze)?;
        let length = u32::try_from(head.len()).map_err(|_| CannotFreeze)?;
        state.extend_from_slice(&length.to_le_bytes());
        state.extend_from_slice(&head);
        state.extend_from_slice(&self.kept);
        Ok(())
    }

    /// The state is not trusted: nothing of it may be beyond what this server would have taken.
    pub(super) fn thaw(state: &[u8], head_bytes_max: usize, body_bytes_max: u64) -> Result<Box<Self>, ThawError> {
        let (length, rest) = state.split_first_chunk::<4>().ok_or(ThawError::Malformed)?;
        let (head, kept) = rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or(ThawError::Malformed)?;
        let mut body: Box<Self> = serde_json::from_slice(head).map_err(|_| ThawError::Malformed)?;
        let most = match &body.rest {
            Rest::Length(missing) => Some(*missing),
            Rest::Chunked(chunked) => chunked.most_to_come(),
        };
        let is_within_bounds =
            most.and_then(|most| most.checked_add(kept.len() as u64)).is_some_and(|all| all <= body_bytes_max)
                && body.content_type.as_ref().is_none_or(|content_type| content_type.len() <= head_bytes_max)
                && body.is_kept == (body.request.action == Action::Echo)
                && (body.is_kept || kept.is_empty())
                && !body.has_ended();
        if !is_within_bounds {
            return Err(ThawError::Malformed);
        }
        body.kept = kept.to_vec();
        Ok(body)
    }

    /// Whether nothing is missing.
    pub(super) fn has_ended(&self) -> bool {
        match &self.rest {
            Rest::Length(missing) => *missing == 0,
            Rest::Chunked(chunked) => chunked.has_ended(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::http::head::Persistence;

    const BODY_BYTES_MAX: u64 = 64;

    fn thaw(state: &[u8]) -> Result<Box<Body>, ThawError> {
        Body::thaw(state, 100, BODY_BYTES_MAX)
    }

    /// A body of which three bytes are kept, with `change` made to its frozen head.
    fn frozen(rest: Rest, change: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
        let body = Body {
            request: Request { action: Action::Echo, is_head: false, persistence: Persistence::Keep },
            content_type: None,
            kept: b"abc".to_vec(),
            has_timer: false,
            is_kept: true,
            rest,
        };
        let mut value = serde_json::to_value(&body).unwrap();
        change(&mut value);
        let head = serde_json::to_vec(&value).unwrap();
        [&(head.len() as u32).to_le_bytes()[..], &head, b"abc"].concat()
    }

    /// In its trailers, of which so many bytes have come.
    fn frozen_trailers(trailer_bytes: u32) -> Vec<u8> {
        frozen(Rest::Chunked(Chunked::new(BODY_BYTES_MAX - 3)), |value| {
            value["rest"]["Chunked"]["state"] = "TrailerName".into();
            value["rest"]["Chunked"]["trailer_bytes"] = trailer_bytes.into();
        })
    }

    #[test]
    fn frozen_trailer_count_that_would_overflow_is_refused() {
        assert!(thaw(&frozen_trailers(7)).is_ok());
        let thawed = thaw(&frozen_trailers(u32::MAX)).map(|mut body| body.receive(b"a"));
        assert!(matches!(thawed, Err(ThawError::Malformed)));
    }

    #[test]
    fn a_frozen_body_may_not_grow_beyond_what_this_server_takes() {
        let is_taken = |rest: Rest, change: fn(&mut serde_json::Value)| thaw(&frozen(rest, change)).is_ok();
        let unchanged = |_: &mut serde_json::Value| {};
        let chunked = |room| Rest::Chunked(Chunked::new(room));
        assert!(is_taken(Rest::Length(BODY_BYTES_MAX - 3), unchanged));
        assert!(!is_taken(Rest::Length(BODY_BYTES_MAX - 2), unchanged));
        assert!(!is_taken(Rest::Length(u64::MAX), unchanged));
        assert!(is_taken(chunked(BODY_BYTES_MAX - 3), unchanged));
        assert!(!is_taken(chunked(BODY_BYTES_MAX - 2), unchanged));
        assert!(!is_taken(chunked(u64::MAX), unchanged));
        let in_data = |value: &mut serde_json::Value| {
            value["rest"]["Chunked"]["state"] = "Data".into();
            value["rest"]["Chunked"]["size"] = 10.into();
        };
        assert!(is_taken(chunked(BODY_BYTES_MAX - 13), in_data));
        assert!(!is_taken(chunked(BODY_BYTES_MAX - 12), in_data));
        assert!(!is_taken(Rest::Length(0), unchanged), "it would have been answered");
        assert!(!is_taken(Rest::Length(1), |value| value["is_kept"] = false.into()));
        assert!(!is_taken(Rest::Length(1), |value| value["content_type"] = vec![b'a'; 101].into()));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn mutated_frozen_body_never_panics(
            changes in prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(&b"0123456789{}\",-\xff"[..])), 0..6),
            trailer_bytes in prop_oneof![0..9000u32, any::<u32>()],
            input in prop::collection::vec(prop::sample::select(&b"0aF;:\r\n x"[..]), 0..20),
        ) {
            let mut state = frozen_trailers(trailer_bytes);
            for (place, byte) in changes {
                let place = place.index(state.len());
                state[place] = byte;
            }
            if let Ok(mut body) = thaw(&state) && !body.has_ended() {
                let _ = body.receive(&input);
            }
        }
    }
}
