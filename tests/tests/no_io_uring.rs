//! Where there is no io_uring, one message says why and what to do.

use std::process::Command;

use baton_tests::program::{Server, batond, is_installed, run};
use baton_tests::skip;

#[test]
fn a_kernel_or_container_without_it_is_named_with_the_cure() {
    if !is_installed("strace") {
        skip("strace is not installed");
        return;
    }
    if !run(Command::new("strace").args(["-o", "/dev/null", "true"])).status.success() {
        skip("strace may not trace here");
        return;
    }
    for (errno, cause) in [("ENOSYS", "kernel"), ("EPERM", "seccomp"), ("ENOMEM", "memory")] {
        let mut command = Command::new("strace");
        command.args(["-f", "-o", "/dev/null", "-e", "trace=io_uring_setup"]);
        command.args(["-e", &format!("inject=io_uring_setup:error={errno}")]);
        command.arg(batond()).args(["--listen", "127.0.0.1:0"]);
        let mut server = Server::spawn(command);
        let status = server.wait();
        let log = server.log();
        assert_eq!(status.code(), Some(1), "{errno}: {log:#?}");
        let errors: Vec<_> = log.iter().filter(|line| line.starts_with("batond: error: ")).collect();
        assert_eq!(errors.len(), 1, "{errno}: {log:#?}");
        assert!(errors[0].contains("io_uring") && errors[0].contains(cause), "{errno}: {}", errors[0]);
    }
}
