//! One image of a training or a validation, as the network takes it.

use rand::Rng;

use super::augment::{GREY, Scene, affine, colour, mirror, mosaic};
use super::gallery::Gallery;
use super::picture::Picture;
use super::set::{Entry, Problem};
use crate::loss::Object;
use crate::random::{Purpose, generator};
use crate::settings::Settings;

/// An image and its objects.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// Red, green and blue of each pixel, row by row.
    pub rgb: Vec<u8>,
    /// Objects, in pixels.
    pub objects: Vec<Object>,
    /// Pictures that turned out to be broken; grey stands for them, without objects.
    pub problems: Vec<Problem>,
}

/// Training image `number` of an epoch, a square of the gallery's side.
#[must_use]
pub fn training(
    gallery: &Gallery,
    number: u32,
    epoch: u32,
    seed: u64,
    with_mosaic: bool,
    settings: &Settings,
) -> Sample {
    let mut problems = Vec::new();
    let mut scene = augmented(gallery, number, epoch, seed, with_mosaic, settings, &mut |number| {
        scene(gallery, number, &mut problems)
    });
    Sample { rgb: std::mem::take(&mut scene.picture.rgb), objects: scene.objects, problems }
}

/// Objects of training image `number` of an epoch: as many as [`training`] leaves, without a look at the pictures.
#[must_use]
pub fn count(gallery: &Gallery, number: u32, epoch: u32, seed: u64, with_mosaic: bool, settings: &Settings) -> usize {
    let mut scene = |number| {
        let entry = gallery.entry(number);
        let (width, height) = super::picture::fitted(entry.width, entry.height, gallery.side());
        labelled(entry, Picture::hollow(width, height))
    };
    augmented(gallery, number, epoch, seed, with_mosaic, settings, &mut scene).objects.len()
}

/// What chance makes of an image, of which `scene` tells.
fn augmented(
    gallery: &Gallery,
    number: u32,
    epoch: u32,
    seed: u64,
    with_mosaic: bool,
    settings: &Settings,
    scene: &mut dyn FnMut(u32) -> Scene,
) -> Scene {
    let side = gallery.side();
    let mut chance = generator(Purpose::Augment, seed, epoch, number.into());
    // Drawn even where mosaics are over, so that the rest is drawn as it was.
    let joined = chance.random_bool(settings.mosaic) && with_mosaic;
    let scene = if joined {
        let last = gallery.set().entries.len() as u32;
        let numbers =
            [number, chance.random_range(0..last), chance.random_range(0..last), chance.random_range(0..last)];
        mosaic(numbers.map(&mut *scene), side, &mut chance)
    } else {
        scene(number).framed(side, side)
    };
    let mut scene = affine(scene, side, settings, &mut chance);
    colour(&mut scene.picture, settings, &mut chance);
    mirror(&mut scene, settings, &mut chance);
    scene
}

/// Validation image `number`, in the middle of a grey frame of [`frame`]'s size.
#[must_use]
pub fn validation(gallery: &Gallery, number: u32) -> Sample {
    let mut problems = Vec::new();
    let (width, height) = frame(gallery.entry(number), gallery.side());
    let scene = scene(gallery, number, &mut problems).framed(width, height);
    Sample { rgb: scene.picture.rgb, objects: scene.objects, problems }
}

/// Width and height of a validation image in the network: the fitted picture's, up to the multiple of 32 that leaves half a cell of the
/// coarsest grid free, as the official validator pads.
#[must_use]
pub fn frame(entry: &Entry, side: u32) -> (u32, u32) {
    let (width, height) = super::picture::fitted(entry.width, entry.height, side);
    let padded = |length: u32| (length + 16).div_ceil(32) * 32;
    (padded(width), padded(height))
}

/// A picture of the gallery and its objects in pixels.
fn scene(gallery: &Gallery, number: u32, problems: &mut Vec<Problem>) -> Scene {
    let entry = gallery.entry(number);
    let picture = match gallery.picture(number) {
        Ok(picture) => Picture::clone(&picture),
        Err(error) => {
            let problem = |why: String| Problem { path: entry.path.clone(), why, skipped: true };
            problems.extend(error.map(|error| problem(error.to_string())));
            let (width, height) = super::picture::fitted(entry.width, entry.height, gallery.side());
            return Scene { picture: Picture::plain(width, height, GREY), objects: Vec::new() };
        }
    };
    labelled(entry, picture)
}

/// A picture with the objects that its labels tell of.
fn labelled(entry: &Entry, picture: Picture) -> Scene {
    let (width, height) = (picture.width as f32, picture.height as f32);
    let object = |label: &super::label::Label| {
        let [x, y, w, h] = label.area;
        let corners = [(x - w / 2.0) * width, (y - h / 2.0) * height, (x + w / 2.0) * width, (y + h / 2.0) * height];
        Object { class: label.class.into(), corners }
    };
    Scene { objects: entry.labels.iter().map(object).collect(), picture }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::data::label::Label;
    use crate::data::set::Set;

    #[test]
    fn objects_are_counted_as_they_are_drawn() {
        let label = |x: f32| Label { class: 0, area: [x, 0.5, 0.2, 0.3] };
        let entry = |number: u32| Entry {
            path: format!("{number}.png").into(),
            width: 60 + number,
            height: 90 - number,
            labels: (0..1 + number % 5).map(|at| label(0.1 + 0.2 * at as f32)).collect(),
        };
        let set = Set { entries: (0..20).map(entry).collect(), ..Set::default() };
        let gallery = Gallery::new(Arc::new(set), 64, 0);
        let settings = Settings::default();
        let mut drawn = |number| {
            let entry = gallery.entry(number);
            let (width, height) = crate::data::picture::fitted(entry.width, entry.height, 64);
            labelled(entry, Picture::plain(width, height, GREY))
        };
        let mut seen = std::collections::BTreeSet::new();
        for (number, epoch) in (0..20).flat_map(|number| [(number, 0), (number, 3)]) {
            let whole = augmented(&gallery, number, epoch, 1, epoch == 0, &settings, &mut drawn).objects.len();
            assert_eq!(count(&gallery, number, epoch, 1, epoch == 0, &settings), whole);
            seen.insert(whole);
        }
        assert!(seen.len() > 4, "{seen:?}");
    }
}
