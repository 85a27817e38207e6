//! The programs of the crate's documentation run and say what they promise.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};

#[test]
fn two_processes_print_their_sum() {
    for output in outputs_of_two("sum") {
        assert_eq!(output, "3\n");
    }
}

#[test]
fn two_processes_train_one_model() {
    let [first, second] = outputs_of_two("train");
    assert_eq!(first, second);
    let losses: Vec<f64> =
        first.lines().filter_map(|line| line.split("loss ").nth(1)).map(|loss| loss.parse().expect("a loss")).collect();
    assert_eq!(losses.len(), 5, "{first}");
    assert!(losses[4] < losses[0] / 2.0, "{first}");
    assert!(first.lines().last().is_some_and(|line| line.starts_with("norm of")), "{first}");
}

/// Starts ranks 0 and 1 of an example side by side; what they print when both have ended well.
fn outputs_of_two(example: &str) -> [String; 2] {
    // cargo builds examples beside the tests' own folder.
    let mut program: PathBuf = std::env::current_exe().expect("this test's own program");
    program.pop();
    program.pop();
    program.push("examples");
    program.push(example);
    let port = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr()).expect("a port").port();
    let ranks = ["0", "1"].map(|rank| {
        Command::new(&program)
            .args([rank, "2", &port.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("failed to start `{}`: {error}", program.display()))
    });
    ranks.map(|child| {
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success());
        String::from_utf8(output.stdout).expect("text")
    })
}
