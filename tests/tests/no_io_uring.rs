//! Without io_uring, one message says why and what to do.

use baton_tests::program::{Server, batond, injecting, may_trace};

/// Starts batond with one of its system calls failing. Returns its final error message.
fn complaint_when(call: &str, injection: &str) -> String {
    let mut command = injecting(call, injection);
    command.arg(batond()).args(["--listen", "127.0.0.1:0", "--workers", "2"]);
    let mut server = Server::spawn(command);
    let status = server.wait();
    let log = server.log();
    assert_eq!(status.code(), Some(1), "{injection}: {log:#?}");
    let mut errors: Vec<_> = log.iter().filter(|line| line.starts_with("batond: error: ")).collect();
    assert_eq!(errors.len(), 1, "{injection}: {log:#?}");
    assert!(!log.iter().any(|line| line.contains("panicked")), "{injection}: {log:#?}");
    errors.remove(0).clone()
}

#[test]
fn a_kernel_or_container_without_it_is_named_with_the_cure() {
    if !may_trace() {
        return;
    }
    for (errno, cause, cure) in [
        ("ENOSYS", "kernel", "CONFIG_IO_URING"),
        ("EPERM", "seccomp", "allow io_uring_setup"),
        ("EINVAL", "refused", "use Linux 6.1 or newer"),
        ("ENOMEM", "memory", "ulimit -l"),
        ("EMFILE", "descriptor", "ulimit -n"),
    ] {
        let complaint = complaint_when("io_uring_setup", &format!("error={errno}"));
        for part in ["io_uring", cause, cure] {
            assert!(complaint.contains(part), "{errno}: no {part:?} in {complaint}");
        }
    }
}

#[test]
fn a_worker_that_cannot_make_its_ring_is_one_error_of_the_server() {
    if !may_trace() {
        return;
    }
    // Calls are counted per process: the master makes one, to probe; a worker then registers buffers.
    let complaint = complaint_when("io_uring_register", "error=ENOMEM:when=2+");
    for part in ["worker 0", "connections_max", "receive_buffers"] {
        assert!(complaint.contains(part), "no {part:?} in {complaint}");
    }
}
