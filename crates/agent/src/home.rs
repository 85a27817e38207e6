//! A home for users that the image does not know. Docker gives such a user `HOME=/`, and half of Python's world then fails
//! at its first cache file, or at asking for the user's name.

use std::env;
use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

/// Variables to set for the programs; those that the image or the job sets are left alone.
pub fn variables(generation: u32, rank: u32) -> Vec<(&'static str, OsString)> {
    let uid = rustix::process::getuid().as_raw();
    let mut set = Vec::new();
    let unset = |name: &str| env::var_os(name).is_none_or(|value| value.is_empty());
    for name in ["USER", "LOGNAME"] {
        if unset(name) {
            set.push((name, if uid == 0 { "root".into() } else { format!("user{uid}").into() }));
        }
    }
    let home = env::var_os("HOME").map(PathBuf::from);
    if home.is_some_and(|home| home != Path::new("/") && is_own_place(&home)) {
        return set;
    }
    let Some(home) = private_folder(uid, &format!("evenkeel-home-{uid}-g{generation}-r{rank}")) else { return set };
    let places = [
        ("XDG_CACHE_HOME", ".cache"),
        ("XDG_CONFIG_HOME", ".config"),
        ("MPLCONFIGDIR", ".config/matplotlib"),
        ("YOLO_CONFIG_DIR", ".config/Ultralytics"),
        ("TORCH_HOME", ".cache/torch"),
    ];
    for (name, place) in places.into_iter().filter(|(name, _)| unset(name)) {
        let place = home.join(place);
        // A program can make the folder itself; not every one does.
        let _ = fs::create_dir_all(&place);
        set.push((name, place.into()));
    }
    set.push(("HOME", home.into()));
    set
}

/// Makes a folder that only this user reads, in the first place that takes it.
fn private_folder(uid: u32, name: &str) -> Option<PathBuf> {
    let places = [env::var_os("TMPDIR").unwrap_or_default(), "/tmp".into(), "/var/tmp".into(), "/dev/shm".into()];
    places.into_iter().map(PathBuf::from).filter(|place| place.is_absolute()).find_map(|place| {
        let folder = place.join(name);
        let made = DirBuilder::new().mode(0o700).create(&folder).is_ok();
        // One that exists serves when nobody else can have put anything into it.
        let ours = || {
            fs::symlink_metadata(&folder)
                .is_ok_and(|is| is.is_dir() && is.uid() == uid && is.mode().trailing_zeros() >= 6)
        };
        ((made || ours()) && is_own_place(&folder)).then_some(folder)
    })
}

fn is_own_place(folder: &Path) -> bool {
    folder.is_dir() && access(folder, Access::WRITE_OK | Access::EXEC_OK).is_ok()
}
