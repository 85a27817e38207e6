//! Versions of what our images hold, by the lists that they are built from. Pure.

use std::collections::BTreeMap;

use super::chain::{File, ImageName, Tags};

/// What is worth telling, by the name that its package has and the one that people know.
const TOLD: [(&str, &str); 5] = [
    ("torch", "torch"),
    ("ultralytics", "ultralytics"),
    ("nvidia-nccl-cu13", "nccl"),
    ("nvidia-cudnn-cu13", "cudnn"),
    ("nvidia-cuda-runtime", "cuda_runtime"),
];

/// Versions by name, of the image of this name; nothing of one that is not ours, or not of these sources.
#[must_use]
pub fn versions(name: &str, tags: &Tags, files: &[File<'_>]) -> BTreeMap<String, String> {
    let folders: &[&str] = if name == tags.of(ImageName::Worker) {
        &["images/worker/"]
    } else if name == tags.of(ImageName::Ultralytics) {
        &["images/worker/", "images/ultralytics/"]
    } else {
        &[]
    };
    let is_list = |path: &str| path.ends_with(".txt") && !path.ends_with("workbench.txt");
    let lists = files.iter().filter(|file| folders.iter().any(|folder| file.path.starts_with(folder)));
    let texts = lists.filter(|file| is_list(file.path)).filter_map(|file| std::str::from_utf8(file.content).ok());
    texts
        .flat_map(str::lines)
        .filter_map(|line| {
            let (package, rest) = line.split_once("==")?;
            let (_, name) = TOLD.iter().find(|(known, _)| *known == package)?;
            Some(((*name).to_owned(), rest.split_whitespace().next()?.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{chain, context};

    #[test]
    fn the_images_that_train_tell_their_torch() {
        let files = context::embedded();
        let tags = chain::tags(&files, &BTreeMap::new());
        let of = |image| versions(tags.of(image), &tags, &files);
        assert!(of(ImageName::Worker).contains_key("torch"));
        let whole = of(ImageName::Ultralytics);
        assert!(["torch", "ultralytics", "nccl", "cudnn"].iter().all(|name| whole.contains_key(*name)), "{whole:?}");
        assert!(versions("debian:stable", &tags, &files).is_empty());
    }
}
