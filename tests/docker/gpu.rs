//! GPUs without a GPU: NVIDIA's library is played by one of ours, and a private engine has what looks like NVIDIA's hook
//! on its PATH, so that it takes requests for GPUs as an engine with the toolkit does.
//!
//! The private engine lives in a network namespace of its own: one beside another's would take its bridge away.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Ended, Place, Running, docker, entries, image, is_root, job, nothing_left, until};
use crate::{needs_engine, skip};

/// UUIDs of a machine with four cards, in the order of nvidia-smi; not in that of their names.
const CARDS: [&str; 4] = [
    "GPU-9f000000-1c2d-4e5f-8a9b-0123456789ab",
    "GPU-2f000001-1c2d-4e5f-8a9b-0123456789ab",
    "GPU-7f000002-1c2d-4e5f-8a9b-0123456789ab",
    "GPU-4f000003-1c2d-4e5f-8a9b-0123456789ab",
];

/// Our NVML, built by the same cargo: a `cdylib` cannot be a dependency of a test.
fn nvml() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(build_nvml)
}

fn build_nvml() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--locked", "-p", "evenkeel-nvml-stub", "--message-format=json"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let messages = String::from_utf8(built.stdout).expect("cargo speaks JSON");
    let library = messages.lines().find_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        let is_stub = message["target"]["name"] == "evenkeel_nvml_stub" && message["reason"] == "compiler-artifact";
        is_stub.then(|| message["filenames"][0].as_str().map(PathBuf::from))?
    });
    library.expect("cargo names the library")
}

/// A machine of four cards for the stub; the programs on each are given by its index.
fn machine(place: &Place, busy: &[usize]) -> PathBuf {
    let card = |(index, uuid): (usize, &&str)| {
        let programs = if busy.contains(&index) { json!([{ "pid": 5_000_001, "used": 1 << 30 }]) } else { json!([]) };
        json!({
            "uuid": uuid, "name": "NVIDIA RTX A5000", "memory": { "total": 25_769_803_776_u64, "free": 25_455_230_976_u64 },
            "compute_capability": [8, 6], "mig_mode": { "error": 3 }, "compute_processes": programs,
            "graphics_processes": [], "display_active": false,
        })
    };
    let devices: Vec<Value> = CARDS.iter().enumerate().map(card).collect();
    let document = json!({ "driver": "580.95.05", "nvml": "13.580.95.05", "cuda": 13000, "devices": devices });
    place.write("machine.json", &document.to_string())
}

/// `evenkeel` on that machine.
fn evenkeel(place: &Place, args: &[&str], busy: &[usize]) -> Command {
    let mut command = place.evenkeel(args);
    command.env("EVENKEEL_NVML", nvml()).env("EVENKEEL_NVML_STUB", machine(place, busy));
    command
}

/// An engine of our own, with the stub of NVIDIA's hook. It is ended, and its folders go, when this is dropped.
struct Private {
    process: Child,
    namespace: String,
    place: Place,
}

