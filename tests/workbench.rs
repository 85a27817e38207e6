//! The workbench as a person meets it: started by its script, reached through its ports, ended without a trace. And the compose
//! files, as compose reads them.
//!
//! The image is built first if it is missing, which takes minutes. Where there is no compose, the tests say so and pass.

#[path = "support/mod.rs"]
#[expect(dead_code, reason = "each program uses its part")]
mod support;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use support::{Ended, Place, docker};

/// Asks a kernel through Jupyter's API, inside the workbench: over HTTP for the kernel, over a websocket for the answer.
const NOTEBOOK: &str = r#"
import json, sys, urllib.request, uuid, websocket
host, token, code = "127.0.0.1:8888", sys.argv[1], sys.argv[2]
headers = {"Authorization": "token " + token}
asked = urllib.request.Request(f"http://{host}/api/kernels", data=b"{}", headers=headers, method="POST")
kernel = json.load(urllib.request.urlopen(asked, timeout=60))["id"]
channel = websocket.create_connection(f"ws://{host}/api/kernels/{kernel}/channels", header=headers, timeout=120)
header = {"msg_id": uuid.uuid4().hex, "username": "", "session": uuid.uuid4().hex, "msg_type": "execute_request", "version": "5.3"}
channel.send(json.dumps({"header": header, "parent_header": {}, "metadata": {}, "channel": "shell", "content": {"code": code}}))
while (told := json.loads(channel.recv()))["msg_type"] != "execute_reply":
    if told["msg_type"] == "stream":
        print(told["content"]["text"], end="")
print(told["content"]["status"])
"#;

/// Why no compose can be asked here; else the command that it is.
fn compose() -> Result<Vec<&'static str>, String> {
    let there = |words: &[&str]| {
        let output = Command::new(words[0]).args(&words[1..]).arg("version").output();
        output.is_ok_and(|output| output.status.success())
    };
    let known = [vec!["docker", "compose"], vec!["docker-compose"]];
    known.into_iter().find(|words| there(words)).ok_or("neither `docker compose` nor `docker-compose` is here".into())
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A workbench of this test's own, ended with it.
struct Workbench {
    place: Place,
    image: String,
    project: String,
    ports: [u16; 2],
}

impl Workbench {
    fn new() -> Self {
        let place = Place::new();
        let image = place.run(&["image", "build", "workbench"]).with_code(0).stdout.trim().to_owned();
        place.write("data/a-picture.txt", "");
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(place.path().join("key")).stdin(Stdio::null());
        assert!(keygen.status().is_ok_and(|status| status.success()), "ssh-keygen made no key");
        // Held together, so that they differ; free again when they are returned.
        let held = [(); 2].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port"));
        let ports = held.each_ref().map(|held| held.local_addr().expect("bound").port());
        Self { project: format!("evenkeel-test-workbench-{}", std::process::id()), place, image, ports }
    }

    fn script(&self, command: &str) -> Ended {
        let folder = |name: &str| self.place.path().join(name);
        let keys = std::fs::read_to_string(folder("key.pub")).expect("a public key");
        let mut script = Command::new(root().join("compose/workbench.sh"));
        script.arg(command).stdin(Stdio::null());
        for inherited in ["EVENKEEL_USER", "EVENKEEL_BIND", "EVENKEEL_TOKEN", "EVENKEEL_SHM_SIZE"] {
            script.env_remove(inherited);
        }
        let output = script
            .env("EVENKEEL_WORKBENCH_IMAGE", &self.image)
            .env("EVENKEEL_PROJECT", &self.project)
            .env("EVENKEEL_WORKBENCH", folder("workbench"))
            .env("EVENKEEL_DATA", folder("data"))
            .env("EVENKEEL_JOBS", folder("jobs"))
            .env("EVENKEEL_RUNS", folder("runs"))
            .env("EVENKEEL_JUPYTER_PORT", self.ports[0].to_string())
            .env("EVENKEEL_SSH_PORT", self.ports[1].to_string())
            .env("EVENKEEL_AUTHORIZED_KEYS", keys)
            // A proxy that is not there: nothing of this may go through one.
            .env("http_proxy", "http://127.0.0.1:9")
            .output();
        output.expect("the script starts").into()
    }

    /// What compose has of this project, of one kind of thing.
    fn has(&self, list: &[&str]) -> String {
        let filter = format!("label=com.docker.compose.project={}", self.project);
        docker(&[list, &["-q", "--filter", &filter]].concat())
    }

    fn ssh(&self, user: &str, options: &[&str], command: &str) -> Ended {
        let port = self.ports[1].to_string();
        let mut ssh = Command::new("ssh");
        ssh.args(["-F", "none", "-p", &port, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]);
        ssh.args(["-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-i"]).arg(self.place.path().join("key"));
        ssh.args(options).args([&format!("{user}@127.0.0.1"), command]).stdin(Stdio::null());
        ssh.output().expect("the ssh command").into()
    }

