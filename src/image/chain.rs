//! Which image starts from which, what each is made of, and the tag that its content gives it. Pure.
//!
//! A tag is a hash of the Dockerfile up to the image's stage, of the files it may copy, of the arguments that decide
//! what it holds, and of its parents' tags. The same content therefore has the same name on every machine, a saved image
//! is found after loading it elsewhere, and a changed file can never be served by a stale image. What only says where
//! things come from (mirrors, proxies, certificate authorities) is not part of it: the packages are pinned by hashes.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

use super::dockerfile;

/// An image of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ImageName {
    /// Debian stable, from a registry or bootstrapped from a package mirror.
    Debian,
    /// What every other one starts from.
    Base,
    /// The virtual environment with torch.
    Torch,
    /// What compiles against libtorch; the crates' tests run here.
    Builder,
    /// libtorch and the trainer, without Python.
    Worker,
    /// The Ultralytics package with our trainer.
    Ultralytics,
    /// The same as a place to work in.
    Workbench,
}

/// What an image is built from.
#[derive(Debug)]
pub struct Recipe {
    /// Its Dockerfile.
    pub dockerfile: &'static str,
    /// Stage to stop at.
    pub target: &'static str,
    /// Parents by the build argument that names them. Those that only have to exist have none.
    pub parents: &'static [(Option<&'static str>, ImageName)],
    /// Files and folders of the context.
    pub context: &'static [&'static str],
    /// Bytes that are downloaded for it alone, about.
    pub download_bytes: u64,
    /// Bytes that it adds on disk, about: with what its stages leave in the cache of the classic builder.
    pub disk_bytes: u64,
}

/// A file of the context, as the hash and the archive see it.
#[derive(Clone, Copy, Debug)]
pub struct File<'a> {
    /// Path within the context, with `/`.
    pub path: &'a str,
    /// Whether it may be executed.
    pub executable: bool,
    /// Its bytes.
    pub content: &'a [u8],
}

const MIB: u64 = 1 << 20;
const BASE: (Option<&str>, ImageName) = (Some("BASE_IMAGE"), ImageName::Base);
const SOURCES: &[&str] = &["images/base", "images/worker", "Cargo.toml", "Cargo.lock", "rustfmt.toml", "crates"];
const ULTRALYTICS: &[(Option<&str>, ImageName)] =
    &[BASE, (Some("TORCH_IMAGE"), ImageName::Torch), (Some("BUILDER_IMAGE"), ImageName::Builder)];

impl ImageName {
    /// All, parents before children.
    pub const ALL: [Self; 7] =
        [Self::Debian, Self::Base, Self::Torch, Self::Builder, Self::Worker, Self::Ultralytics, Self::Workbench];

    /// The name in the repository `evenkeel/<name>`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Debian => "debian",
            Self::Base => "base",
            Self::Torch => "torch",
            Self::Builder => "builder",
            Self::Worker => "worker",
            Self::Ultralytics => "ultralytics",
            Self::Workbench => "workbench",
        }
    }

    /// The repository, `evenkeel/<name>`.
    #[must_use]
    pub fn repository(self) -> String {
        format!("evenkeel/{}", self.as_str())
    }

    /// What it is built from.
    #[must_use]
    pub fn recipe(self) -> Recipe {
        let recipe = |dockerfile, target, parents, context, download: u64, disk: u64| Recipe {
            dockerfile,
            target,
            parents,
            context,
            download_bytes: download * MIB,
            disk_bytes: disk * MIB,
        };
        match self {
            Self::Debian => recipe("", "", &[], &[], 45, 80),
            Self::Base => {
                recipe("images/base/Dockerfile", "", &[(Some("DEBIAN_IMAGE"), Self::Debian)], &["images/base"], 25, 60)
            }
            Self::Torch => {
                recipe("images/worker/Dockerfile", "torch", &[BASE], &["images/base", "images/worker"], 560, 1_300)
            }
            Self::Builder => {
                recipe("images/worker/Dockerfile", "builder", &[BASE, (None, Self::Torch)], SOURCES, 200, 2_150)
            }
            Self::Worker => recipe(
                "images/worker/Dockerfile",
                "worker",
                &[BASE, (None, Self::Torch), (None, Self::Builder)],
                SOURCES,
                0,
                600,
            ),
            Self::Ultralytics => recipe(
                "images/ultralytics/Dockerfile",
                "ultralytics",
                ULTRALYTICS,
                &["images/base", "images/ultralytics"],
                2_000,
                7_900,
            ),
            Self::Workbench => recipe(
                "images/ultralytics/Dockerfile",
                "workbench",
                &[
                    BASE,
                    (Some("TORCH_IMAGE"), Self::Torch),
                    (Some("BUILDER_IMAGE"), Self::Builder),
                    (None, Self::Ultralytics),
                ],
                &["images/base", "images/ultralytics"],
                100,
                550,
            ),
        }
    }

    /// What has to exist before it, parents first, itself last.
    #[must_use]
    pub fn chain(self) -> Vec<Self> {
        let mut chain = Vec::new();
        self.collect(&mut chain);
        chain
    }

    fn collect(self, chain: &mut Vec<Self>) {
        for (_, parent) in self.recipe().parents {
            parent.collect(chain);
        }
        if !chain.contains(&self) {
            chain.push(self);
        }
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl FromStr for ImageName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = text.strip_prefix("evenkeel/").unwrap_or(text);
        Self::ALL.into_iter().find(|image| image.as_str() == name).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.into_iter().map(Self::as_str).collect();
            format!("unknown image `{text}`: the images are {}", known.join(", "))
        })
    }
}