impl Private {
    /// Starts it with the bare image in it, or says why it cannot be.
    fn start() -> Result<Self, String> {
        if !is_root() {
            return Err("only root can start an engine".into());
        }
        for program in ["ip", "nsenter", "dockerd"] {
            let found = std::env::var_os("PATH")
                .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()));
            if !found {
                return Err(format!("there is no `{program}` on the PATH"));
            }
        }
        let place = Place::new();
        let hook = place.write("bin/nvidia-container-runtime-hook", "#!/bin/sh\nexit 0\n");
        std::fs::set_permissions(hook, std::fs::Permissions::from_mode(0o755)).expect("ours");
        // The machine's own settings name folders of its own engine.
        let settings = place.write("daemon.json", "{}\n");
        let namespace = format!("evenkeel-test-{}", std::process::id());
        let made = Command::new("ip").args(["netns", "add", &namespace]).output().expect("it is on the PATH");
        if !made.status.success() {
            return Err(format!("no network namespace: {}", String::from_utf8_lossy(&made.stderr).trim()));
        }
        let log = File::create(place.path().join("dockerd.log")).expect("a file");
        let path = |name: &str| place.path().join(name);
        // Not `ip netns exec`, which hides the control groups.
        let process = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{namespace}"))
            .arg("dockerd")
            .arg("--config-file")
            .arg(settings)
            .arg("--data-root")
            .arg(path("data"))
            .arg("--exec-root")
            .arg(path("exec"))
            .arg("--pidfile")
            .arg(path("pid"))
            .arg("--host")
            .arg(format!("unix://{}", path("docker.sock").display()))
            .args(["--storage-driver", &docker(&["info", "--format", "{{.Driver}}"])])
            .env("PATH", with_hook(&place))
            .env_remove("DOCKER_HOST")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log)
            .spawn()
            .expect("it is on the PATH");
        let mut engine = Self { process, namespace, place };
        let begin = Instant::now();
        while !engine.docker(&["version"]).status().is_ok_and(|status| status.success()) {
            if !matches!(engine.process.try_wait(), Ok(None)) || begin.elapsed() > Duration::from_secs(30) {
                let log = std::fs::read_to_string(engine.place.path().join("dockerd.log")).unwrap_or_default();
                return Err(format!(
                    "a second engine does not start: {}",
                    log.lines().last().unwrap_or("no word of it")
                ));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let mut save = Command::new("docker").args(["save", &image()]).stdout(Stdio::piped()).spawn().expect("docker");
        let loaded = engine.docker(&["load", "--quiet"]).stdin(save.stdout.take().expect("piped")).status();
        assert!(save.wait().is_ok_and(|saved| saved.success()) && loaded.is_ok_and(|loaded| loaded.success()));
        Ok(engine)
    }

    fn host(&self) -> String {
        format!("unix://{}", self.place.path().join("docker.sock").display())
    }

    /// `docker` on this engine, silent.
    fn docker(&self, args: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.args(args).env("DOCKER_HOST", self.host()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn says(&self, args: &[&str]) -> String {
        let output = self.docker(args).stdout(Stdio::piped()).output().expect("docker");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// `evenkeel train job.yaml` against this engine.
    fn train(&self, place: &Place, busy: &[usize]) -> Command {
        let mut command = evenkeel(place, &["train", "job.yaml"], busy);
        command.env("DOCKER_HOST", self.host()).env("PATH", with_hook(&self.place));
        command
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        // It ends its containers and its containerd itself, and takes its mounts away.
        crate::support::signal(&self.process, "TERM");
        let begin = Instant::now();
        while matches!(self.process.try_wait(), Ok(None)) && begin.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = Command::new("ip").args(["netns", "del", &self.namespace]).status();
    }
}

/// PATH with the stub of NVIDIA's hook before everything else.
fn with_hook(place: &Place) -> std::ffi::OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(place.path().join("bin")).chain(std::env::split_paths(&path));
    std::env::join_paths(folders).expect("the PATH holds no colons")
}

/// The value of a variable as a rank printed it.
#[track_caller]
fn printed(ended: &Ended, rank: usize, name: &str) -> String {
    let start = format!("[{rank}] {name}=");
    let line = ended.stdout.lines().find_map(|line| line.strip_prefix(&start));
    line.unwrap_or_else(|| panic!("no `{start}` in\n{}", ended.stdout)).to_owned()
}

/// One engine for all of it: starting it takes longer than any of the runs.
#[test]
fn containers_get_the_gpus_of_the_job() {
    needs_engine!();
    let engine = match Private::start() {
        Ok(engine) => engine,
        // As root with an engine of one's own required, these are requests that must be tested.
        Err(why) if is_root() && std::env::var("EVENKEEL_TEST_ENGINE").as_deref() == Ok("required") => panic!("{why}"),
        Err(why) => skip!("{why}"),
    };
    every_rank_sees_all_cards_of_the_job(&engine);
    the_order_asked_for_is_the_order_of_ranks(&engine);
    busy_cards_are_left_out(&engine);
    locked_cards_are_left_out(&engine);
    cards_are_sampled(&engine);
    a_card_that_hangs_holds_up_no_end(&engine);
    assert_eq!(engine.says(&["ps", "-aq"]), "", "containers were left behind");
}

fn every_rank_sees_all_cards_of_the_job(engine: &Private) {
    let place = Place::new();
    let script = "env | grep -E '^(NVIDIA_VISIBLE_DEVICES|CUDA_VISIBLE_DEVICES|LOCAL_RANK|EVENKEEL_DEVICE)='; \
                  echo memlock=$(ulimit -l); echo shm=$(stat -c %d /dev/shm)";
    job(&place, script, "gpus: 4\n");
    let ended = Running::start(engine.train(&place, &[])).end().with_code(0);
    for rank in 0..4 {
        let mut visible =
            printed(&ended, rank, "NVIDIA_VISIBLE_DEVICES").split(',').map(str::to_owned).collect::<Vec<_>>();
        visible.sort();
        let mut all = CARDS.map(str::to_owned);
        all.sort();
        assert_eq!(visible, all, "rank {rank} sees all cards of the job");
        assert_eq!(printed(&ended, rank, "CUDA_VISIBLE_DEVICES"), CARDS.join(","), "in the order of ranks");
        assert_eq!(printed(&ended, rank, "LOCAL_RANK"), rank.to_string());
        assert_eq!(printed(&ended, rank, "EVENKEEL_DEVICE"), "cuda");
        assert_eq!(printed(&ended, rank, "shm"), printed(&ended, 0, "shm"), "peers share their memory");
        let memlock = printed(&ended, rank, "memlock");
        if may_lift_limits() {
            assert_eq!(memlock, "unlimited");
        } else {
            assert_ne!(memlock, "unlimited", "this engine cannot lift the limit, and the run goes on without");
        }
    }
    let kept = entries(&place.journal(), "limit_kept").len();
    assert_eq!(kept, usize::from(!may_lift_limits()), "found out once");
    assert_eq!(ended.stderr.matches("locked memory").count(), kept, "{}", ended.stderr);
    assert!(!ended.stderr.contains("warning"), "four equal cards: {}", ended.stderr);
    // The plan names the cards, too.
    let plan: Value = serde_json::from_str(&place.recorded("plan.json")).expect("JSON");
    let devices: Vec<&str> =
        plan["ranks"].as_array().expect("ranks").iter().filter_map(|rank| rank["device"].as_str()).collect();
    assert_eq!(devices, CARDS);
    assert_eq!(entries(&place.journal(), "removed").len(), 4);
}

/// Whether this process, and so an engine that it starts, may lift limits on resources.
fn may_lift_limits() -> bool {
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = std::fs::read_to_string("/proc/self/status").expect("proc");
    let all = status.lines().find_map(|line| line.strip_prefix("CapEff:")).expect("capabilities");
    u64::from_str_radix(all.trim(), 16).expect("hexadecimal") & 1 << CAP_SYS_RESOURCE != 0
}

fn the_order_asked_for_is_the_order_of_ranks(engine: &Private) {
    let place = Place::new();
    job(&place, "env | grep -E '^(NVIDIA|CUDA)_VISIBLE_DEVICES='", "device: [3, 1]\n");
    let ended = Running::start(engine.train(&place, &[])).end().with_code(0);
    for rank in 0..2 {
        assert_eq!(printed(&ended, rank, "CUDA_VISIBLE_DEVICES"), format!("{},{}", CARDS[3], CARDS[1]));
        let visible = printed(&ended, rank, "NVIDIA_VISIBLE_DEVICES");
        assert!(
            visible.contains(CARDS[3]) && visible.contains(CARDS[1]) && visible.split(',').count() == 2,
            "{visible}"
        );
    }
}

fn busy_cards_are_left_out(engine: &Private) {
    let place = Place::new();
    job(&place, "env | grep ^CUDA_VISIBLE_DEVICES=", "device: auto\n");
    let ended = Running::start(engine.train(&place, &[1, 2])).end().with_code(0);
    assert_eq!(printed(&ended, 1, "CUDA_VISIBLE_DEVICES"), format!("{},{}", CARDS[0], CARDS[3]));
    // They are named, with who is busy on them.
    let ended = ended.saying("GPU 1").saying("GPU 2").saying("5000001");
    assert!(!ended.stdout.contains("[2]"), "{}", ended.stdout);
}

fn locked_cards_are_left_out(engine: &Private) {
    let place = Place::new();
    job(&place, "echo up; until [ -e /place/go ]; do sleep 0.02; done", "gpus: 2\nvolumes: [.:/place]\n");
    let first = Running::start(engine.train(&place, &[]));
    until("the first run", || {
        place.has_record().then(|| entries(&place.journal_so_far(), "go").len()).filter(|count| *count > 0)
    });
    // The same locks, as two users of one machine have.
    let other = Place::new();
    job(&other, "env | grep ^CUDA_VISIBLE_DEVICES=", "device: auto\n");
    let locks = place.path().join("locks");
    let with_locks = |place: &Place, locks: &Path| {
        let mut command = engine.train(place, &[]);
        command.env("EVENKEEL_LOCKS", locks);
        Running::start(command).end()
    };
    let ended = with_locks(&other, &locks).with_code(0);
    assert_eq!(printed(&ended, 0, "CUDA_VISIBLE_DEVICES"), format!("{},{}", CARDS[2], CARDS[3]));
    let third = Place::new();
    job(&third, "true", "gpus: 3\n");
    let refused = with_locks(&third, &locks).with_code(3);
    assert_eq!(refused.stderr.matches("error:").count(), 1, "{}", refused.stderr);
    assert!(!third.has_record(), "a record was begun");
    place.write("go", "");
    first.end().with_code(0);
    // Free again with its end.
    let again = Place::new();
    job(&again, "true", "gpus: 4\n");
    with_locks(&again, &locks).with_code(0);
}

/// Two cards that show something; a program of somebody else, this one, is on the second once `file` is there.
fn busy_machine(place: &Place, file: &str, more: &Value) -> PathBuf {
    let card = |uuid: &str| {
        let mut card = json!({
            "uuid": uuid, "name": "NVIDIA RTX A5000", "memory": { "total": 25_769_803_776_u64, "free": 20_000_000_000_u64 },
            "compute_capability": [8, 6], "mig_mode": { "error": 3 }, "compute_processes": [], "graphics_processes": [],
            "display_active": false, "utilization": 97, "temperature": 71, "power": 212_500, "throttling": 5,
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            card[key] = value.clone();
        }
        card
    };
    let mut devices = [card(CARDS[0]), card(CARDS[1])];
    let other = json!({ "pid": std::process::id(), "used": 1 << 30, "once": place.path().join(file) });
    devices[1]["compute_processes"] = json!([other]);
    devices[1]["power"] = json!({ "error": 3 });
    let document = json!({ "driver": "580.95.05", "nvml": "13.580.95.05", "cuda": 13000, "devices": devices });
    place.write("busy.json", &document.to_string())
}

fn cards_are_sampled(engine: &Private) {
    let place = Place::new();
    job(&place, "touch /place/up-$RANK; sleep 4", "device: [0, 1]\nvolumes: [.:/place]\n");
    let mut command = engine.train(&place, &[]);
    command.env("EVENKEEL_NVML_STUB", busy_machine(&place, "up-1", &json!({})));
    Running::start(command).end().with_code(0);
    let table = place.recorded("devices.csv");
    let header = "time_ms,generation,device,memory_used_bytes,memory_total_bytes,utilization_percent,temperature_c,power_w,throttling,processes\n";
    assert!(table.starts_with(header), "{table}");
    for (card, power) in [(CARDS[0], "212.5"), (CARDS[1], "")] {
        let rows: Vec<&str> = table.lines().filter(|line| line.contains(card)).collect();
        let shown = format!(",1,{card},5769803776,25769803776,97,71,{power},sw_power_cap,");
        assert!(rows.iter().all(|row| row.contains(&shown)), "no `{shown}` in all of\n{table}");
        let mut seconds: Vec<&str> = rows.iter().map(|row| &row[..10]).collect();
        seconds.dedup();
        assert!(seconds.len() >= 4 && rows.len() <= seconds.len() + 1, "{table}");
    }
    // Somebody else's program, by its number, its memory, and that it is none of the run's.
    let (pid, more) = (std::process::id(), format!(":{}:foreign", 1 << 30));
    let foreign = table.lines().filter(|row| row.contains(CARDS[1]) && row.ends_with(&more));
    assert!(foreign.clone().count() >= 2, "{table}");
    assert!(foreign.clone().all(|row| row.contains(&format!(",{pid}:"))), "{table}");
    assert!(!table.lines().any(|row| row.contains(CARDS[0]) && row.ends_with("foreign")), "{table}");
    let shown = Ended::from(place.evenkeel(&["show"]).output().expect("it starts")).with_code(0).stdout;
    for words in
        ["GPU-9f000000", "97 %", "212 W", "throttled", "sw_power_cap for ", "foreign", &format!("(process {pid})")]
    {
        assert!(shown.contains(words), "no `{words}` in\n{shown}");
    }
    // Ranks as well, by the kernel's counters of this engine.
    assert!(place.recorded("ranks.csv").lines().count() > 8, "{}", place.recorded("ranks.csv"));
}

fn a_card_that_hangs_holds_up_no_end(engine: &Private) {
    let place = Place::new();
    job(&place, "true", "device: [0, 1]\nvolumes: [.:/place]\n");
    let mut command = engine.train(&place, &[]);
    command.env("EVENKEEL_NVML_STUB", busy_machine(&place, "never", &json!({ "hang": "temperature" })));
    Running::start(command).end().with_code(0);
    assert!(!place.record().join("devices.csv").exists(), "a row of what never answered");
}

#[test]
fn an_engine_without_the_toolkit_is_told_before_anything_is_built() {
    needs_engine!();
    if docker(&["info", "--format", "{{json .Runtimes}}"]).contains("nvidia") {
        skip!("this engine has the toolkit");
    }
    let on_path = std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|folder| folder.join("nvidia-container-runtime-hook").is_file())
    });
    if on_path {
        skip!("NVIDIA's hook is on the PATH");
    }
    if std::env::var_os("EVENKEEL_TEST_PROGRAM").is_some() {
        skip!("the stub of NVML is built by who built the program");
    }
    let place = Place::new();
    // An image that would have to be built: it is not.
    place.write("image/Dockerfile", "FROM scratch\nCOPY nothing /\n");
    let text = "trainer: command\nbuild: ./image\ncommand: [\"true\"]\ngpus: 2\n";
    place.write("job.yaml", text);
    let ended = Ended::from(evenkeel(&place, &["train", "job.yaml"], &[]).output().expect("it starts")).with_code(3);
    let ended = ended.saying("NVIDIA Container Toolkit").saying("hint: ").saying("nvidia-ctk");
    assert_eq!(ended.stderr.matches("error:").count(), 1, "{}", ended.stderr);
    assert!(!place.has_record(), "a record was begun");
    nothing_left(&place);
}
