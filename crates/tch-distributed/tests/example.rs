//! The program of the crate's documentation runs and says what it promises.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};

#[test]
fn two_processes_print_their_sum() {
    // cargo builds examples beside the tests' own folder.
    let mut program: PathBuf = std::env::current_exe().expect("this test's own program");
    program.pop();
    program.pop();
    program.push("examples/sum");
    let port = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr()).expect("a port").port();
    let rank = |rank: &str| {
        Command::new(&program)
            .args([rank, "2", &port.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("failed to start `{}`: {error}", program.display()))
    };
    for child in [rank("0"), rank("1")] {
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success());
        assert_eq!(String::from_utf8_lossy(&output.stdout), "3\n");
    }
}
