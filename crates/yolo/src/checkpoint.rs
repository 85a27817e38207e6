//! Tensors in files that survive whatever happens while they are written: a safetensors file with a checksum, complete under its name or
//! not there.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use sha2::{Digest, Sha256};
use tch::{Kind, Tensor};

use crate::weights;

/// Key of the checksum in a file's metadata.
const CHECKSUM: &str = "sha256";

/// A file of tensors that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// It cannot be read.
    #[error("failed to read `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It cannot be written.
    #[error("failed to write `{}`", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not what was written.
    #[error("`{}` is damaged: {why}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How that is known.
        why: String,
    },
}

/// Tensors by name, and what else was written with them.
#[derive(Debug)]
pub struct Checkpoint {
    /// The tensors, f32, on the processor.
    pub tensors: BTreeMap<String, Tensor>,
    /// Texts by name.
    pub texts: BTreeMap<String, String>,
}

/// A tensor's name, shape and values, apart from the tensor, which may go on changing.
#[derive(Clone, Debug)]
pub struct Value {
    name: String,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Value {
    /// The values that a tensor has now, as f32.
    #[must_use]
    pub fn of(name: impl Into<String>, tensor: &Tensor) -> Self {
        let shape = tensor.size().iter().map(|length| *length as usize).collect();
        Self { name: name.into(), shape, bytes: weights::bytes(tensor) }
    }

    fn view(&self) -> TensorView<'_> {
        TensorView::new(Dtype::F32, self.shape.clone(), &self.bytes).expect("four bytes a value")
    }
}

/// Writes values and texts to a file. What was there before is there until the new file is complete on the disk; with `keep` it
/// then stays beside it, see [`previous`].
///
/// # Errors
///
/// [`CheckpointError::Write`]; the old file is as it was.
pub fn write(
    path: &Path,
    values: &[Value],
    texts: &BTreeMap<String, String>,
    keep: bool,
) -> Result<(), CheckpointError> {
    let failed = |source| CheckpointError::Write { path: path.to_owned(), source };
    let views: Vec<(&str, TensorView<'_>)> = values.iter().map(|value| (value.name.as_str(), value.view())).collect();
    let mut metadata: HashMap<String, String> = texts.clone().into_iter().collect();
    metadata.insert(
        CHECKSUM.to_owned(),
        checksum(values.iter().map(|value| (value.name.as_str(), value.bytes.as_slice()))),
    );
    let bytes = safetensors::serialize(views, &Some(metadata)).map_err(|error| failed(io::Error::other(error)))?;
    let temporary = beside(path, ".part");
    let written = File::create(&temporary).and_then(|mut file| {
        file.write_all(&bytes)?;
        file.sync_all()
    });
    let put = written.and_then(|()| {
        if keep && path.exists() {
            fs::rename(path, previous(path))?;
        }
        fs::rename(&temporary, path)?;
        // The names are on the disk only when their folder is.
        path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    });
    put.map_err(|error| {
        let _ = fs::remove_file(&temporary);
        failed(error)
    })
}

/// Where the file lies that was there before the last one was written.
#[must_use]
pub fn previous(path: &Path) -> PathBuf {
    beside(path, ".previous")
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// Reads a file of tensors in f32. One without a checksum, as other programs write, is read as well.
///
/// # Errors
///
/// [`CheckpointError::Read`], or [`CheckpointError::Damaged`] for what is no such file or not what was written.
pub fn read(path: &Path) -> Result<Checkpoint, CheckpointError> {
    let bytes = fs::read(path).map_err(|source| CheckpointError::Read { path: path.to_owned(), source })?;
    let damaged = |why: String| CheckpointError::Damaged { path: path.to_owned(), why };
    let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|error| damaged(error.to_string()))?;
    let mut texts: BTreeMap<String, String> = metadata.metadata().clone().unwrap_or_default().into_iter().collect();
    let file = SafeTensors::deserialize(&bytes).map_err(|error| damaged(error.to_string()))?;
    let views = file.tensors();
    if let Some(expected) = texts.remove(CHECKSUM) {
        if checksum(views.iter().map(|(name, view)| (name.as_str(), view.data()))) != expected {
            return Err(damaged("its checksum is another one".into()));
        }
    }
    let tensor = |view: &TensorView<'_>| -> Result<Tensor, String> {
        let shape: Vec<i64> = view.shape().iter().map(|length| *length as i64).collect();
        let kind = match view.dtype() {
            Dtype::F32 => Kind::Float,
            Dtype::F16 => Kind::Half,
            Dtype::BF16 => Kind::BFloat16,
            Dtype::F64 => Kind::Double,
            Dtype::I64 => Kind::Int64,
            other => return Err(format!("tensors of {other:?} are not expected")),
        };
        Ok(Tensor::from_data_size(view.data(), &shape, kind).to_kind(Kind::Float))
    };
    let tensors =
        views.into_iter().map(|(name, view)| Ok((name, tensor(&view)?))).collect::<Result<_, _>>().map_err(damaged)?;
    Ok(Checkpoint { tensors, texts })
}

