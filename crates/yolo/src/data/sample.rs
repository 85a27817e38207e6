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
    let side = gallery.side();
    let mut chance = generator(Purpose::Augment, seed, epoch, number.into());
    let mut problems = Vec::new();
    // Drawn even where mosaics are over, so that the rest is drawn as it was.
    let joined = chance.random_bool(settings.mosaic) && with_mosaic;
    let mut of = |number: u32| scene(gallery, number, &mut problems);
    let scene = if joined {
        let last = gallery.set().entries.len() as u32;
        let numbers =
            [number, chance.random_range(0..last), chance.random_range(0..last), chance.random_range(0..last)];
        mosaic(numbers.map(&mut of), side, &mut chance)
    } else {
        of(number).framed(side, side)
    };
    let mut scene = affine(scene, side, settings, &mut chance);
    colour(&mut scene.picture, settings, &mut chance);
    mirror(&mut scene, settings, &mut chance);
    Sample { rgb: scene.picture.rgb, objects: scene.objects, problems }
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
    let (width, height) = (picture.width as f32, picture.height as f32);
    let object = |label: &super::label::Label| {
        let [x, y, w, h] = label.area;
        let corners = [(x - w / 2.0) * width, (y - h / 2.0) * height, (x + w / 2.0) * width, (y + h / 2.0) * height];
        Object { class: label.class.into(), corners }
    };
    Scene { objects: entry.labels.iter().map(object).collect(), picture }
}
