//! A Docker daemon that is killed and started again under a training. It is one of the test's own, in a network namespace of its own:
//! nobody else's containers are touched.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::support::{Place, Running, entries, image, is_root, job, until};
use crate::{needs_engine, skip};

/// A Docker daemon for one test.
struct Daemon {
    folder: tempfile::TempDir,
    more: &'static [&'static str],
    process: Option<Child>,
}

impl Daemon {
    /// Starts one and gives it the image that programs run in.
    fn new(more: &'static [&'static str]) -> Self {
        let folder = tempfile::Builder::new().prefix("evenkeel-daemon-").tempdir().expect("a temporary folder");
        // The one that is there knows what storage this machine can do.
        let storage = crate::support::docker(&["info", "--format", "{{.Driver}}"]);
        let config = serde_json::json!({ "storage-driver": storage });
        std::fs::write(folder.path().join("daemon.json"), config.to_string()).expect("written");
        let mut daemon = Self { folder, more, process: None };
        daemon.start();
        let mut save = Command::new("docker").args(["save", &image()]).stdout(Stdio::piped()).spawn().expect("docker");
        let load = daemon.docker(&["load"]).stdin(save.stdout.take().expect("piped")).output().expect("docker");
        assert!(load.status.success() && save.wait().expect("it ran").success(), "{load:?}");
        daemon
    }

    fn host(&self) -> String {
        format!("unix://{}", self.folder.path().join("docker.sock").display())
    }

    fn docker(&self, args: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.args(["--host", &self.host()]).args(args);
        command
    }

    fn start(&mut self) {
        let path = |name: &str| self.folder.path().join(name);
        let log = std::fs::OpenOptions::new().create(true).append(true).open(path("log")).expect("a log");
        let mut command = Command::new("unshare");
        command.args(["--net", "--", "dockerd", "--bridge", "none", "--iptables=false", "--host", &self.host()]);
        for (flag, name) in
            [("--config-file", "daemon.json"), ("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "pid")]
        {
            command.arg(flag).arg(path(name));
        }
        command.args(self.more).stdin(Stdio::null()).stdout(log.try_clone().expect("a handle")).stderr(log);
        self.process = Some(command.spawn().expect("the program starts"));
        until("the daemon", || {
            let gone = self.process.as_mut().and_then(|process| process.try_wait().expect("a child of ours"));
            assert!(gone.is_none(), "{}", std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default());
            self.docker(&["version"]).output().expect("docker").status.success().then_some(())
        });
    }

    /// Ends it without a word. Its containerd ends with it, and only then can the next one have its own; what runs in containers stays.
    fn kill(&mut self) {
        let mut process = self.process.take().expect("it runs");
        process.kill().expect("a child of ours");
        process.wait().expect("a child of ours");
        let pid = std::fs::read_to_string(self.folder.path().join("exec/containerd/containerd.pid")).expect("its pid");
        until("containerd's end", || (!Path::new("/proc").join(pid.trim()).exists()).then_some(()));
    }

    fn containers(&self) -> String {
        let output = self.docker(&["ps", "-aq"]).output().expect("docker");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.process.is_none() {
            // Whoever failed in between would leave its containers to nobody.
            self.start();
        }
        for container in self.containers().lines() {
            let _ = self.docker(&["rm", "-f", container]).output();
        }
        if let Some(mut process) = self.process.take() {
            let _ = Command::new("kill").arg(process.id().to_string()).status();
            let _ = process.wait();
        }
        // A daemon that was killed had mounted what the next one knows nothing of.
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
        let folder = self.folder.path().display().to_string();
        for mount in mounts.lines().rev().filter_map(|line| line.split(' ').nth(1)).filter(|at| at.starts_with(&folder))
        {
            let _ = Command::new("umount").args(["--lazy", mount]).status();
        }
    }
}

/// Why no daemon can be started here, if none can.
fn no_daemon() -> Option<&'static str> {
    let found = |program: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
    };
    match () {
        () if !is_root() => Some("only root may start a daemon"),
        () if !found("dockerd") => Some("there is no `dockerd`"),
        () => None,
    }
}

/// Two ranks that count to 60, keep their count in a checkpoint, and begin with it.
fn counting(place: &Place) {
    let script = "echo $EVENKEEL_GENERATION >> /place/starts-$RANK; cd /evenkeel/output\n\
                  count=$(cat count-$RANK 2>/dev/null || echo 0); echo from $count\n\
                  while [ $count -lt 60 ]; do\n\
                  count=$((count + 1)); echo $count > new-$RANK; mv new-$RANK count-$RANK; echo line $count; sleep 0.1\n\
                  [ $count = 20 ] && touch /place/midst-$RANK; done; true";
    job(place, script, "volumes: [.:/place]\n");
}

/// Trains, and kills the daemon and starts it again in the midst of it.
fn train_through_a_crash(daemon: &mut Daemon, place: &Place) {
    counting(place);
    let mut command = place.evenkeel(&["train", "job.yaml"]);
    command.env("DOCKER_HOST", daemon.host());
    let run = Running::start(command);
    until("the midst of it", || (0..2).all(|rank| place.path().join(format!("midst-{rank}")).exists()).then_some(()));
    daemon.kill();
    daemon.start();
    let ended = run.end();
    assert_eq!(ended.code, Some(0), "{}\n{:#?}", ended.stderr, place.journal());
    assert_eq!(daemon.containers(), "", "containers were left behind");
    for rank in 0..2 {
        assert_eq!(place.recorded(&format!("output/count-{rank}")), "60\n");
    }
}

#[test]
fn with_live_restore_a_training_does_not_notice() {
    needs_engine!();
    if let Some(why) = no_daemon() {
        skip!("{why}");
    }
    let (mut daemon, place) = (Daemon::new(&["--live-restore"]), Place::new());
    train_through_a_crash(&mut daemon, &place);
    let whole: String =
        std::iter::once("from 0\n".to_owned()).chain((1..=60).map(|count| format!("line {count}\n"))).collect();
    for rank in 0..2 {
        assert_eq!(place.log(rank), whole);
    }
    assert_eq!(entries(&place.journal(), "generation").len(), 1);
    assert_eq!(entries(&place.journal(), "engine_away").len(), 2, "each rank's container was asked for in vain");
}

#[test]
fn without_it_the_run_goes_on_from_its_checkpoint() {
    needs_engine!();
    if let Some(why) = no_daemon() {
        skip!("{why}");
    }
    let (mut daemon, place) = (Daemon::new(&[]), Place::new());
    train_through_a_crash(&mut daemon, &place);
    let journal = place.journal();
    assert_eq!(entries(&journal, "generation").len(), 2, "{journal:#?}");
    let failure = &entries(&journal, "again")[0]["detail"]["failure"];
    assert_eq!(failure["class"], "infrastructure", "{failure}");
    assert!(
        failure["message"].as_str().is_some_and(|message| message.contains("the engine had been away")),
        "{failure}"
    );
    for rank in 0..2 {
        let log = place.log(rank);
        let again = log.lines().filter_map(|line| line.strip_prefix("from ")).nth(1).expect("a second start");
        assert!(again.parse::<u32>().expect("a number") >= 20, "it began anew: {log}");
    }
}
