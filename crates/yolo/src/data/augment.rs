//! How a training image is changed, so that no epoch sees it twice in the same way: mosaic, affine, colour, mirror.

use rand::Rng;

use super::picture::Picture;
use crate::loss::Object;
use crate::settings::Settings;

/// Grey of what no picture covers.
pub const GREY: u8 = 114;

/// A picture and the objects in it; boxes in its pixels.
#[derive(Clone, Debug)]
pub struct Scene {
    /// The picture.
    pub picture: Picture,
    /// What is in it.
    pub objects: Vec<Object>,
}

impl Scene {
    /// The scene in the middle of a grey frame, which is at least as large.
    #[must_use]
    pub fn framed(self, width: u32, height: u32) -> Self {
        let mut picture = self.picture.ground(width, height, GREY);
        let free = |outer: u32, inner: u32| (i64::from(outer) - i64::from(inner)) / 2;
        let (x, y) = (free(width, self.picture.width), free(height, self.picture.height));
        picture.paste(&self.picture, x, y);
        Self { picture, objects: self.objects.into_iter().map(|object| shifted(object, x as f32, y as f32)).collect() }
    }

    /// Mirrored, left to right.
    fn mirrored(&mut self) {
        let width = self.picture.width as usize;
        for row in self.picture.rgb.chunks_exact_mut(width * 3) {
            for x in 0..width / 2 {
                let (left, right) = (x * 3, (width - 1 - x) * 3);
                for channel in 0..3 {
                    row.swap(left + channel, right + channel);
                }
            }
        }
        for object in &mut self.objects {
            let [x1, y1, x2, y2] = object.corners;
            object.corners = [width as f32 - x2, y1, width as f32 - x1, y2];
        }
    }

    /// Mirrored, up to down.
    fn flipped(&mut self) {
        let (row, rows) = (self.picture.width as usize * 3, self.picture.height as usize);
        for y in 0..if self.picture.is_hollow() { 0 } else { rows / 2 } {
            let (upper, lower) = self.picture.rgb.split_at_mut((rows - 1 - y) * row);
            upper[y * row..(y + 1) * row].swap_with_slice(&mut lower[..row]);
        }
        for object in &mut self.objects {
            let [x1, y1, x2, y2] = object.corners;
            object.corners = [x1, rows as f32 - y2, x2, rows as f32 - y1];
        }
    }
}

fn shifted(mut object: Object, x: f32, y: f32) -> Object {
    for (corner, by) in object.corners.iter_mut().zip([x, y, x, y]) {
        *corner += by;
    }
    object
}

/// Four scenes around a random point of a canvas of twice their side, cut off where it ends. `scenes` fit into squares of `side`.
#[must_use]
pub fn mosaic(scenes: [Scene; 4], side: u32, chance: &mut impl Rng) -> Scene {
    let canvas = i64::from(2 * side);
    let mut picture = scenes[0].picture.ground(2 * side, 2 * side, GREY);
    let y = chance.random_range(i64::from(side) / 2..i64::from(side) * 3 / 2);
    let x = chance.random_range(i64::from(side) / 2..i64::from(side) * 3 / 2);
    let mut objects = Vec::new();
    for (place, scene) in scenes.into_iter().enumerate() {
        // Left or right of the point, above or below it.
        let left = if place % 2 == 0 { x - i64::from(scene.picture.width) } else { x };
        let top = if place < 2 { y - i64::from(scene.picture.height) } else { y };
        picture.paste(&scene.picture, left, top);
        for object in scene.objects {
            let mut object = shifted(object, left as f32, top as f32);
            for corner in &mut object.corners {
                *corner = corner.clamp(0.0, canvas as f32);
            }
            let [x1, y1, x2, y2] = object.corners;
            if x2 > x1 && y2 > y1 {
                objects.push(object);
            }
        }
    }
    Scene { picture, objects }
}

/// A linear map and a shift: `x' = a x + b y + c`, `y' = d x + e y + f`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Affine([f64; 6]);

impl Affine {
    fn at(&self, x: f64, y: f64) -> (f64, f64) {
        let [a, b, c, d, e, f] = self.0;
        (a * x + b * y + c, d * x + e * y + f)
    }

    /// `self` after `first`.
    fn after(self, first: Self) -> Self {
        let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = (self.0, first.0);
        Self([a * g + b * j, a * h + b * k, a * i + b * l + c, d * g + e * j, d * h + e * k, d * i + e * l + f])
    }

