//! Layers of outbound connections.

use std::collections::BTreeMap;

use super::InvalidSetting;
use crate::layer::SharedLayers;

/// Longest name of a layer in [`Settings::outbound_layers`](super::Settings::outbound_layers), bytes.
pub const LAYER_NAME_BYTES_MAX: usize = 64;

/// Checks that the names fit into the messages of connections that move.
pub(super) fn validate(layers: &BTreeMap<String, SharedLayers>) -> Result<(), InvalidSetting> {
    match layers.keys().find(|name| name.is_empty() || name.len() > LAYER_NAME_BYTES_MAX) {
        None => Ok(()),
        Some(name) => Err(InvalidSetting {
            setting: "outbound_layers",
            problem: format!("the name {name:?} must have 1 to {LAYER_NAME_BYTES_MAX} bytes, not {}", name.len()),
        }),
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{LAYER_NAME_BYTES_MAX, Settings};
    use crate::layer::{Layer, Layers, SharedLayers};
    use crate::types::ThawError;

    #[derive(Debug)]
    struct None;

    impl Layers for None {
        fn accept(&self) -> Option<Box<dyn Layer>> {
            Option::None
        }

        fn thaw(&self, _: &[u8]) -> Result<Box<dyn Layer>, ThawError> {
            Err(ThawError::Malformed)
        }
    }

    #[test]
    fn names_of_layers_have_bounds() {
        let with = |name: String| {
            let outbound_layers = [(name, SharedLayers::new(None))].into();
            Settings { outbound_layers, listen: vec![([127, 0, 0, 1], 0).into()], ..Settings::default() }
        };
        assert_eq!(with("x".repeat(LAYER_NAME_BYTES_MAX)).validate(), Ok(()));
        for name in [String::new(), "x".repeat(LAYER_NAME_BYTES_MAX + 1)] {
            assert_eq!(with(name).validate().map_err(|error| error.setting), Err("outbound_layers"));
        }
    }
}
