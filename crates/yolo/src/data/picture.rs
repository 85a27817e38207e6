//! Pictures in files, decoded to rows of red, green and blue.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::panic::catch_unwind;
use std::path::Path;

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

/// Endings of the files that are taken for pictures, in lower case.
pub const ENDINGS: [&str; 5] = ["bmp", "jpeg", "jpg", "png", "webp"];

/// Pixels of a picture at most: what a thread needs for one stays below half a gigabyte.
const MOST_PIXELS: u64 = 100_000_000;
/// Pixels of a side at least, as in the official package.
const LEAST_SIDE: u32 = 10;

/// A picture, three bytes a pixel, row by row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Pixels of a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Red, green and blue of each pixel; none at all where only its size matters.
    pub rgb: Vec<u8>,
}

/// A file that is no picture to train on.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    /// It cannot be read.
    #[error("failed to read it: {0}")]
    Read(#[from] std::io::Error),
    /// It is nothing that we know, or it is broken.
    #[error("{0}")]
    Broken(String),
    /// It is too small or too large.
    #[error("{width} x {height} pixels: {why}")]
    Size {
        /// Pixels of a row.
        width: u32,
        /// Rows.
        height: u32,
        /// What is wrong with that.
        why: &'static str,
    },
}

/// Width and height of a picture as it is looked at, and whether its file is whole, as far as its first and last bytes tell.
///
/// # Errors
///
/// As [`read`], but for what is broken in the middle of the file.
pub fn look(path: &Path) -> Result<(u32, u32), PictureError> {
    let mut file = File::open(path)?;
    let mut decoder = decoder(&mut file)?;
    let (width, height) = decoder.dimensions();
    // A decoder that does not know has none.
    let turned = decoder.orientation().is_ok_and(swaps_sides);
    drop(decoder);
    check_end(&mut file)?;
    Ok(if turned { (height, width) } else { (width, height) })
}

/// The picture in a file, turned as its EXIF data say. Grey, 16-bit, palette and CMYK pictures become RGB; transparency is left out.
///
/// # Errors
///
/// The file cannot be read, is no JPEG, PNG, BMP or WebP, is broken, or has a size that cannot be trained on.
pub fn read(path: &Path) -> Result<Picture, PictureError> {
    let mut file = File::open(path)?;
    // Decoders are tested against hostile files by their makers; should one panic all the same, that is one picture's end.
    catch_unwind(move || decode(&mut file)).unwrap_or_else(|_| Err(PictureError::Broken("the decoder gave up".into())))
}

fn decode(file: &mut File) -> Result<Picture, PictureError> {
    let mut decoder = decoder(file)?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut picture = DynamicImage::from_decoder(decoder).map_err(|error| PictureError::Broken(error.to_string()))?;
    picture.apply_orientation(orientation);
    let rgb = picture.into_rgb8();
    Ok(Picture { width: rgb.width(), height: rgb.height(), rgb: rgb.into_raw() })
}

fn decoder(file: &mut File) -> Result<impl ImageDecoder, PictureError> {
    let broken = |error: image::ImageError| PictureError::Broken(error.to_string());
    let mut reader = ImageReader::new(BufReader::new(file)).with_guessed_format()?;
    if reader.format().is_none() {
        return Err(PictureError::Broken("no JPEG, PNG, BMP or WebP".into()));
    }
    let mut limits = Limits::default();
    // Eight bytes a pixel are the most that any of them holds.
    limits.max_alloc = Some(MOST_PIXELS * 8);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(broken)?;
    let (width, height) = decoder.dimensions();
    let size = |why| PictureError::Size { width, height, why };
    if width.min(height) < LEAST_SIDE {
        return Err(size("a side has at least 10"));
    }
    if u64::from(width) * u64::from(height) > MOST_PIXELS {
        return Err(size("100 million are the most"));
    }
    Ok(decoder)
}

fn swaps_sides(orientation: Orientation) -> bool {
    use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    matches!(orientation, Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH)
}

/// Whether the file goes on to its end: a download that was cut short does not.
fn check_end(file: &mut File) -> Result<(), PictureError> {
    let length = file.metadata()?.len();
    let mut start = [0; 16];
    file.rewind()?;
    let read = file.read(&mut start)?;
    let end_from = length.saturating_sub(64);
    let mut end = Vec::new();
    file.seek(SeekFrom::Start(end_from))?;
    file.read_to_end(&mut end)?;
    let field = |at: usize| u64::from(u32::from_le_bytes([start[at], start[at + 1], start[at + 2], start[at + 3]]));
    let whole = match image::guess_format(&start[..read]) {
        // What some cameras and tools append is not ours to judge: the marker of the end is among the last bytes.
        Ok(ImageFormat::Jpeg) => end.windows(2).any(|pair| pair == [0xff, 0xd9]),
        Ok(ImageFormat::Png) => end.windows(4).any(|word| word == b"IEND"),
        // Both say their length at the start, the one in all, the other from its ninth byte on.
        Ok(ImageFormat::Bmp) => field(2) <= length,
        Ok(ImageFormat::WebP) => field(4) + 8 <= length,
        _ => return Err(PictureError::Broken("no JPEG, PNG, BMP or WebP".into())),
    };
    if whole { Ok(()) } else { Err(PictureError::Broken("the file ends in the middle of the picture".into())) }
}

