//! Locks between real processes and users.

use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use evenkeel::inventory::lock::{self, DeviceLocks, LockError, held_by};
use evenkeel::inventory::{Availability, DeviceId, DeviceRequest, Gpu, Host, Inventory, Mig, SelectOptions};

use super::child::{HoldingProcess, gpu, holder, no_forks, this_program};

/// A folder that every user can enter, and the folder of locks in it, which is not there yet.
fn place() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).expect("ours");
    let locks = folder.path().join("locks");
    (folder, locks)
}

fn acquire(directory: &Path, uuids: &[&str]) -> Result<DeviceLocks, LockError> {
    let devices: Vec<DeviceId> = uuids.iter().map(|uuid| gpu(uuid)).collect();
    DeviceLocks::acquire(directory, &devices, &holder("test"))
}

#[test]
fn a_lock_is_freed_by_death_even_when_a_child_lives_on() {
    let (_folder, locks) = place();
    let mut other = HoldingProcess::start(&this_program(), &locks, "GPU-a,GPU-b", None);
    match acquire(&locks, &["GPU-b"]) {
        Err(LockError::Held { device, by }) => {
            assert_eq!((device, by.pid, by.run.as_str()), (gpu("GPU-b"), other.pid(), "child"));
            assert!(by.way_out().contains(&format!("kill -INT {}", other.pid())));
        }
        result => panic!("{result:?}"),
    }
    assert_eq!(held_by(&locks, "GPU-a").map(|by| by.pid), Some(other.pid()));
    assert_eq!(held_by(&locks, "GPU-c"), None);
    other.kill();
    assert!(other.heir_lives());
    assert_eq!(held_by(&locks, "GPU-a"), None);
    drop(acquire(&locks, &["GPU-b", "GPU-a"]).expect("death freed both"));
}

#[test]
fn all_are_locked_or_none() {
    let _alone = no_forks();
    let (_folder, locks) = place();
    let held = acquire(&locks, &["GPU-b"]).expect("free");
    assert!(matches!(acquire(&locks, &["GPU-c", "GPU-a", "GPU-b"]), Err(LockError::Held { .. })));
    assert_eq!(held_by(&locks, "GPU-a"), None);
    assert_eq!(held_by(&locks, "GPU-c"), None);
    drop(held);
    drop(acquire(&locks, &["GPU-c", "GPU-a", "GPU-b", "GPU-a"]).expect("free, and one of them is named twice"));
}

#[test]
fn every_user_can_lock_and_read() {
    if !rustix::process::getuid().is_root() {
        eprintln!("skipped: only root can start a process of another user");
        return;
    }
    const NOBODY: u32 = 65534;
    let (folder, locks) = place();
    // That user may not be able to enter the folder that this program was built in.
    let program = folder.path().join("program");
    std::fs::copy(this_program(), &program).expect("copied");
    // Made by root: the other user can lock it.
    drop(acquire(&locks, &["GPU-root"]).expect("free"));
    let other = HoldingProcess::start(&program, &locks, "GPU-root,GPU-nobody", Some(NOBODY));
    for uuid in ["GPU-root", "GPU-nobody"] {
        let by = held_by(&locks, uuid).expect("held");
        assert_eq!((by.pid, by.uid), (other.pid(), NOBODY), "{uuid}");
    }
    drop(other);
    // Made by the other user: root can lock it, though `fs.protected_regular` stops an open that would create.
    drop(acquire(&locks, &["GPU-nobody"]).expect("freed"));
    let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o7777;
    assert_eq!(mode(&locks), 0o1777);
    assert_eq!(mode(&locks.join("GPU-nobody.lock")), 0o666);
}

#[test]
fn looking_never_keeps_a_run_out() {
    let (_folder, locks) = place();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let _ = held_by(&locks, "GPU-a");
                    // A thousand looks a second are more than any machine sees. Without a pause two lookers hold the lock most of the time.
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
        }
        let results: Vec<_> = (0..300).map(|_| acquire(&locks, &["GPU-a"]).map(drop)).collect();
        stop.store(true, Ordering::Relaxed);
        assert!(results.iter().all(Result::is_ok), "{:?}", results.iter().find(|result| result.is_err()));
    });
}

