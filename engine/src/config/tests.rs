use super::*;

#[test]
fn the_defaults_are_valid() {
    assert_eq!(Settings::default().validate(), Ok(()));
}

#[test]
fn each_refusal_names_its_setting() {
    let refused = |change: fn(&mut Settings)| {
        let mut settings = Settings::default();
        change(&mut settings);
        settings.validate().expect_err("invalid").setting
    };
    assert_eq!(refused(|s| s.workers = 0), "workers");
    assert_eq!(refused(|s| s.unix_mode = 0o066), "unix_mode");
    assert_eq!(refused(|s| s.limits.connections_max = 0), "connections_max");
    assert_eq!(refused(|s| s.limits.outbound_bytes_low = s.limits.outbound_bytes_high), "outbound_bytes_low");
    assert_eq!(refused(|s| s.limits.memory_bytes_max = (2 << 20) - 1), "memory_bytes_max");
    assert_eq!(refused(|s| s.limits.receive_buffers = 100), "receive_buffers");
    assert_eq!(refused(|s| s.limits.receive_buffer_bytes = 10), "receive_buffer_bytes");
    assert_eq!(refused(|s| s.timeouts.idle_ms = u64::MAX), "idle_ms");
    assert_eq!(refused(|s| s.name = Some("n".repeat(65))), "name");
    assert_eq!(refused(|s| s.version = Some(String::new())), "version");
    let forever = |s: &mut Settings| {
        let timeouts = ConnectionTimeouts { write_ms: Some(u64::MAX), ..ConnectionTimeouts::default() };
        s.listen = vec![Listener { timeouts, ..Listener::new(([127, 0, 0, 1], 80)) }];
    };
    assert_eq!(refused(forever), "listen");
    let twice = |s: &mut Settings| s.listen = vec![Listener::new(([127, 0, 0, 1], 80)); 2];
    assert_eq!(refused(twice), "listen");
}