    /// The status of a request to Jupyter from this machine.
    fn status(&self, path: &str) -> u16 {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.ports[0])).expect("Jupyter's port is open");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
        write!(stream, "GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n").expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        status.unwrap_or_else(|| panic!("no status in {answer}"))
    }
}

impl Drop for Workbench {
    fn drop(&mut self) {
        self.script("down");
    }
}

#[test]
fn a_workbench_serves_its_user_alone_and_leaves_nothing() {
    needs_engine!();
    if let Err(why) = compose() {
        skip!("{why}");
    }
    if Command::new("ssh").arg("-V").output().is_err() {
        skip!("there is no ssh command");
    }
    let workbench = Workbench::new();
    let up = workbench.script("up").with_code(0).stdout;
    let token =
        up.split_once("token=").and_then(|(_, rest)| rest.split_whitespace().next()).expect("a token is printed");
    let user = std::fs::read_to_string(workbench.place.path().join("workbench/user")).expect("the user is told");
    let user = user.trim();
    assert!(up.contains(&format!("ssh -p {} {user}@127.0.0.1", workbench.ports[1])), "{up}");

    // Again: the same one, with the same token.
    let container = workbench.has(&["ps"]);
    assert_eq!(workbench.script("up").with_code(0).stdout, up);
    assert_eq!(workbench.has(&["ps"]), container);

    let code = "import ultralytics, torch; print(ultralytics.__version__, torch.__version__)";
    let told = docker(&["exec", &container, "python3", "-c", NOTEBOOK, token, code]);
    // The package has its own words before ours.
    let told: Vec<_> = told.lines().rev().take(2).collect();
    assert!(told[0] == "ok" && told[1].starts_with("8.4.") && told[1].contains(" 2.11.0"), "{told:?}");

    assert_eq!(workbench.status(&format!("/api/kernels?token={token}")), 200);
    assert_eq!(workbench.status("/api/kernels?token=wrong"), 403);
    assert_eq!(workbench.status("/api/kernels"), 403);

    let listed = workbench.ssh(user, &[], "echo $HOME && ls /workspace/data").with_code(0);
    assert_eq!(listed.stdout, "/workbench/home\na-picture.txt\n");
    workbench.ssh(user, &[], "touch /workspace/data/b").with_code(1).saying("Read-only");
    // The server says what it would take: a key, and no password.
    let password = ["-o", "PubkeyAuthentication=no", "-o", "PreferredAuthentications=password,keyboard-interactive"];
    workbench.ssh(user, &password, "true").with_code(255).saying("Permission denied (publickey).");

    workbench.script("down").with_code(0);
    for kind in [&["ps", "-a"][..], &["network", "ls"], &["volume", "ls"]] {
        assert_eq!(workbench.has(kind), "", "{kind:?} are left");
    }
}

#[test]
fn a_failed_build_starts_no_workbench() {
    let place = Place::new();
    let made = Command::new("make")
        .args(["--no-print-directory", "workbench", "CARGO=true", "EVENKEEL=false"])
        .current_dir(root())
        .env("EVENKEEL_PROJECT", "evenkeel-test-unbuilt")
        .env("EVENKEEL_WORKBENCH", place.path().join("workbench"))
        .output();
    let made = Ended::from(made.expect("the make command"));
    assert_ne!(made.code, Some(0));
    // The script makes this folder first.
    assert!(!place.path().join("workbench").exists(), "the script was run:\n{}", made.stderr);
}

#[test]
fn compose_reads_every_stack() {
    let compose = match compose() {
        Ok(compose) => compose,
        Err(why) => skip!("{why}"),
    };
    let config = |files: &[&str], set: &[(&str, &str)]| {
        let mut command = Command::new(compose[0]);
        command.args(&compose[1..]).current_dir(root()).envs(set.iter().copied());
        for file in files {
            command.arg("-f").arg(format!("compose/{file}"));
        }
        Ended::from(command.args(["config", "-q"]).output().expect("compose starts"))
    };
    for (stack, image) in [("workbench", "EVENKEEL_WORKBENCH_IMAGE"), ("controller", "EVENKEEL_CONTROLLER_IMAGE")] {
        let (plain, gpu) = (format!("{stack}.yaml"), format!("{stack}.gpu.yaml"));
        let set =
            [(image, "evenkeel/some:tag"), ("EVENKEEL_HOME", "/home/me"), ("EVENKEEL_CHECKOUT", "/home/me/evenkeel")];
        config(&[&plain], &set).with_code(0);
        config(&[&plain, &gpu], &set).with_code(0);
        // An image that nobody named is none that happens to be there.
        assert_ne!(config(&[&plain], &[set[1], set[2], (image, "")]).code, Some(0));
    }
}
