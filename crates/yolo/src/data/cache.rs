//! What was found of a set's files, kept for the next training on it. It is a help and no more: a file of it that is missing, damaged or
//! cannot be written costs a look at the files.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::looked::{Looked, decode, encode};
use super::set::Source;
use crate::checkpoint::hex;

/// Begins every file; ends with the number of the format.
const MAGIC: &[u8; 8] = b"EKLABEL1";
/// Bytes of the checksum behind it.
const CHECKSUM: usize = 32;

/// Finds by the number of their picture's path.
pub(super) type Known = HashMap<u64, Looked>;

/// The number of a path.
pub(super) fn number(path: &Path) -> u64 {
    let hash = Sha256::digest(path.as_os_str().as_encoded_bytes());
    u64::from_le_bytes(hash[..8].try_into().expect("eight bytes"))
}

/// The file for a split in the folder of its set. Labels read otherwise with other classes.
fn file(folder: &Path, source: &Source<'_>) -> PathBuf {
    let mut digest = Sha256::new();
    for entry in source.entries {
        digest.update(entry.as_bytes());
        digest.update([0]);
    }
    digest.update(source.root.as_os_str().as_encoded_bytes());
    digest.update(source.classes.to_le_bytes());
    digest.update([u8::from(source.single_class)]);
    folder.join(format!("{}.labels", hex(&digest.finalize()[..8])))
}

/// What is known of a split.
pub(super) fn read(folder: &Path, source: &Source<'_>) -> Known {
    let found = || {
        let bytes = fs::read(file(folder, source)).ok()?;
        let (sum, content) = bytes.strip_prefix(MAGIC)?.split_at_checked(CHECKSUM)?;
        if Sha256::digest(content)[..] != *sum {
            return None;
        }
        decode(content)
    };
    found().unwrap_or_default().into_iter().collect()
}

/// Writes what is known of a split, whole or not at all.
pub(super) fn write(folder: &Path, source: &Source<'_>, known: &Known) -> io::Result<()> {
    let content = encode(known.iter().map(|(number, looked)| (*number, looked)));
    let path = file(folder, source);
    // Two trainings may do so at once.
    let part = path.with_extension(format!("{}.part", std::process::id()));
    let written = fs::File::create(&part).and_then(|mut file| {
        file.write_all(MAGIC)?;
        file.write_all(&Sha256::digest(&content))?;
        file.write_all(&content)?;
        fs::rename(&part, &path)
    });
    if written.is_err() {
        let _ = fs::remove_file(&part);
    }
    written
}
