//! Which engine is used, and what is said when there is none, or the wrong one, or one that misbehaves.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::Command;

use crate::support::{Ended, Place, Running, is_root, job, nothing_left, until};
use crate::{needs_engine, skip};

/// Runs the job with `DOCKER_HOST` set.
fn with_host(place: &Place, host: &str) -> Ended {
    job(place, "true", "");
    let mut command = place.evenkeel(&["train", "job.yaml"]);
    command.env("DOCKER_HOST", host);
    Running::start(command).end()
}

/// One message, and no record of a run that never began.
#[track_caller]
fn refused(place: &Place, ended: Ended, words: &str) -> Ended {
    let ended = ended.with_code(3).saying(words);
    assert_eq!(ended.stderr.matches("error:").count(), 1, "{}", ended.stderr);
    assert_eq!(ended.stdout, "");
    assert!(!place.has_record(), "a record was begun");
    ended
}

#[test]
fn an_engine_that_is_not_there_is_named() {
    let place = Place::new();
    let ended = with_host(&place, "unix:///nonexistent/docker.sock");
    let ended = refused(&place, ended, "no Docker engine answers at `/nonexistent/docker.sock` (DOCKER_HOST)");
    ended.saying("hint: ");
}

#[test]
fn a_remote_engine_is_refused() {
    for host in ["tcp://192.0.2.1:2375", "ssh://farm"] {
        let place = Place::new();
        let ended = with_host(&place, host);
        refused(&place, ended, &format!("DOCKER_HOST names the engine `{host}`, which is reached by a network"));
    }
}

#[test]
fn a_socket_without_permission_is_told_from_one_that_is_not_there() {
    if is_root() {
        skip!("root may use every socket");
    }
    let place = Place::new();
    let socket = place.path().join("docker.sock");
    let _listener = UnixListener::bind(&socket).expect("a socket");
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o000)).expect("ours");
    let ended = with_host(&place, &format!("unix://{}", socket.display()));
    refused(&place, ended, "no permission to use the Docker socket").saying("docker");
}

#[test]
fn the_current_context_is_used() {
    needs_engine!();
    let place = Place::new();
    job(&place, "echo by context", "device: cpu\n");
    let config = place.path().join("config");
    let docker = |args: &[&str]| {
        let done = Command::new("docker").env("DOCKER_CONFIG", &config).env_remove("DOCKER_HOST").args(args).output();
        let done = done.expect("the docker command");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    let train = || {
        let mut command = place.evenkeel(&["train", "job.yaml"]);
        command.env("DOCKER_CONFIG", &config).env_remove("DOCKER_HOST").env_remove("DOCKER_CONTEXT");
        Running::start(command).end()
    };
    // A socket that leads to the engine under a name that nobody would guess.
    let socket = place.path().join("lab.sock");
    let real = std::env::var("DOCKER_HOST").unwrap_or_else(|_| "unix:///var/run/docker.sock".into());
    let Some(real) = real.strip_prefix("unix://") else { skip!("the engine is at `{real}`") };
    std::os::unix::fs::symlink(real, &socket).expect("a link");
    docker(&["context", "create", "lab", "--docker", &format!("host=unix://{}", socket.display())]);
    docker(&["context", "use", "lab"]);
    assert_eq!(train().with_code(0).stdout, "by context\n");
    nothing_left(&place);
    std::fs::remove_file(&socket).expect("ours");
    train().with_code(3).saying(&format!("no Docker engine answers at `{}` (context `lab`)", socket.display()));
}

/// A listener that answers every connection with these bytes, or with silence.
fn engine_that_says(place: &Place, answer: Option<&'static [u8]>) -> String {
    let socket = place.path().join("odd.sock");
    let listener = UnixListener::bind(&socket).expect("a socket");
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            if let Some(answer) = answer {
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(answer);
            } else {
                kept.push(stream);
            }
        }
    });
    format!("unix://{}", socket.display())
}

#[test]
fn something_else_at_the_socket_is_one_message() {
    for answer in [
        &b""[..],
        b"SSH-2.0-OpenSSH_9.2p1\r\n",
        b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 4\r\n\r\nnull",
        b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 13\r\n\r\n<html></html>",
    ] {
        let place = Place::new();
        let host = engine_that_says(&place, Some(answer));
        let ended = with_host(&place, &host);
        refused(&place, ended, "error: ");
    }
}

#[test]
fn an_engine_that_never_answers_can_be_left() {
    let place = Place::new();
    let host = engine_that_says(&place, None);
    job(&place, "true", "");
    let mut command = place.evenkeel(&["train", "job.yaml"]);
    command.env("DOCKER_HOST", host);
    let run = Running::start(command);
    // The handlers are in place when the program listens to the signal.
    until("the program to catch signals", || catches_interrupt(run.0.id()).then_some(()));
    run.signal("INT");
    run.end().with_code(130);
    assert!(!place.has_record(), "a record was begun");
}

/// Whether a process has a handler for SIGINT.
fn catches_interrupt(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or("0");
    u64::from_str_radix(caught.trim(), 16).is_ok_and(|caught| caught & 2 != 0)
}
