//! One image: where its shapes are, and its pixels. Integers only: a float's last bit differs between machines.

use std::ops::RangeInclusive;

use super::rng::Rng;

/// Units in a pixel. Sixteen samples a pixel lie at odd units, so edges are smooth.
const UNIT: i64 = 8;
/// Pixels kept free between a shape and the image's edge.
const MARGIN: i64 = 1;
/// Side of the smallest box, in pixels: below it a class cannot be told.
const SMALLEST: i64 = 5;
/// Places tried before a shape is made smaller.
const TRIES: u32 = 24;
/// Cosine, sine, denominator of angles whose sine and cosine are both rational: 0°, 16°, 23°, 28°, 37°, 44°.
const TURNS: [(i64, i64, i64); 6] = [(1, 0, 1), (24, 7, 25), (12, 5, 13), (15, 8, 17), (4, 3, 5), (21, 20, 29)];

/// Names of the classes, by index.
pub const CLASSES: [&str; 3] = ["circle", "square", "triangle"];

/// A drawn image and what is on it.
#[derive(Clone, Debug)]
pub struct Picture {
    /// Rows of RGB bytes.
    pub rgb: Vec<u8>,
    /// One line of YOLO's format a shape: class, then centre and size of its box as fractions of the side.
    pub labels: String,
}

/// Draws an image of `side` × `side` pixels with a number of shapes out of `labels`.
#[must_use]
pub fn draw(rng: &mut Rng, side: u32, labels: RangeInclusive<u32>) -> Picture {
    let side = i64::from(side);
    let count = rng.between(i64::from(*labels.start()), i64::from(*labels.end()));
    let base = [rng.between(30, 225), rng.between(30, 225), rng.between(30, 225)];
    let corners = [(); 4].map(|()| base.map(|value| value + rng.between(-24, 24)));

    let mut placed: Vec<Shape> = Vec::new();
    for _ in 0..count {
        let shape = place(rng, side, count, base, &placed);
        placed.push(shape);
    }
    let lines: String = placed.iter().map(|shape| shape.label(side)).collect();

    let mut rgb = background(side, corners);
    for shape in &placed {
        shape.paint(&mut rgb, side);
    }
    for pixel in rgb.chunks_exact_mut(3) {
        let noise = rng.between(-6, 6);
        for value in pixel {
            *value = byte(i64::from(*value) + noise);
        }
    }
    Picture { rgb, labels: lines }
}

/// Finds a place for the next shape: mostly beside the others, smaller when there is no room, and over them at worst,
/// so that an image has exactly as many shapes as were asked for.
fn place(rng: &mut Rng, side: i64, count: i64, base: [i64; 3], placed: &[Shape]) -> Shape {
    let kind = rng.between(0, 2);
    let turn = TURNS[usize::try_from(rng.between(0, 5)).expect("an index")];
    let quarter = rng.between(0, 3);
    let colour = contrast(rng, base);
    // Together the shapes should cover at most about half of the image.
    let largest = (side * 9 / 20).min(side * 4 / 5 * 1000 / (count * 1_000_000).isqrt().max(1));
    let mut extent = (rng.between(largest / 2, largest)).max(SMALLEST);
    loop {
        let shape = Shape::new(kind, extent * UNIT, turn, quarter, colour);
        let mut last = None;
        for _ in 0..TRIES {
            let (left, top, right, bottom) = shape.bounds;
            let (low, high) = (MARGIN * UNIT, (side - MARGIN) * UNIT);
            let moved =
                shape.clone().moved(rng.between(low - left, high - right), rng.between(low - top, high - bottom));
            if placed.iter().all(|other| !moved.crowds(other)) {
                return moved;
            }
            last = Some(moved);
        }
        if extent == SMALLEST {
            return last.expect("at least one place was tried");
        }
        extent = (extent * 7 / 8).max(SMALLEST);
    }
}

/// A colour that stands out from the background.
fn contrast(rng: &mut Rng, base: [i64; 3]) -> [i64; 3] {
    loop {
        let colour = [rng.between(0, 255), rng.between(0, 255), rng.between(0, 255)];
        // The farthest corner of the colour cube is at least 384 away from any base, so this ends.
        if colour.iter().zip(base).map(|(a, b)| (a - b).abs()).sum::<i64>() >= 240 {
            return colour;
        }
    }
}

