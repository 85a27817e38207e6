//! A folder with a set of images, and trainings on it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use evenkeel_wire::Event;
use evenkeel_yolo::checkpoint;
use image::{Rgb, RgbImage};
use serde_json::{Value, json};
use tch::Tensor;

use crate::support::{self, Ended, Rank, free_port};

/// Side of the images, in pixels.
pub const SIDE: u32 = 64;
/// How long a training of the tests may take: a machine may be busy with others.
const PATIENCE: Duration = Duration::from_secs(240);

/// A sample, or all with `EVENKEEL_TEST_LONG`.
pub fn sample(some: u32, all: u32) -> u32 {
    if std::env::var_os("EVENKEEL_TEST_LONG").is_some_and(|long| !long.is_empty()) { all } else { some }
}

/// The folder; gone when it is dropped.
pub struct Place(tempfile::TempDir);

impl Place {
    /// With so many images of boxes in two colours to train on, and four to validate on.
    pub fn with_images(count: u32) -> Self {
        let place = Self(tempfile::tempdir().expect("a folder"));
        for number in 0..count {
            place.image("train", number);
        }
        for number in 0..4 {
            place.image("val", 1000 + number);
        }
        place
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    fn image(&self, split: &str, number: u32) {
        // Scattered by the number alone.
        let of = |salt: u32, range: u32| number.wrapping_mul(2_654_435_761).rotate_left(salt) % range;
        let (side, class) = (12 + of(3, 20), number % 2);
        let (x, y) = (of(7, SIDE - side), of(13, SIDE - side));
        let mut picture = RgbImage::from_pixel(SIDE, SIDE, Rgb([40 + of(5, 60) as u8, 90, 120]));
        let colour = if class == 0 { Rgb([230, 60, 40]) } else { Rgb([60, 220, 90]) };
        for (dx, dy) in (0..side).flat_map(|dx| (0..side).map(move |dy| (dx, dy))) {
            picture.put_pixel(x + dx, y + dy, colour);
        }
        self.picture(split, &format!("{number:04}.png"), &picture);
        let share = |value: f64| value / f64::from(SIDE);
        let (middle_x, middle_y) = (f64::from(x) + f64::from(side) / 2.0, f64::from(y) + f64::from(side) / 2.0);
        let size = share(side.into());
        self.label(
            split,
            &format!("{number:04}"),
            format!("{class} {} {} {size} {size}\n", share(middle_x), share(middle_y)),
        );
    }

    /// Writes a picture in the format of its name.
    pub fn picture(&self, split: &str, name: &str, picture: &RgbImage) {
        let file = self.file("images", split, name);
        picture.save(file).expect("written");
    }

    /// Writes a label file.
    pub fn label(&self, split: &str, stem: &str, text: impl AsRef<[u8]>) {
        fs::write(self.file("labels", split, &format!("{stem}.txt")), text).expect("written");
    }

    /// A file of the set, whose folder exists.
    pub fn file(&self, kind: &str, split: &str, name: &str) -> PathBuf {
        let folder = self.path().join(kind).join(split);
        fs::create_dir_all(&folder).expect("a folder");
        folder.join(name)
    }
}

/// A training.
#[derive(Clone)]
pub struct Job<'a> {
    pub place: &'a Place,
    pub args: Value,
    pub epochs: u32,
    pub until_epoch: Option<u32>,
    /// Side of the training images, in pixels.
    pub side: u32,
    pub cut: Vec<Vec<u32>>,
    pub seed: u64,
    pub model: String,
    pub max_images: Option<u32>,
    pub micro_from_step: BTreeMap<u64, u32>,
    pub step_down: bool,
    /// Output folder, in the place. Empty: one of its own.
    pub out: String,
}

impl<'a> Job<'a> {
    pub fn new(place: &'a Place, args: Value) -> Self {
        Self {
            place,
            args,
            epochs: 1,
            until_epoch: None,
            side: SIDE,
            cut: vec![vec![8]],
            seed: 0,
            model: "yolov8n.yaml".into(),
            max_images: None,
            micro_from_step: BTreeMap::new(),
            step_down: true,
            out: String::new(),
        }
    }

    /// Trains to the end; `more` are further variables of all ranks.
    pub fn train(&self, more: &[(&str, &str)]) -> Trained {
        self.start(more).end()
    }

    /// Trains with a change to the job file.
    pub fn train_changed(&self, change: &dyn Fn(&mut Value)) -> Trained {
        self.begin(&[], change).end()
    }

    pub fn start(&self, more: &[(&str, &str)]) -> Running {
        self.begin(more, &|_| ())
    }