/// The newest sound file of `path` and the one before it; `None` where there is neither.
///
/// # Errors
///
/// There are files, and none of them is sound: the error of the newer.
pub fn newest(path: &Path) -> Result<Option<Checkpoint>, CheckpointError> {
    let mut error = None;
    for candidate in [path.to_owned(), previous(path)] {
        if candidate.exists() {
            match read(&candidate) {
                Ok(checkpoint) => return Ok(Some(checkpoint)),
                Err(damaged) => error = error.or(Some(damaged)),
            }
        }
    }
    error.map_or(Ok(None), Err)
}

/// SHA-256 over names and values, in the order of the names.
fn checksum<'a>(tensors: impl Iterator<Item = (&'a str, &'a [u8])>) -> String {
    let mut sorted: Vec<(&str, &[u8])> = tensors.collect();
    sorted.sort_by_key(|(name, _)| *name);
    let mut digest = Sha256::new();
    for (name, bytes) in sorted {
        digest.update((name.len() as u64).to_le_bytes());
        digest.update(name);
        digest.update((bytes.len() as u64).to_le_bytes());
        digest.update(bytes);
    }
    hex(&digest.finalize())
}

/// Bytes in hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(value: f32) -> Vec<Value> {
        vec![Value::of("a", &Tensor::from_slice(&[value, 2.0]).view([1, 2])), Value::of("b", &Tensor::from(3.0_f32))]
    }

    #[test]
    fn what_is_written_is_read_and_the_one_before_is_kept() {
        let place = tempfile::tempdir().expect("a folder");
        let path = place.path().join("state.safetensors");
        assert!(newest(&path).expect("nothing is no error").is_none());
        let texts = BTreeMap::from([("step".to_owned(), "7".to_owned())]);
        write(&path, &of(1.0), &texts, true).expect("written");
        write(&path, &of(5.0), &texts, true).expect("written");
        let checkpoint = read(&path).expect("sound");
        assert_eq!(checkpoint.texts, texts);
        assert_eq!(checkpoint.tensors["a"].size(), [1, 2]);
        assert_eq!(checkpoint.tensors["a"].double_value(&[0, 0]), 5.0);
        assert_eq!(read(&previous(&path)).expect("sound").tensors["a"].double_value(&[0, 0]), 1.0);
        assert_eq!(fs::read_dir(place.path()).expect("a folder").count(), 2, "nothing else is left");
    }

    #[test]
    fn a_damaged_file_is_known_and_the_one_before_is_taken() {
        let place = tempfile::tempdir().expect("a folder");
        let path = place.path().join("state.safetensors");
        write(&path, &of(1.0), &BTreeMap::new(), true).expect("written");
        write(&path, &of(5.0), &BTreeMap::new(), true).expect("written");
        let sound = fs::read(&path).expect("read");
        let last = sound.len() - 1;
        for broken in [sound[..last].to_vec(), [&sound[..last], &[sound[last] ^ 1]].concat(), b"?".to_vec(), Vec::new()]
        {
            fs::write(&path, broken).expect("written");
            assert!(matches!(read(&path), Err(CheckpointError::Damaged { .. })));
            assert_eq!(newest(&path).expect("one is sound").expect("there").tensors["a"].double_value(&[0, 0]), 1.0);
        }
        fs::write(previous(&path), "?").expect("written");
        assert!(newest(&path).is_err());
    }

    #[test]
    fn a_file_that_cannot_be_written_leaves_the_old_one() {
        let place = tempfile::tempdir().expect("a folder");
        let path = place.path().join("nowhere/state.safetensors");
        let error = write(&path, &of(1.0), &BTreeMap::new(), true).expect_err("no folder");
        assert!(error.to_string().contains("nowhere/state.safetensors"), "{error}");
    }
}