impl Picture {
    /// A picture of one colour.
    #[must_use]
    pub fn plain(width: u32, height: u32, grey: u8) -> Self {
        Self { width, height, rgb: vec![grey; width as usize * height as usize * 3] }
    }

    /// A picture without pixels: all that is done to it leaves it so.
    #[must_use]
    pub fn hollow(width: u32, height: u32) -> Self {
        Self { width, height, rgb: Vec::new() }
    }

    /// Whether it has no pixels.
    #[must_use]
    pub fn is_hollow(&self) -> bool {
        self.rgb.is_empty()
    }

    /// Grey to put this picture on: without pixels, if this one has none.
    #[must_use]
    pub fn ground(&self, width: u32, height: u32, grey: u8) -> Self {
        if self.is_hollow() { Self::hollow(width, height) } else { Self::plain(width, height, grey) }
    }

    /// The picture at another size; values between pixels are interpolated, each from its nearest four.
    #[must_use]
    pub fn resized(self, width: u32, height: u32) -> Self {
        if (width, height) == (self.width, self.height) {
            return self;
        }
        let from = ImageRef::new(self.width, self.height, &self.rgb, PixelType::U8x3).expect("three bytes a pixel");
        let mut to = Image::new(width, height, PixelType::U8x3);
        let options = ResizeOptions::new().resize_alg(ResizeAlg::Interpolation(FilterType::Bilinear));
        Resizer::new().resize(&from, &mut to, &options).expect("both have pixels of one kind, and some");
        Self { width, height, rgb: to.into_vec() }
    }

    /// The picture with its longer side made `side`, its proportions kept.
    #[must_use]
    pub fn fitted(self, side: u32) -> Self {
        let (width, height) = fitted(self.width, self.height, side);
        self.resized(width, height)
    }

    /// Copies `from` so that its upper left corner comes to `x, y`; what lies outside is left out.
    pub fn paste(&mut self, from: &Self, x: i64, y: i64) {
        if self.is_hollow() {
            return;
        }
        // The part of an axis that both have: its start here, its start there, and its length.
        let shared = |at: i64, there: u32, here: u32| {
            let (start, end) = (at.max(0), (at + i64::from(there)).min(i64::from(here)));
            (end > start).then(|| (start as usize, (start - at) as usize, (end - start) as usize))
        };
        let (Some((left, skip, width)), Some((top, skip_rows, rows))) =
            (shared(x, from.width, self.width), shared(y, from.height, self.height))
        else {
            return;
        };
        for row in 0..rows {
            let to = ((top + row) * self.width as usize + left) * 3;
            let source = ((skip_rows + row) * from.width as usize + skip) * 3;
            self.rgb[to..to + width * 3].copy_from_slice(&from.rgb[source..source + width * 3]);
        }
    }
}

/// Width and height with the longer side made `side`; the other is rounded up.
#[must_use]
pub fn fitted(width: u32, height: u32, side: u32) -> (u32, u32) {
    let ratio = f64::from(side) / f64::from(width.max(height));
    let scaled = |length: u32| ((f64::from(length) * ratio).ceil() as u32).clamp(1, side);
    (scaled(width), scaled(height))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longer_side_fits() {
        assert_eq!(fitted(640, 480, 160), (160, 120));
        assert_eq!(fitted(100, 333, 160), (49, 160));
        assert_eq!(fitted(50_000, 10, 64), (64, 1));
        assert_eq!(Picture::plain(10, 20, 7).fitted(40), Picture::plain(20, 40, 7));
    }

    #[test]
    fn what_is_pasted_outside_is_left_out() {
        let mut canvas = Picture::plain(4, 4, 0);
        canvas.paste(&Picture::plain(3, 3, 9), -1, 2);
        canvas.paste(&Picture::plain(3, 3, 9), 50, 0);
        let filled: Vec<bool> = canvas.rgb.chunks(3).map(|pixel| pixel == [9, 9, 9]).collect();
        let expected: Vec<bool> = (0..16).map(|at| at / 4 >= 2 && at % 4 < 2).collect();
        assert_eq!(filled, expected);
    }
}