    pub fn begin(&self, more: &[(&str, &str)], change: &dyn Fn(&mut Value)) -> Running {
        let (out, own) = if self.out.is_empty() {
            let own = tempfile::tempdir_in(self.place.path()).expect("a folder");
            (own.path().to_owned(), Some(own))
        } else {
            (self.place.path().join(&self.out), None)
        };
        fs::create_dir_all(&out).expect("a folder");
        let mut job = json!({
            "version": 1, "run": "test", "generation": 1, "device": "cpu", "model": self.model,
            "data": {"path": self.place.path(), "train": ["images/train"], "val": ["images/val"], "names": {"0": "red", "1": "green"}},
            "epochs": self.epochs, "until_epoch": self.until_epoch, "imgsz": self.side, "seed": self.seed, "target_batch": self.cut.iter().flatten().sum::<u32>(),
            "micro_batches": self.cut, "micro_from_step": self.micro_from_step, "step_down": self.step_down, "output": out,
            "max_images": self.max_images, "args": self.args,
        });
        change(&mut job);
        let file = out.join("job.json");
        fs::write(&file, job.to_string()).expect("written");
        let mut variables = vec![("EVENKEEL_JOB", file.to_str().expect("UTF-8")), ("OMP_NUM_THREADS", "1")];
        variables.extend(more);
        let port = free_port();
        let world = self.cut.len() as u32;
        let ranks = (0..world).map(|rank| support::rank("train", rank, world, port, &variables)).collect();
        Running { ranks, out, _own: own }
    }
}

/// A training that runs.
pub struct Running {
    ranks: Vec<Rank>,
    out: PathBuf,
    _own: Option<tempfile::TempDir>,
}

impl Running {
    /// Waits until rank 0 has told of so many steps.
    pub fn until_steps(&self, count: usize) {
        self.until(count, "steps", |event| matches!(event, Event::Step { .. }));
    }

    /// Waits until rank 0 has told of so many epochs' weights, which are on the disk then.
    pub fn until_checkpoints(&self, count: usize) {
        self.until(count, "checkpoints", |event| matches!(event, Event::Checkpoint { .. }));
    }

