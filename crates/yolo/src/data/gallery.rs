//! The pictures of a set at the size of a training, kept once they are decoded, as far as memory that was set aside for it goes.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use super::picture::{Picture, PictureError, read};
use super::set::{Entry, Set};

/// A set whose pictures fit into a square of one side. A mosaic alone asks for four pictures, so one that is kept saves much work; as all
/// are asked for equally often, there is nothing to gain from exchanging those that are kept.
#[derive(Debug)]
pub struct Gallery {
    set: Arc<Set>,
    side: u32,
    /// Nothing stands for one that is broken.
    kept: Vec<OnceLock<Option<Arc<Picture>>>>,
    bytes: AtomicUsize,
    most: usize,
}

impl Gallery {
    /// The pictures of `set`, each with its longer side made `side`, of which at most `most` bytes are kept.
    #[must_use]
    pub fn new(set: Arc<Set>, side: u32, most: usize) -> Self {
        let kept = set.entries.iter().map(|_| OnceLock::new()).collect();
        Self { set, side, kept, bytes: AtomicUsize::new(0), most }
    }

    /// The set.
    #[must_use]
    pub fn set(&self) -> &Arc<Set> {
        &self.set
    }

    /// Longer side of a picture, in pixels.
    #[must_use]
    pub fn side(&self) -> u32 {
        self.side
    }

    /// What the set says of a picture.
    #[must_use]
    pub fn entry(&self, number: u32) -> &Entry {
        &self.set.entries[number as usize]
    }

    /// A picture, read if it is not kept.
    ///
    /// # Errors
    ///
    /// As [`read`]; without a reason where it was told before that this one is broken.
    pub fn picture(&self, number: u32) -> Result<Arc<Picture>, Option<PictureError>> {
        let place = &self.kept[number as usize];
        if let Some(kept) = place.get() {
            return kept.clone().ok_or(None);
        }
        let picture = match read(&self.entry(number).path) {
            Ok(picture) => Arc::new(picture.fitted(self.side)),
            // A disk or a network may have its moments; what a file holds stays as it is.
            Err(error @ PictureError::Read(_)) => return Err(Some(error)),
            Err(error) => return Err(place.set(None).is_ok().then_some(error)),
        };
        let bytes = picture.rgb.len();
        let room = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes <= self.most;
        if !room || place.set(Some(picture.clone())).is_err() {
            // No room, or another thread was quicker.
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        Ok(picture)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::set::Source;
    use crate::team::Team;

    #[test]
    fn pictures_are_kept_as_far_as_they_fit() {
        let place = tempfile::tempdir().expect("a folder");
        for number in 0..3 {
            image::RgbImage::new(20, 20).save(place.path().join(format!("{number}.png"))).expect("written");
        }
        let entries = [".".to_owned()];
        let source =
            Source { root: place.path(), entries: &entries, classes: 1, single_class: false, limit: None, cache: None };
        let set = Arc::new(Set::scan(&source, 1, &Team::alone()).expect("sound"));
        // Room for two pictures of 10 x 10 pixels.
        let gallery = Gallery::new(set, 10, 700);
        assert!((0..3).all(|number| gallery.picture(number).is_ok_and(|picture| picture.width == 10)));
        for number in 0..3 {
            std::fs::remove_file(place.path().join(format!("{number}.png"))).expect("removed");
        }
        let there: Vec<bool> = (0..3).map(|number| gallery.picture(number).is_ok()).collect();
        assert_eq!(there, [true, true, false]);
        // One that is away may come back; one that is broken is so for good, and told of once.
        assert!(matches!(gallery.picture(2), Err(Some(PictureError::Read(_)))));
        std::fs::write(place.path().join("2.png"), "no picture").expect("written");
        assert!(matches!(gallery.picture(2), Err(Some(PictureError::Broken(_)))));
        assert!(matches!(gallery.picture(2), Err(None)));
    }
}
