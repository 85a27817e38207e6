//! What the ranks of a host share, and what they cannot reach.

use crate::needs_engine;
use crate::support::{Place, docker, job, nothing_left};

#[test]
fn ranks_meet_on_loopback() {
    needs_engine!();
    let place = Place::new();
    let script = r#"
if [ $RANK = 0 ]; then
  perl -MIO::Socket::INET -e '
    my $listener = IO::Socket::INET->new(Listen => 1, LocalAddr => $ENV{MASTER_ADDR}, LocalPort => $ENV{MASTER_PORT}) or die $!;
    my $peer = $listener->accept; print "rank 0 heard ", scalar <$peer>; print $peer "hello 1\n"'
else
  until exec 3<>/dev/tcp/$MASTER_ADDR/$MASTER_PORT; do sleep 0.02; done 2>/dev/null
  echo "hello 0" >&3; read answer <&3; echo "rank 1 heard $answer"
fi"#;
    job(&place, script, "");
    let ended = place.run(&["train", "job.yaml"]).with_code(0);
    assert!(ended.stdout.contains("[0] rank 0 heard hello 0\n"), "{}", ended.stdout);
    assert!(ended.stdout.contains("[1] rank 1 heard hello 1\n"), "{}", ended.stdout);
    nothing_left(&place);
}

#[test]
fn ranks_share_memory_and_abstract_sockets() {
    needs_engine!();
    let place = Place::new();
    // NCCL compares the device of /dev/shm and passes handles over abstract sockets, whose names belong to a network
    // namespace.
    let script = r#"
if [ $RANK = 0 ]; then
  echo "written by 0" > /dev/shm/.word && mv /dev/shm/.word /dev/shm/word
  until [ -e /dev/shm/seen ]; do sleep 0.02; done
else
  until [ -e /dev/shm/word ]; do sleep 0.02; done
  cat /dev/shm/word; touch /dev/shm/seen
fi
echo shm $(stat -c %d /dev/shm); echo net $(readlink /proc/self/ns/net); echo ipc $(readlink /proc/self/ns/ipc)"#;
    job(&place, script, "shm_size: 96m\n");
    let ended = place.run(&["train", "job.yaml"]).with_code(0);
    assert!(ended.stdout.contains("[1] written by 0\n"), "{}", ended.stdout);
    for what in ["shm", "net", "ipc"] {
        let of = |rank: u32| {
            let start = format!("[{rank}] {what} ");
            ended.stdout.lines().find_map(|line| line.strip_prefix(&start).map(str::to_owned)).expect(what)
        };
        assert_eq!(of(0), of(1), "{what}");
    }
    nothing_left(&place);
}

#[test]
fn shared_memory_has_the_size_asked_for() {
    needs_engine!();
    let bytes = |more: &str| -> u64 {
        let place = Place::new();
        job(&place, "df --output=size -B1 /dev/shm | tail -1", &format!("device: cpu\n{more}"));
        let ended = place.run(&["train", "job.yaml"]).with_code(0);
        nothing_left(&place);
        ended.stdout.trim().parse().expect("a number of bytes")
    };
    assert_eq!(bytes("shm_size: 96m\n"), 96 << 20);
    // Docker's 64 MiB are what data loaders die of.
    assert!(bytes("") > 256 << 20);
}

#[test]
fn without_a_network_there_is_loopback_alone() {
    needs_engine!();
    let place = Place::new();
    job(&place, "ls /sys/class/net", "network: none\n");
    let ended = place.run(&["train", "job.yaml"]).with_code(0);
    let mut lines: Vec<&str> = ended.stdout.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["[0] lo", "[1] lo"]);
    nothing_left(&place);
}

#[test]
fn without_a_network_programs_find_themselves_by_name() {
    needs_engine!();
    let place = Place::new();
    let script = "for name in localhost $(hostname); do getent hosts $name | cut -d' ' -f1; done | xargs";
    job(&place, script, "network: none\n");
    let ended = place.run(&["train", "job.yaml"]).with_code(0);
    let mut lines: Vec<&str> = ended.stdout.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["[0] 127.0.0.1 127.0.0.1", "[1] 127.0.0.1 127.0.0.1"]);
    nothing_left(&place);

    // Names of one's own are possible, as in any container.
    let place = Place::new();
    place.write("hosts", "127.0.0.1 own\n");
    job(&place, "getent hosts own | xargs", "device: cpu\nvolumes: ['./hosts:/etc/hosts:ro']\n");
    assert_eq!(place.run(&["train", "job.yaml"]).with_code(0).stdout, "127.0.0.1 own\n");
    nothing_left(&place);
}

#[test]
fn a_bridge_leads_out_and_is_shared() {
    needs_engine!();
    let place = Place::new();
    job(
        &place,
        "ls /sys/class/net | xargs; echo addr $(awk '/32 host/ {print f} {f=$2}' /proc/net/fib_trie | sort -u)",
        "network: bridge\n",
    );
    let ended = place.run(&["train", "job.yaml"]).with_code(0);
    let of = |rank: u32| -> Vec<String> {
        let start = format!("[{rank}] ");
        ended.stdout.lines().filter_map(|line| line.strip_prefix(&start)).map(str::to_owned).collect()
    };
    assert!(of(0)[0].contains("eth0"), "{}", ended.stdout);
    assert_eq!(of(0), of(1), "one network for the pod");
    nothing_left(&place);
}

#[test]
fn the_hosts_network_is_the_hosts() {
    needs_engine!();
    let place = Place::new();
    job(&place, "readlink /proc/self/ns/net", "network: host\n");
    let ended = place.run(&["train", "job.yaml"]).with_code(0);
    // Asked of the engine and not of this process, which may itself be in a namespace of its own.
    let host = docker(&["run", "--rm", "--network", "host", &crate::support::image(), "readlink", "/proc/self/ns/net"]);
    let mut lines: Vec<&str> = ended.stdout.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, [format!("[0] {host}"), format!("[1] {host}")]);
    nothing_left(&place);
}

#[test]
fn on_the_hosts_network_two_runs_have_two_ports() {
    needs_engine!();
    let place = Place::new();
    // Held open while the second run begins: its port must be another.
    let script = r#"exec perl -MIO::Socket::INET -e '
        my $listener = IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1", LocalPort => $ENV{MASTER_PORT}) or die "port $ENV{MASTER_PORT}: $!";
        open my $mark, ">", "/place/mark-$ENV{EVENKEEL_RUN}" or die $!; close $mark;
        select undef, undef, undef, 0.02 while (() = glob "/place/mark-*") < 2;
        print "port $ENV{MASTER_PORT}\n"'"#;
    job(&place, script, "device: cpu\nnetwork: host\nvolumes: [.:/place]\n");
    let runs = [0, 1].map(|_| crate::support::Running::start(place.evenkeel(&["train", "job.yaml"])));
    let ports: Vec<String> = runs.into_iter().map(|run| run.end().with_code(0).stdout).collect();
    assert_ne!(ports[0], ports[1]);
    nothing_left(&place);
}