#[derive(Clone, Debug)]
enum Outline {
    Circle {
        x: i64,
        y: i64,
        radius: i64,
    },
    /// Convex, its corners in clockwise order as seen on the screen.
    Polygon(Vec<(i64, i64)>),
}

#[derive(Clone, Debug)]
struct Shape {
    class: i64,
    colour: [i64; 3],
    outline: Outline,
    /// Left, top, right, bottom in units.
    bounds: (i64, i64, i64, i64),
}

impl Shape {
    /// A shape around the origin that is about `extent` units wide.
    fn new(class: i64, extent: i64, (cos, sin, whole): (i64, i64, i64), quarter: i64, colour: [i64; 3]) -> Self {
        let half = extent / 2;
        let corners = match class {
            0 => {
                let outline = Outline::Circle { x: 0, y: 0, radius: half };
                return Self { class, colour, outline, bounds: (-half, -half, half, half) };
            }
            1 => {
                let a = half * 4 / 5;
                vec![(-a, -a), (a, -a), (a, a), (-a, a)]
            }
            // Equilateral, about its centre: 1732/1000 is √3.
            _ => {
                let a = half * 3 / 5;
                vec![(0, -2 * a), (a * 1732 / 1000, a), (-a * 1732 / 1000, a)]
            }
        };
        let corners: Vec<_> = corners
            .into_iter()
            .map(|(x, y)| ((x * cos - y * sin) / whole, (x * sin + y * cos) / whole))
            .map(|(x, y)| match quarter {
                0 => (x, y),
                1 => (-y, x),
                2 => (-x, -y),
                _ => (y, -x),
            })
            .collect();
        let of = |pick: fn(&(i64, i64)) -> i64| corners.iter().map(pick);
        let bounds = (
            of(|c| c.0).min().expect("has corners"),
            of(|c| c.1).min().expect("has corners"),
            of(|c| c.0).max().expect("has corners"),
            of(|c| c.1).max().expect("has corners"),
        );
        Self { class, colour, outline: Outline::Polygon(corners), bounds }
    }

    fn moved(mut self, dx: i64, dy: i64) -> Self {
        match &mut self.outline {
            Outline::Circle { x, y, .. } => {
                *x += dx;
                *y += dy;
            }
            Outline::Polygon(corners) => corners.iter_mut().for_each(|(x, y)| {
                *x += dx;
                *y += dy;
            }),
        }
        let (left, top, right, bottom) = self.bounds;
        self.bounds = (left + dx, top + dy, right + dx, bottom + dy);
        self
    }

    /// Whether the boxes share more than a tenth of the smaller one.
    fn crowds(&self, other: &Self) -> bool {
        let (a, b) = (self.bounds, other.bounds);
        let width = a.2.min(b.2) - a.0.max(b.0);
        let height = a.3.min(b.3) - a.1.max(b.1);
        let area = |c: (i64, i64, i64, i64)| (c.2 - c.0) * (c.3 - c.1);
        width > 0 && height > 0 && width * height * 10 > area(a).min(area(b))
    }

    fn covers(&self, px: i64, py: i64) -> bool {
        match &self.outline {
            Outline::Circle { x, y, radius } => (px - x).pow(2) + (py - y).pow(2) <= radius * radius,
            Outline::Polygon(corners) => {
                let mut from = corners[corners.len() - 1];
                for &to in corners {
                    if (to.0 - from.0) * (py - from.1) - (to.1 - from.1) * (px - from.0) < 0 {
                        return false;
                    }
                    from = to;
                }
                true
            }
        }
    }

    /// How many of the sixteen samples of the pixel at these units are inside.
    fn samples(&self, left: i64, top: i64) -> i64 {
        let last = UNIT - 1;
        // The outlines are convex: with the four outer samples inside, so is the rest.
        if [(1, 1), (last, 1), (1, last), (last, last)].iter().all(|(x, y)| self.covers(left + x, top + y)) {
            return 16;
        }
        let mut inside = 0;
        for y in [1, 3, 5, 7] {
            for x in [1, 3, 5, 7] {
                inside += i64::from(self.covers(left + x, top + y));
            }
        }
        inside
    }

    fn paint(&self, rgb: &mut [u8], side: i64) {
        let (left, top, right, bottom) = self.bounds;
        for y in (top / UNIT).max(0)..=(bottom / UNIT).min(side - 1) {
            for x in (left / UNIT).max(0)..=(right / UNIT).min(side - 1) {
                let inside = self.samples(x * UNIT, y * UNIT);
                if inside == 0 {
                    continue;
                }
                let at = usize::try_from((y * side + x) * 3).expect("inside the image");
                for (value, colour) in rgb[at..at + 3].iter_mut().zip(self.colour) {
                    *value = byte((i64::from(*value) * (16 - inside) + colour * inside + 8) / 16);
                }
            }
        }
    }