#[test]
fn a_removed_file_is_not_taken_for_the_lock() {
    let (_folder, locks) = place();
    let first = acquire(&locks, &["GPU-a"]).expect("free");
    // As a cleaner of old files would. The next run makes the file anew, and a third one meets that.
    std::fs::remove_file(locks.join("GPU-a.lock")).expect("there");
    let second = acquire(&locks, &["GPU-a"]).expect("a new file");
    drop(first);
    assert!(matches!(acquire(&locks, &["GPU-a"]), Err(LockError::Held { .. })));
    drop(second);
}

#[test]
fn nothing_but_a_plain_file_of_its_own_is_written_to() {
    let (folder, locks) = place();
    drop(acquire(&locks, &["GPU-a"]).expect("makes the folder"));
    let victim = folder.path().join("victim");
    std::fs::write(&victim, "precious").expect("written");
    std::os::unix::fs::symlink(&victim, locks.join("GPU-link.lock")).expect("made");
    std::fs::hard_link(&victim, locks.join("GPU-hard.lock")).expect("made");
    let pipe = locks.join("GPU-pipe.lock");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).expect("made");
    for uuid in ["GPU-link", "GPU-hard", "GPU-pipe"] {
        assert!(matches!(acquire(&locks, &[uuid]), Err(LockError::File { .. })), "{uuid}");
        assert_eq!(held_by(&locks, uuid), None);
    }
    assert_eq!(std::fs::read_to_string(&victim).expect("there"), "precious");
    assert!(std::fs::symlink_metadata(&pipe).expect("there").file_type().is_fifo());
    // A name from a file that somebody wrote stays inside the folder.
    drop(acquire(&locks, &["../victim"]).expect("a name of its own"));
    assert_eq!(std::fs::read_to_string(&victim).expect("there"), "precious");
    // Nor is a link taken for the folder.
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&locks, &link).expect("made");
    assert!(matches!(acquire(&link, &["GPU-a"]), Err(LockError::Directory { .. })));
}

#[test]
fn rubbish_in_a_lock_file_is_no_holder_and_no_obstacle() {
    let _alone = no_forks();
    let (_folder, locks) = place();
    drop(acquire(&locks, &["GPU-a"]).expect("free"));
    let path = locks.join("GPU-a.lock");
    std::fs::write(&path, vec![0xff; 100_000]).expect("written");
    assert_eq!(held_by(&locks, "GPU-a"), None);
    let held = acquire(&locks, &["GPU-a"]).expect("free");
    assert_eq!(held_by(&locks, "GPU-a"), Some(holder("test")), "the rubbish is gone");
    std::fs::write(&path, "{\"pid\": \"no\"").expect("written");
    let by = held_by(&locks, "GPU-a").expect("held, whatever the file says");
    assert_eq!(by.to_string(), "another run");
    drop(held);
}

#[test]
fn cpu_devices_take_no_lock() {
    let (_folder, locks) = place();
    let devices = [DeviceId::Cpu { index: 0 }, DeviceId::Cpu { index: 1 }];
    let first = DeviceLocks::acquire(&locks, &devices, &holder("a")).expect("shared");
    let second = DeviceLocks::acquire(&locks, &devices, &holder("b")).expect("shared");
    assert!(!locks.exists());
    drop((first, second));
}

#[test]
fn a_held_card_is_left_out() {
    let _alone = no_forks();
    let (_folder, locks) = place();
    let card = |index: u32, uuid: &str| Gpu {
        index,
        uuid: Some(uuid.into()),
        mig: Some(Mig::Disabled),
        compute_processes: Some(Vec::new()),
        ..Gpu::default()
    };
    let mut inventory = Inventory {
        gpus: vec![card(0, "GPU-a"), card(1, "GPU-b")],
        note: None,
        ..Inventory::without_gpus(Host { cpus: 2, ..Host::default() }, "")
    };
    let held = acquire(&locks, &["GPU-a"]).expect("free");
    lock::mark(&mut inventory, &locks);
    assert!(matches!(evenkeel::inventory::availability(&inventory.gpus[0]), Availability::Held { .. }));
    let selection = evenkeel::inventory::select(&inventory, &DeviceRequest::Auto, &SelectOptions::default());
    let selection = selection.expect("the other one is free");
    assert_eq!(selection.devices[0].id.uuid(), Some("GPU-b"));
    assert!(selection.reasons[0].starts_with("GPU 0 is left out: held by run `test` of"), "{:?}", selection.reasons);
    drop(held);
    lock::mark(&mut inventory, &locks);
    assert_eq!(inventory.gpus[0].held_by, None);
}