/// Build arguments that say where things come from and leave what is built as it is.
pub const SOURCE_ARGUMENTS: [&str; 12] = [
    "DEBIAN_MIRROR",
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIP_TRUSTED_HOST",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
];

/// The images' full names, `evenkeel/<name>:<hash>`, of one state of the sources and one set of arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tags(BTreeMap<ImageName, String>);

impl Tags {
    /// The full name of an image.
    ///
    /// # Panics
    /// Never: every image has one.
    #[must_use]
    pub fn of(&self, image: ImageName) -> &str {
        self.0.get(&image).expect("`tags` names every image")
    }
}

/// Names every image. `files` are those of the whole context, in any order.
#[must_use]
pub fn tags(files: &[File<'_>], arguments: &BTreeMap<String, String>) -> Tags {
    let mut files: Vec<_> = files.to_vec();
    files.sort_by_key(|file| file.path);
    let digests: Vec<(&str, [u8; 32])> = files.iter().map(|file| (file.path, file_digest(file))).collect();
    let mut tags = BTreeMap::new();
    for image in ImageName::ALL {
        let recipe = image.recipe();
        let mut hash = Fields::new();
        hash.add(image.as_str().as_bytes());
        if image == ImageName::Debian {
            hash.add(std::env::consts::ARCH.as_bytes());
            hash.add(debian(&files, arguments).unwrap_or_default().as_bytes());
        } else {
            let text = files.iter().find(|file| file.path == recipe.dockerfile).map_or("", |file| text_of(file));
            let text = dockerfile::until(text, recipe.target);
            hash.add(text.as_bytes());
            for name in dockerfile::arguments(text) {
                if let Some(value) = arguments.get(name).filter(|_| !SOURCE_ARGUMENTS.contains(&name)) {
                    hash.add(name.as_bytes());
                    hash.add(value.as_bytes());
                }
            }
            for (_, digest) in
                digests.iter().filter(|(path, _)| *path != recipe.dockerfile && within(path, recipe.context))
            {
                hash.add(digest);
            }
        }
        for (_, parent) in recipe.parents {
            hash.add(tags.get(parent).map_or("", String::as_str).as_bytes());
        }
        tags.insert(image, format!("{}:{}", image.repository(), hash.short()));
    }
    Tags(tags)
}

/// The registry's image that `evenkeel/debian` is made from: the argument, else its default in the base Dockerfile.
#[must_use]
pub fn debian<'a>(files: &[File<'a>], arguments: &'a BTreeMap<String, String>) -> Option<&'a str> {
    const NAME: &str = "DEBIAN_IMAGE";
    let file = files.iter().find(|file| file.path == ImageName::Base.recipe().dockerfile)?;
    arguments.get(NAME).map(String::as_str).or_else(|| dockerfile::default(text_of(file), NAME))
}

/// Whether a path is one of these or lies in one of them, and may have a part in an image.
#[must_use]
pub fn within(path: &str, roots: &[&str]) -> bool {
    // The agent is no part of an image: it comes to every container from outside.
    const NEVER: &str = "crates/agent";
    let under = |root: &str| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    roots.iter().any(|root| under(root)) && !under(NEVER)
}

fn text_of<'a>(file: &File<'a>) -> &'a str {
    std::str::from_utf8(file.content).unwrap_or("")
}

fn file_digest(file: &File<'_>) -> [u8; 32] {
    let mut hash = Fields::new();
    hash.add(file.path.as_bytes());
    hash.add(&[u8::from(file.executable)]);
    hash.add(file.content);
    hash.finish()
}

/// A hash over fields of any length, so that no two sequences of fields look the same.
#[derive(Clone)]
pub struct Fields(Sha256);

impl Fields {
    /// No field yet.
    #[must_use]
    pub fn new() -> Self {
        Self(Sha256::new())
    }

    /// Adds a field.
    pub fn add(&mut self, field: &[u8]) {
        self.0.update((field.len() as u64).to_be_bytes());
        self.0.update(field);
    }

