//! Why a data set cannot be used, and what to do about it.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use super::catalog;
use super::yaml::YamlError;
use crate::error::{ExitCode, Failure};

/// Why a data set cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// There is no such file.
    #[error("there is no data set `{}`", .0.display())]
    NotFound(PathBuf),
    /// The file or folder cannot be read.
    #[error("failed to read `{}`", path.display())]
    Io {
        /// What was read.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The file is too large to be what it should be, or no UTF-8.
    #[error("`{}` {problem}", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
        /// In what way.
        problem: &'static str,
    },
    /// The file's content is wrong.
    #[error("data set `{}` cannot be used", path.display())]
    Yaml {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: YamlError,
    },
    /// `train:` or `val:` names something that is not there.
    #[error("data set `{}`: `{key}: {}` does not exist{}", yaml.display(), short(entry), looked_at(looked))]
    Missing {
        /// The file.
        yaml: PathBuf,
        /// The key.
        key: &'static str,
        /// As written there.
        entry: String,
        /// Where it was looked for.
        looked: Vec<PathBuf>,
        /// `download:`, as written.
        download: Option<String>,
    },
    /// Folders without an image.
    #[error("data set `{}`: `{key}:` has no images{}", yaml.display(), looked_at(looked))]
    NoImages {
        /// The file.
        yaml: PathBuf,
        /// The key.
        key: &'static str,
        /// Where they were looked for.
        looked: Vec<PathBuf>,
    },
    /// Images without a label.
    #[error("data set `{}`: none of the {images} images of `{key}:` has labels{}", yaml.display(), looked_at(looked))]
    NoLabels {
        /// The file.
        yaml: PathBuf,
        /// The key.
        key: &'static str,
        /// Images found.
        images: usize,
        /// Where labels were looked for.
        looked: Vec<PathBuf>,
    },
    /// A path that has no place in the trainer's job file.
    #[error("the path `{}` is no valid UTF-8, so it cannot be told to the trainer", .0.display())]
    NotUnicode(PathBuf),
    /// A folder that must not be mounted, because the container has its own there.
    #[error("the data set needs the folder `{}`, and a container cannot do without its own one there", .0.display())]
    Forbidden(PathBuf),
    /// Links lead everywhere.
    #[error("links of the data set lead to {0} folders, more than can be mounted")]
    TooManyFolders(usize),
    /// More entries than a data set has; likely the wrong folder.
    #[error("`{}` holds more than {limit} files", path.display())]
    TooManyFiles {
        /// Where the count was passed.
        path: PathBuf,
        /// Most that are looked at.
        limit: usize,
    },
}

impl DataError {
    /// What the person can do.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            // As a data set of a job this name is fetched; only as a path it leads nowhere.
            Self::NotFound(path) if path.to_str().is_some_and(|name| catalog::set(name).is_some()) => {
                format!("this set is known by name: a job says `data: {}`, and it is fetched", path.display())
            }
            Self::NotFound(path) if path.is_relative() => format!(
                "it was looked for from the folder you are in; give the path of a data.yaml, or one of the sets that can be \
                 fetched: {}; `evenkeel dataset shapes DIR` draws one",
                catalog::set_names()
            ),
            Self::NotFound(_) => format!(
                "give the path of a data.yaml, or one of the sets that can be fetched: {}; `evenkeel dataset shapes DIR` \
                 draws one",
                catalog::set_names()
            ),
            Self::Yaml { source: YamlError::Missing("names"), .. } => {
                "add `names: [first, second]`, the names of the classes in the order of their numbers".to_owned()
            }
            Self::Yaml { source: YamlError::Missing("val"), .. } => {
                "add `val:` with the folder of the validation images; `train` must not be measured on itself".to_owned()
            }
            Self::NotText { .. } => "save it as UTF-8".to_owned(),
            Self::Missing { entry, .. } if entry.contains('\\') => {
                "this is a Windows path: write it with `/`, and where the folder is on this machine".to_owned()
            }
            Self::Missing { yaml, download: Some(download), looked, .. } => match catalog::set_for(yaml, download) {
                Some(name) => format!("`download:` is never executed; `data: {name}` fetches this set"),
                None => format!(
                    "`download:` is never executed; fetch the set yourself{}{}",
                    first_url(download).map_or_else(String::new, |url| format!(" from {url}")),
                    looked.first().map_or_else(String::new, |place| format!(", so that `{}` is there", short(&place.to_string_lossy())))
                ),
            },
            Self::Missing { yaml, .. } => format!(
                "relative paths start at `path:`, and a relative `path:` at the folder of `{}`",
                yaml.file_name().unwrap_or_default().to_string_lossy()
            ),
            Self::NoImages { .. } => format!("images end in one of: {}", super::scan::IMAGE_EXTENSIONS.join(", ")),
            Self::NoLabels { .. } => {
                "the labels of `a/images/b/1.jpg` are in `a/labels/b/1.txt`: one line an object, `class x y width height`"
                    .to_owned()
            }
            Self::Forbidden(_) => "move the data set into a folder of its own, such as /data/NAME".to_owned(),
            Self::TooManyFolders(_) => "replace the links by copies or hard links, or gather their targets".to_owned(),
            Self::TooManyFiles { .. } => "point `train:` and `val:` at the folders of the images".to_owned(),
            Self::Io { .. } | Self::Yaml { .. } | Self::NotUnicode(_) => return None,
        })
    }
}

impl From<DataError> for Failure {
    fn from(error: DataError) -> Self {
        let hint = error.hint();
        let failure = Self::new(ExitCode::BadRequest, error);
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

fn looked_at(places: &[PathBuf]) -> String {
    let mut text = String::new();
    for (number, place) in places.iter().take(4).enumerate() {
        let _ =
            write!(text, "{}`{}`", if number == 0 { " (looked at " } else { ", " }, short(&place.to_string_lossy()));
    }
    match places.len() {
        0 => text,
        1..=4 => text + ")",
        more => text + &format!(" and {} more)", more - 4),
    }
}

/// Text that came out of a file, short enough for a message.
fn short(text: &str) -> String {
    const MOST: usize = 300;
    let count = text.chars().count();
    if count <= MOST {
        return text.to_owned();
    }
    let end: String = text.chars().skip(count - MOST / 2).collect();
    text.chars().take(MOST / 2).chain("...".chars()).collect::<String>() + &end
}

fn first_url(download: &str) -> Option<&str> {
    let start = download.find("https://").or_else(|| download.find("http://"))?;
    let rest = &download[start..];
    Some(&rest[..rest.find(|c: char| c.is_whitespace() || "'\"`)".contains(c)).unwrap_or(rest.len())])
}

pub(super) fn io_error(path: &Path) -> impl FnOnce(io::Error) -> DataError + use<'_> {
    move |source| DataError::Io { path: path.to_owned(), source }
}