    /// The map back, if there is one.
    fn inverse(&self) -> Option<Self> {
        let [a, b, c, d, e, f] = self.0;
        let determinant = a * e - b * d;
        if determinant.abs() < 1e-12 {
            return None;
        }
        let [a, b, d, e] = [e / determinant, -b / determinant, -d / determinant, a / determinant];
        Some(Self([a, b, -(a * c + b * f), d, e, -(d * c + e * f)]))
    }
}

/// Boxes whose area shrinks below this share of what it was are dropped: too little of the object is left to be known.
const LEAST_SHARE: f32 = 0.1;
/// Pixels of a side that a box must exceed.
const LEAST_SIDE: f32 = 2.0;
/// A box more oblong than this is a sliver at the border.
const MOST_OBLONG: f32 = 100.0;

/// Turns, scales, shears and shifts a scene at random and keeps a square of `side` around its middle.
#[must_use]
pub fn affine(scene: Scene, side: u32, settings: &Settings, chance: &mut impl Rng) -> Scene {
    let mut between = |most: f64| if most == 0.0 { 0.0 } else { chance.random_range(-most.abs()..=most.abs()) };
    let (turn, scale) = (between(settings.degrees).to_radians(), 1.0 + between(settings.scale));
    let shear = [between(settings.shear), between(settings.shear)].map(|degrees| degrees.to_radians().tan());
    let shift = [between(settings.translate), between(settings.translate)].map(|share| (0.5 + share) * f64::from(side));
    let (width, height) = (f64::from(scene.picture.width), f64::from(scene.picture.height));

    let centred = Affine([1.0, 0.0, -width / 2.0, 0.0, 1.0, -height / 2.0]);
    let (sine, cosine) = (turn.sin() * scale, turn.cos() * scale);
    let turned = Affine([cosine, sine, 0.0, -sine, cosine, 0.0]);
    let sheared = Affine([1.0, shear[0], 0.0, shear[1], 1.0, 0.0]);
    let shifted = Affine([1.0, 0.0, shift[0], 0.0, 1.0, shift[1]]);
    let map = shifted.after(sheared).after(turned).after(centred);
    let same =
        scene.picture.width == side && scene.picture.height == side && map == Affine([1.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
    let picture = match map.inverse() {
        _ if same => scene.picture,
        _ if scene.picture.is_hollow() => Picture::hollow(side, side),
        Some(back) => warped(&scene.picture, side, &back),
        None => Picture::plain(side, side, GREY),
    };
    let limit = side as f32;
    let moved = |object: Object| {
        let [x1, y1, x2, y2] = object.corners.map(f64::from);
        let corners = [map.at(x1, y1), map.at(x2, y1), map.at(x2, y2), map.at(x1, y2)];
        let ends = |of: fn(&(f64, f64)) -> f64| {
            let all = || corners.iter().map(of);
            let clamp = |value: f64| (value as f32).clamp(0.0, limit);
            (clamp(all().fold(f64::INFINITY, f64::min)), clamp(all().fold(f64::NEG_INFINITY, f64::max)))
        };
        let ((left, right), (top, bottom)) = (ends(|it| it.0), ends(|it| it.1));
        let (w, h) = (right - left, bottom - top);
        let before = ((x2 - x1) * (y2 - y1) * scale * scale) as f32;
        let keeps =
            w > LEAST_SIDE && h > LEAST_SIDE && (w / h).max(h / w) < MOST_OBLONG && w * h > LEAST_SHARE * before;
        keeps.then_some(Object { corners: [left, top, right, bottom], ..object })
    };
    Scene { picture, objects: scene.objects.into_iter().filter_map(moved).collect() }
}

/// Bits of a pixel's fraction, of which the weights of its four neighbours are made.
const FRACTION: u32 = 8;
/// Bits of a position's fraction, more than a row's steps can lose.
const POSITION: u32 = 20;

/// A square of `side` whose pixels come from where `back` says, interpolated between the nearest four; grey outside.
fn warped(from: &Picture, side: u32, back: &Affine) -> Picture {
    let (width, height) = (i64::from(from.width), i64::from(from.height));
    let mut to = Picture::plain(side, side, GREY);
    let fixed = |value: f64| (value * f64::from(1 << POSITION)).round() as i64;
    let [a, _, _, d, _, _] = back.0;
    let (step_x, step_y) = (fixed(a), fixed(d));
    let row_bytes = from.width as usize * 3;
    for (row, pixels) in to.rgb.chunks_exact_mut(side as usize * 3).enumerate() {
        let (x, y) = back.at(0.0, row as f64);
        let (mut x, mut y) = (fixed(x), fixed(y));
        for pixel in pixels.chunks_exact_mut(3) {
            let (column, line) = (x >> POSITION, y >> POSITION);
            let part = |at: i64| ((at >> (POSITION - FRACTION)) & ((1 << FRACTION) - 1)) as u32;
            let (right, below) = (part(x), part(y));
            let one = 1 << FRACTION;
            let weights = [(one - right) * (one - below), right * (one - below), (one - right) * below, right * below];
            if column >= 0 && line >= 0 && column < width - 1 && line < height - 1 {
                let at = line as usize * row_bytes + column as usize * 3;
                let (upper, lower) = (&from.rgb[at..at + 6], &from.rgb[at + row_bytes..at + row_bytes + 6]);
                for channel in 0..3 {
                    let four = [upper[channel], upper[channel + 3], lower[channel], lower[channel + 3]];
                    pixel[channel] = mixed(four, weights);
                }
            } else if column >= -1 && line >= -1 && column < width && line < height {
                let value = |dx: i64, dy: i64, channel: usize| {
                    let (x, y) = (column + dx, line + dy);
                    let inside = x >= 0 && y >= 0 && x < width && y < height;
                    if inside { from.rgb[y as usize * row_bytes + x as usize * 3 + channel] } else { GREY }
                };
                for (channel, out) in pixel.iter_mut().enumerate() {
                    *out = mixed([(0, 0), (1, 0), (0, 1), (1, 1)].map(|(dx, dy)| value(dx, dy, channel)), weights);
                }
            }
            x += step_x;
            y += step_y;
        }
    }
    to
}

fn mixed(four: [u8; 4], weights: [u32; 4]) -> u8 {
    let sum: u32 = four.into_iter().zip(weights).map(|(value, weight)| u32::from(value) * weight).sum();
    ((sum + (1 << (2 * FRACTION - 1))) >> (2 * FRACTION)) as u8
}

/// Changes hue, saturation and brightness at random.
pub fn colour(picture: &mut Picture, settings: &Settings, chance: &mut impl Rng) {
    if settings.hsv_h == 0.0 && settings.hsv_s == 0.0 && settings.hsv_v == 0.0 {
        return;
    }
    let [hue, saturation, value] =
        [settings.hsv_h, settings.hsv_s, settings.hsv_v].map(|most| chance.random_range(-1.0..=1.0) * most);
    // A full circle of the hue has six parts.
    let turn = (hue * 6.0) as f32;
    let (saturation, value) = ((1.0 + saturation) as f32, (1.0 + value) as f32);
    for pixel in picture.rgb.chunks_exact_mut(3) {
        let [r, g, b] = [pixel[0], pixel[1], pixel[2]].map(f32::from);
        let (most, least) = (r.max(g).max(b), r.min(g).min(b));
        let spread = most - least;
        let bright = (most * value).min(255.0);
        if spread == 0.0 {
            // Grey has no hue to turn and no saturation to change.
            pixel.fill((bright + 0.5) as u8);
            continue;
        }
        let hue = if most == r {
            (g - b) / spread
        } else if most == g {
            2.0 + (b - r) / spread
        } else {
            4.0 + (r - g) / spread
        };
        let hue = (hue + turn).rem_euclid(6.0);
        let depth = bright * (spread / most * saturation).min(1.0);
        // How far each channel is below the brightest, by its distance on the circle.
        for (out, offset) in pixel.iter_mut().zip([5.0, 3.0, 1.0]) {
            let at = (hue + offset) % 6.0;
            let low = at.min(4.0 - at).clamp(0.0, 1.0);
            *out = (bright - depth * low + 0.5) as u8;
        }
    }
}

/// Mirrors a scene at random.
pub fn mirror(scene: &mut Scene, settings: &Settings, chance: &mut impl Rng) {
    if chance.random_bool(settings.flipud) {
        scene.flipped();
    }
    if chance.random_bool(settings.fliplr) {
        scene.mirrored();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, generator};

    /// A grey scene with one white box, and the object on it.
    fn scene(side: u32, corners: [u32; 4]) -> Scene {
        let mut picture = Picture::plain(side, side, 50);
        let [x1, y1, x2, y2] = corners;
        picture.paste(&Picture::plain(x2 - x1, y2 - y1, 250), x1.into(), y1.into());
        Scene { picture, objects: vec![Object { class: 1, corners: corners.map(|corner| corner as f32) }] }
    }

    /// Where the white is, as corners.
    fn white(picture: &Picture) -> [u32; 4] {
        let mut found = [u32::MAX, u32::MAX, 0, 0];
        for (at, pixel) in picture.rgb.chunks(3).enumerate() {
            if pixel[0] > 200 {
                let (x, y) = (at as u32 % picture.width, at as u32 / picture.width);
                found = [found[0].min(x), found[1].min(y), found[2].max(x + 1), found[3].max(y + 1)];
            }
        }
        found
    }

    fn agree(scene: &Scene) {
        let [object] = scene.objects[..] else { panic!("one object, not {:?}", scene.objects) };
        for (seen, told) in white(&scene.picture).into_iter().zip(object.corners) {
            assert!((seen as f32 - told).abs() <= 1.5, "{:?} but {:?}", white(&scene.picture), object.corners);
        }
    }

    #[test]
    fn a_box_goes_where_its_pixels_go() {
        let settings = Settings { scale: 0.3, translate: 0.1, fliplr: 0.5, flipud: 0.5, ..Settings::default() };
        for item in 0..200 {
            let mut chance = generator(Purpose::Augment, 0, 0, item);
            let mut scene = affine(scene(64, [20, 24, 40, 36]), 64, &settings, &mut chance);
            mirror(&mut scene, &settings, &mut chance);
            agree(&scene);
        }
    }

    #[test]
    fn a_turned_box_is_inside_the_one_around_it() {
        let settings = Settings { degrees: 45.0, shear: 10.0, scale: 0.0, translate: 0.0, ..Settings::default() };
        for item in 0..50 {
            let mut chance = generator(Purpose::Augment, 0, 0, item);
            agree(&affine(scene(64, [24, 24, 40, 36]), 64, &settings, &mut chance));
        }
    }

    #[test]
    fn nothing_asked_for_changes_nothing() {
        let none = Settings {
            degrees: 0.0,
            scale: 0.0,
            shear: 0.0,
            translate: 0.0,
            hsv_h: 0.0,
            hsv_s: 0.0,
            hsv_v: 0.0,
            fliplr: 0.0,
            ..Settings::default()
        };
        let before = scene(64, [20, 24, 40, 36]);
        let mut chance = generator(Purpose::Augment, 0, 0, 0);
        let mut after = affine(before.clone(), 64, &none, &mut chance);
        mirror(&mut after, &none, &mut chance);
        colour(&mut after.picture, &none, &mut chance);
        assert_eq!((after.picture, after.objects), (before.picture, before.objects));
    }

    #[test]
    fn a_mosaic_has_its_four_parts_around_a_point() {
        for item in 0..20 {
            let mut chance = generator(Purpose::Augment, 0, 0, item);
            let parts = [0_u8, 1, 2, 3].map(|part| Scene {
                picture: Picture::plain(32, 32, part),
                objects: vec![Object { class: part.into(), corners: [0.0, 0.0, 32.0, 32.0] }],
            });
            let joined = mosaic(parts, 32, &mut chance);
            assert_eq!((joined.picture.width, joined.picture.height), (64, 64));
            assert_eq!(joined.objects.len(), 4);
            for object in &joined.objects {
                let [x1, y1, x2, y2] = object.corners.map(|corner| corner as usize);
                let at = |x: usize, y: usize| joined.picture.rgb[(y * 64 + x) * 3];
                assert_eq!([at(x1, y1), at(x2 - 1, y2 - 1)], [object.class as u8; 2]);
            }
        }
    }

    #[test]
    fn what_is_almost_outside_is_dropped() {
        let settings = Settings { scale: 0.0, translate: 0.0, ..Settings::default() };
        let mut chance = generator(Purpose::Augment, 0, 0, 0);
        // Of a canvas of 128 the middle 64 are kept, from 32 on.
        let canvas = |corners| affine(scene(128, corners), 64, &settings, &mut chance.clone()).objects.len();
        assert_eq!(canvas([0, 40, 36, 60]), 1, "a ninth is left");
        assert_eq!(canvas([0, 40, 35, 60]), 0, "less than a tenth is left");
        assert_eq!(canvas([0, 40, 20, 60]), 0);
        let _ = chance.random::<f64>();
    }

    #[test]
    fn colours_turn_and_greys_stay_grey() {
        let settings = Settings { hsv_h: 0.5, hsv_s: 0.5, hsv_v: 0.0, ..Settings::default() };
        let mut chance = generator(Purpose::Augment, 0, 0, 3);
        let mut picture = Picture { width: 2, height: 1, rgb: vec![200, 20, 20, 90, 90, 90] };
        colour(&mut picture, &settings, &mut chance);
        assert_ne!(picture.rgb[..3], [200, 20, 20]);
        assert_eq!(picture.rgb[..3].iter().max(), Some(&200), "the brightest channel is as bright");
        assert_eq!(picture.rgb[3..], [90, 90, 90]);
    }
}