    fn label(&self, side: i64) -> String {
        let (left, top, right, bottom) = self.bounds;
        // Millionths of the side, rounded; `doubled` spares the centre's half unit.
        let fraction = |doubled: i64| {
            let millionths = (doubled * 1_000_000 + side * UNIT) / (2 * side * UNIT);
            format!("{}.{:06}", millionths / 1_000_000, millionths % 1_000_000)
        };
        format!(
            "{} {} {} {} {}\n",
            self.class,
            fraction(left + right),
            fraction(top + bottom),
            fraction(2 * (right - left)),
            fraction(2 * (bottom - top))
        )
    }
}

/// A gradient between four corner colours.
fn background(side: i64, corners: [[i64; 3]; 4]) -> Vec<u8> {
    let last = (side - 1).max(1);
    let mut rgb = Vec::with_capacity(usize::try_from(side * side * 3).expect("an image fits in memory"));
    for y in 0..side {
        // Along one row both ends are fixed, so the mix is done once.
        let ends: [[i64; 3]; 2] =
            [0, 1].map(|end| [0, 1, 2].map(|c| corners[end][c] * (last - y) + corners[end + 2][c] * y));
        for x in 0..side {
            rgb.extend([0, 1, 2].map(|c| byte((ends[0][c] * (last - x) + ends[1][c] * x) / (last * last))));
        }
    }
    rgb
}

fn byte(value: i64) -> u8 {
    u8::try_from(value.clamp(0, 255)).expect("clamped to a byte")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boxes(picture: &Picture) -> Vec<[f64; 4]> {
        picture
            .labels
            .lines()
            .map(|line| {
                let n: Vec<f64> = line.split(' ').map(|word| word.parse().expect("a number")).collect();
                [n[1] - n[3] / 2.0, n[2] - n[4] / 2.0, n[1] + n[3] / 2.0, n[2] + n[4] / 2.0]
            })
            .collect()
    }

    #[test]
    fn every_image_has_as_many_shapes_as_asked_and_all_inside() {
        for (side, labels) in [(160, 1..=3), (64, 7..=7), (640, 200..=200), (160, 200..=200), (32, 50..=50)] {
            for index in 0..4 {
                let picture = draw(&mut Rng::of_image(3, 0, index), side, labels.clone());
                let boxes = boxes(&picture);
                assert!(labels.contains(&u32::try_from(boxes.len()).expect("few")), "{side} {labels:?}");
                assert!(boxes.iter().flatten().all(|edge| (0.0..=1.0).contains(edge)), "{side} {labels:?}: {boxes:?}");
                assert!(boxes.iter().all(|b| b[2] - b[0] > 3.0 / f64::from(side)), "no shape is lost");
            }
        }
    }

    #[test]
    fn a_shape_is_painted_where_its_box_is() {
        // The shape's own colour, without noise: the box of what was painted is the label's box to a pixel.
        for class in 0..3 {
            for (number, turn) in TURNS.into_iter().enumerate() {
                let shape = Shape::new(class, 60 * UNIT, turn, i64::try_from(number).expect("small") % 4, [255; 3]);
                let shape = shape.moved(80 * UNIT, 70 * UNIT);
                let mut rgb = vec![0; 160 * 160 * 3];
                shape.paint(&mut rgb, 160);
                let lit: Vec<i64> =
                    (0..160 * 160).filter(|at| rgb[usize::try_from(at * 3).expect("small")] > 0).collect();
                let left = lit.iter().map(|at| at % 160).min().expect("painted");
                let right = lit.iter().map(|at| at % 160).max().expect("painted");
                let (top, bottom) = (lit[0] / 160, lit[lit.len() - 1] / 160);
                for (seen, told) in [left, top, right + 1, bottom + 1].into_iter().zip([
                    shape.bounds.0,
                    shape.bounds.1,
                    shape.bounds.2,
                    shape.bounds.3,
                ]) {
                    assert!((seen * UNIT - told).abs() <= 2 * UNIT, "class {class}, turn {turn:?}: {seen} and {told}");
                }
            }
        }
    }
}