    pub fn until(&self, count: usize, what: &str, is_one: impl Fn(&Event) -> bool) {
        let began = Instant::now();
        while support::events(&self.ranks[0].events).iter().filter(|event| is_one(event)).count() < count {
            assert!(began.elapsed() < PATIENCE, "no {count} {what}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn signal(&self, rank: usize, signal: i32) {
        let pid = i32::try_from(self.ranks[rank].child.id()).expect("a process");
        // SAFETY: sends a signal to a child of ours that was not waited for, so the number is still its own.
        unsafe { libc::kill(pid, signal) };
    }

    pub fn kill_rank(&self, rank: usize) {
        self.signal(rank, libc::SIGKILL);
    }

    pub fn terminate(&self) {
        (0..self.ranks.len()).for_each(|rank| self.signal(rank, libc::SIGTERM));
    }

    pub fn kill(self) -> Trained {
        (0..self.ranks.len()).for_each(|rank| self.kill_rank(rank));
        self.end()
    }

    pub fn end(self) -> Trained {
        Trained { ranks: self.ranks.into_iter().map(Rank::end).collect(), out: self.out, _own: self._own }
    }
}

/// A training that has ended.
pub struct Trained {
    pub ranks: Vec<Ended>,
    out: PathBuf,
    _own: Option<tempfile::TempDir>,
}

impl Trained {
    /// All ranks ended well.
    pub fn done(self) -> Self {
        for ended in &self.ranks {
            assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
        }
        self
    }

    pub fn path(&self) -> &Path {
        &self.out
    }

    /// The loss of every step, which all ranks must have told alike.
    pub fn losses(&self) -> Vec<f64> {
        let of = |ended: &Ended| -> Vec<f64> {
            let loss = |event: &Event| match event {
                Event::Step { loss, .. } => Some(loss.expect("a finite loss")),
                _ => None,
            };
            ended.events.iter().filter_map(loss).collect()
        };
        let all: Vec<_> = self.ranks.iter().map(of).collect();
        assert!(all.iter().all(|losses| *losses == all[0]), "{all:?}");
        all[0].clone()
    }

    /// Images of every step over all ranks.
    pub fn images(&self) -> Vec<u64> {
        let of = |ended: &Ended| -> Vec<u64> {
            let images = |event: &Event| if let Event::Step { images, .. } = event { Some(*images) } else { None };
            ended.events.iter().filter_map(images).collect()
        };
        let all: Vec<_> = self.ranks.iter().map(of).collect();
        (0..all[0].len()).map(|step| all.iter().map(|images| images[step]).sum()).collect()
    }

    /// The hash of the weights after every epoch, which all ranks must have told alike.
    pub fn hashes(&self) -> Vec<String> {
        let of = |ended: &Ended| -> Vec<String> {
            let hash = |event: &Event| match event {
                Event::Checkpoint { weights_sha256, .. } => Some(weights_sha256.clone()),
                _ => None,
            };
            ended.events.iter().filter_map(hash).collect()
        };
        let all: Vec<_> = self.ranks.iter().map(of).collect();
        assert!(all.iter().all(|hashes| *hashes == all[0]), "{all:?}");
        all[0].clone()
    }

    /// The tensors of the last state.
    pub fn state(&self) -> BTreeMap<String, Tensor> {
        checkpoint::read(&self.out.join("weights/state.safetensors")).expect("a state").tensors
    }

    /// Their bits.
    pub fn state_bits(&self) -> BTreeMap<String, Vec<u32>> {
        let bits = |tensor: &Tensor| {
            let values = Vec::<f32>::try_from(tensor.flatten(0, -1)).expect("floats");
            values.into_iter().map(f32::to_bits).collect()
        };
        self.state().iter().map(|(name, tensor)| (name.clone(), bits(tensor))).collect()
    }

    /// What the state says beside its tensors.
    pub fn progress(&self) -> Value {
        let state = checkpoint::read(&self.out.join("weights/state.safetensors")).expect("a state");
        serde_json::from_str(&state.texts["progress"]).expect("an object")
    }
}

/// The length of the difference as a share of the length.
pub fn apart(a: &Tensor, b: &Tensor) -> f64 {
    let length = |tensor: &Tensor| tensor.to_kind(tch::Kind::Double).norm().double_value(&[]);
    length(&(a - b)) / length(a)
}

/// Adds files to the training split that are broken or unusual: their names, and whether something must be said about them.
pub fn hostile_files(place: &Place) -> Vec<(String, bool)> {
    let sound = RgbImage::from_pixel(40, 24, Rgb([200, 100, 50]));
    let bytes = |name: &str, bytes: &[u8]| fs::write(place.file("images", "train", name), bytes).expect("written");
    let encoded = |format: image::ImageFormat| {
        let mut bytes = std::io::Cursor::new(Vec::new());
        image::DynamicImage::from(sound.clone()).write_to(&mut bytes, format).expect("encoded");
        bytes.into_inner()
    };
    let (png, jpeg) = (encoded(image::ImageFormat::Png), encoded(image::ImageFormat::Jpeg));
    let mut said = Vec::new();
    let mut expect = |name: &str, is_said: bool| said.push((name.to_owned(), is_said));

    bytes("empty.png", b"");
    expect("empty.png", true);
    bytes("noise.jpg", &[7; 300]);
    expect("noise.jpg", true);
    bytes("cut.jpg", &jpeg[..jpeg.len() / 2]);
    expect("cut.jpg", true);
    bytes("cut.png", &png[..png.len() - 20]);
    expect("cut.png", true);
    // Whole at both ends, broken in the middle.
    let mut scrambled = png.clone();
    let middle = scrambled.len() / 2;
    scrambled[middle] ^= 0xff;
    bytes("scrambled.png", &scrambled);
    expect("scrambled.png", true);
    // A header that promises 60,000 x 60,000 pixels, with the checksum that goes with it.
    let mut huge = png.clone();
    huge[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
    let sum = crc32(&huge[12..29]);
    huge[29..33].copy_from_slice(&sum.to_be_bytes());
    bytes("huge.png", &huge);
    expect("huge.png", true);
    place.picture("train", "tiny.png", &RgbImage::new(4, 4));
    expect("tiny.png", true);

    let deep = image::ImageBuffer::from_pixel(30, 20, Rgb([60_000_u16, 1000, 30_000]));
    image::DynamicImage::ImageRgb16(deep).save(place.file("images", "train", "deep.png")).expect("written");
    expect("deep.png", false);
    image::DynamicImage::from(sound.clone())
        .into_luma8()
        .save(place.file("images", "train", "grey.png"))
        .expect("written");
    expect("grey.png", false);
    bytes("cmyk.jpg", include_bytes!("cmyk.jpg"));
    expect("cmyk.jpg", false);
    // EXIF data that say: turned by a quarter.
    let exif = b"\xff\xe1\x00\x22Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    bytes("turned.jpg", &[&jpeg[..2], exif, &jpeg[2..]].concat());
    expect("turned.jpg", false);

    for (stem, label, is_said) in [
        ("class", "7 0.5 0.5 0.1 0.1", true),
        ("outside", "0 1.5 0.5 0.1 0.1", true),
        ("nan", "0 nan 0.5 0.1 0.1", true),
        ("words", "a cat", true),
        ("twice", "0 0.5 0.5 0.2 0.2\n0 0.5 0.5 0.2 0.2", true),
        ("polygon", "1 0.1 0.1 0.5 0.1 0.5 0.5", false),
    ] {
        place.picture("train", &format!("label-{stem}.png"), &sound);
        place.label("train", &format!("label-{stem}"), label);
        expect(&format!("label-{stem}.txt"), is_said);
    }
    place.picture("train", "label-binary.png", &sound);
    place.label("train", "label-binary", b"0 0.5 \xff\xfe 0.1 0.1");
    expect("label-binary.txt", true);
    said
}

/// The checksum of a PNG's parts.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ if sum & 1 == 1 { 0xedb8_8320 } else { 0 })
    })
}