    /// The hash.
    #[must_use]
    pub fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }

    /// Its first twelve digits, as tags have them.
    #[must_use]
    pub fn short(self) -> String {
        self.finish()[..6].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE_FILE: &str = "ARG DEBIAN_IMAGE=debian:stable\nFROM ${DEBIAN_IMAGE}\n";
    const WORKER_FILE: &str = "ARG BASE_IMAGE\nFROM ${BASE_IMAGE} AS torch\nARG TORCH_FLAVOUR=a\nARG PIP_INDEX_URL=\nRUN x\n\
                               FROM torch AS builder\nRUN y\nFROM ${BASE_IMAGE} AS worker\nRUN z\n";

    fn files<'a>(worker: &'a str, code: &'a str) -> Vec<File<'a>> {
        let file = |path, content: &'a str| File { path, executable: false, content: content.as_bytes() };
        vec![
            file("images/base/Dockerfile", BASE_FILE),
            file("images/worker/Dockerfile", worker),
            file("images/ultralytics/Dockerfile", "FROM scratch AS ultralytics\n"),
            file("crates/trainer/src/main.rs", code),
            file("Cargo.toml", "[workspace]"),
        ]
    }

    fn named(files: &[File<'_>], arguments: &[(&str, &str)]) -> Tags {
        tags(files, &arguments.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    fn changed(left: &Tags, right: &Tags) -> Vec<ImageName> {
        ImageName::ALL.into_iter().filter(|image| left.of(*image) != right.of(*image)).collect()
    }

    #[test]
    fn a_chain_has_parents_first_and_each_once() {
        use ImageName::*;
        assert_eq!(Workbench.chain(), [Debian, Base, Torch, Builder, Ultralytics, Workbench]);
        assert_eq!(Worker.chain(), [Debian, Base, Torch, Builder, Worker]);
    }

    #[test]
    fn the_order_of_the_files_does_not_matter_and_the_tag_has_twelve_digits() {
        let mut reversed = files(WORKER_FILE, "fn main() {}");
        reversed.reverse();
        let tags = named(&files(WORKER_FILE, "fn main() {}"), &[]);
        assert_eq!(changed(&tags, &named(&reversed, &[])), []);
        let (repository, hash) = tags.of(ImageName::Worker).split_once(':').expect("a tag");
        assert_eq!((repository, hash.len()), ("evenkeel/worker", 12));
    }

    #[test]
    fn a_changed_source_changes_what_compiles_it_and_its_children_alone() {
        use ImageName::*;
        let before = named(&files(WORKER_FILE, "fn main() {}"), &[]);
        let after = named(&files(WORKER_FILE, "fn main() { run() }"), &[]);
        assert_eq!(changed(&before, &after), [Builder, Worker, Ultralytics, Workbench]);
    }

    #[test]
    fn a_later_stage_does_not_change_an_earlier_image() {
        let before = named(&files(WORKER_FILE, ""), &[]);
        let after = named(&files(&WORKER_FILE.replace("RUN z", "RUN w"), ""), &[]);
        assert_eq!(changed(&before, &after), [ImageName::Worker]);
    }

    #[test]
    fn mirrors_and_proxies_do_not_change_a_tag_but_a_flavour_does() {
        let plain = named(&files(WORKER_FILE, ""), &[]);
        let mirrored = [("PIP_INDEX_URL", "https://me:word@mirror/simple"), ("HTTP_PROXY", "http://proxy:3128")];
        assert_eq!(changed(&plain, &named(&files(WORKER_FILE, ""), &mirrored)), []);
        let flavoured = named(&files(WORKER_FILE, ""), &[("TORCH_FLAVOUR", "b")]);
        assert_eq!(changed(&plain, &flavoured)[0], ImageName::Torch);
    }

    #[test]
    fn the_agent_has_no_part_in_any_image() {
        assert!(within("crates/trainer/src/main.rs", &["crates"]) && within("Cargo.toml", &["Cargo.toml"]));
        assert!(!within("crates/agent/src/main.rs", &["crates"]) && !within("Cargo.toml.orig", &["Cargo.toml"]));
    }

    #[test]
    fn the_pinned_debian_decides_every_tag() {
        let files = files(WORKER_FILE, "");
        assert_eq!(debian(&files, &BTreeMap::new()), Some("debian:stable"));
        let given = named(&files, &[("DEBIAN_IMAGE", "debian:mine")]);
        assert_eq!(changed(&named(&files, &[]), &given).len(), ImageName::ALL.len());
        let mut other = files.clone();
        other[0].content = b"ARG DEBIAN_IMAGE=debian:other\nFROM ${DEBIAN_IMAGE}\n";
        assert_eq!(changed(&named(&files, &[]), &named(&other, &[])).len(), ImageName::ALL.len());
    }

    #[test]
    fn an_unknown_name_is_told_the_known_ones() {
        assert_eq!("evenkeel/worker".parse(), Ok(ImageName::Worker));
        assert!("wroker".parse::<ImageName>().expect_err("unknown").contains("debian, base, torch"));
    }
}
