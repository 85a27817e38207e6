//! The settings of a trainer under `args`: which there are, what they may be, and which of them have a place of their
//! own in a job.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};
use serde_yaml::Value;

use super::cursor::Cursor;
use super::error::{JobError, listed, nearest, printable};
use super::types::Trainer;

/// What a setting may be.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// True or false.
    Flag,
    /// A number between two bounds.
    Number(f64, f64),
    /// A whole number between two bounds.
    Whole(i64, i64),
    /// One of these words.
    Word(&'static [&'static str]),
    /// True, false, or one of these words.
    FlagOr(&'static [&'static str]),
    /// True, false, or a number between two bounds.
    FlagOrNumber(f64, f64),
    /// A whole number or a list of them.
    Wholes,
    /// A whole number of steps from 1, or minutes such as `10m`.
    StepsOrMinutes,
}

const PORTION: Kind = Kind::Number(0.0, 1.0);
const GAIN: Kind = Kind::Number(0.0, 1e6);

/// The public settings of the `ultralytics` trainer that concern training.
const ULTRALYTICS: &[(&str, Kind)] = &[
    ("amp", Kind::Flag),
    ("angle", GAIN),
    ("augment", Kind::Flag),
    ("auto_augment", Kind::Word(&["randaugment", "autoaugment", "augmix"])),
    ("bgr", PORTION),
    ("box", GAIN),
    // Not `disk`: that writes beside the images, and data is mounted read-only.
    ("cache", Kind::FlagOr(&["ram"])),
    ("channels_last", Kind::Flag),
    ("classes", Kind::Wholes),
    ("close_mosaic", Kind::Whole(0, 1_000_000)),
    ("cls", GAIN),
    ("cls_pw", PORTION),
    ("conf", PORTION),
    ("copy_paste", PORTION),
    ("copy_paste_mode", Kind::Word(&["flip", "mixup"])),
    ("cos_lr", Kind::Flag),
    ("cutmix", PORTION),
    ("degrees", Kind::Number(0.0, 360.0)),
    ("deterministic", Kind::Flag),
    ("dfl", GAIN),
    ("dropout", PORTION),
    ("end2end", Kind::Flag),
    ("erasing", PORTION),
    ("fliplr", PORTION),
    ("flipud", PORTION),
    ("fraction", PORTION),
    ("freeze", Kind::Wholes),
    ("hsv_h", PORTION),
    ("hsv_s", PORTION),
    ("hsv_v", PORTION),
    ("iou", PORTION),
    ("kobj", GAIN),
    ("lr0", PORTION),
    ("lrf", PORTION),
    ("mask_ratio", Kind::Whole(1, 64)),
    ("max_det", Kind::Whole(1, 1_000_000)),
    ("mixup", PORTION),
    ("momentum", PORTION),
    ("mosaic", PORTION),
    ("multi_scale", Kind::FlagOrNumber(0.0, 1.0)),
    ("optimizer", Kind::Word(&["auto", "SGD", "MuSGD", "Adam", "Adamax", "AdamW", "NAdam", "RAdam", "RMSProp"])),
    ("overlap_mask", Kind::Flag),
    ("patience", Kind::Whole(0, 1_000_000)),
    ("perspective", Kind::Number(0.0, 1.0)),
    ("plots", Kind::Flag),
    ("pose", GAIN),
    ("pretrained", Kind::Flag),
    ("profile", Kind::Flag),
    ("rle", GAIN),
    ("save", Kind::Flag),
    ("save_json", Kind::Flag),
    ("save_period", Kind::Whole(-1, 1_000_000)),
    ("scale", Kind::Number(0.0, 100.0)),
    ("shear", Kind::Number(-360.0, 360.0)),
    ("single_cls", Kind::Flag),
    ("translate", PORTION),
    ("val", Kind::Flag),
    ("verbose", Kind::Flag),
    ("warmup_bias_lr", PORTION),
    ("warmup_epochs", Kind::Number(0.0, 1e6)),
    ("warmup_momentum", PORTION),
    ("weight_decay", PORTION),
    ("workers", Kind::Whole(0, 1024)),
];

// As in crates/yolo/src/settings.rs, line by line.
/// The settings of the `native` trainer.
#[rustfmt::skip]
const NATIVE: &[(&str, Kind)] = &[
    ("amp", Kind::Flag),
    ("box", GAIN),
    ("channels_last", Kind::Flag),
    ("clip", GAIN),
    ("close_mosaic", Kind::Whole(0, 1_000_000)),
    ("cls", GAIN),
    ("conf", PORTION),
    ("cos_lr", Kind::Flag),
    ("degrees", Kind::Number(0.0, 360.0)),
    ("dfl", GAIN),
    ("fliplr", PORTION),
    ("flipud", PORTION),
    ("hsv_h", PORTION),
    ("hsv_s", PORTION),
    ("hsv_v", PORTION),
    ("iou", PORTION),
    ("lr0", PORTION),
    ("lrf", PORTION),
    ("max_det", Kind::Whole(1, 1_000_000)),
    ("momentum", PORTION),
    ("mosaic", PORTION),
    ("normalizer", Kind::Word(&["step", "micro"])),
    ("optimizer", Kind::Word(&["auto", "SGD", "AdamW"])),
    ("overlap", Kind::Flag),
    ("patience", Kind::Whole(0, 1_000_000)),
    ("plots", Kind::Flag),
    ("reduce", Kind::Word(&["fast", "exact"])),
    ("save_every", Kind::StepsOrMinutes),
    ("scale", PORTION),
    ("shear", Kind::Number(-360.0, 360.0)),
    ("single_cls", Kind::Flag),
    ("translate", PORTION),
    ("val", Kind::Flag),
    ("warmup_bias_lr", PORTION),
    ("warmup_epochs", Kind::Number(0.0, 1e6)),
    ("warmup_momentum", PORTION),
    ("weight_decay", PORTION),
    ("workers", Kind::Whole(0, 1024)),
];

/// The settings of a trainer; none of a program of the user's own.
fn table(trainer: Trainer) -> &'static [(&'static str, Kind)] {
    match trainer {
        Trainer::Native => NATIVE,
        Trainer::Ultralytics => ULTRALYTICS,
        Trainer::Command => &[],
    }
}

/// Keys that people bring along from yolo, from compose or from other launchers, and what a job has instead.
const HABITS: &[(&str, &str)] = &[
    (
        "accumulate",
        "it follows from the batch: each rank runs `batch.target` / (ranks x `batch.micro`) micro-batches a step",
    ),
    ("autobatch", "write `batch: {micro: auto}`"),
    ("batch_size", "write `batch: 64`: the images of one optimizer step, over all ranks"),
    ("cfg", "the model is `model: yolov8n.yaml`, and the settings of the trainer stand under `args:`"),
    ("cmd", "write `command: [python, train.py]`"),
    ("compile", "the image has no compiler, which `compile` needs"),
    ("container_name", "containers are named after the run; the job has a `name:`"),
    ("deploy", "devices are chosen with `device:` or `gpus:`"),
    ("env", "write `environment: {NAME: value}`"),
    ("env_file", "write the variables under `environment:`; a name without a value takes the caller's"),
    ("exist_ok", "every run has a folder of its own under `runs:`; nothing is overwritten"),
    ("hyp", "the settings of the trainer stand under `args:`"),
    ("img", "write `imgsz: 640`"),
    ("img_size", "write `imgsz: 640`"),
    ("ipc", "the ranks of a host share one IPC namespace; its size is `shm_size:`"),
    ("master_addr", "evenkeel sets it for every rank"),
    ("master_port", "evenkeel sets it for every rank"),
    ("mem_limit", "a CPU device has a cap: `device: [{cpu: 1.0, memory: 2GiB}]`"),
    ("mode", "a job trains"),
    ("nbs", "it is `batch.target`: the images of one optimizer step, over all ranks"),
    ("network_mode", "write `network: none`, `bridge` or `host`"),
    ("nproc", "write `nproc_per_node:`"),
    ("project", "records go to the folder `runs:`, below the job's `name:`"),
    ("rect", "images are shuffled over all ranks, so no micro-batch has images of one shape alone"),
    ("resume", "continue a run with `evenkeel resume RUN`"),
    ("runtime", "GPUs are chosen with `device:` or `gpus:`"),
    ("save_dir", "records go to the folder `runs:`, below the job's `name:`"),
    ("services", "this looks like a compose file; a job has the keys of one service at the top level"),
    ("split", "a training validates on the set's `val`"),
    ("task", "a job trains a detector; the model decides"),
    ("time", "the length of a training is `epochs:`"),
    ("weights", "write `model: yolov8n.pt`"),
    ("workdir", "write `working_dir: /path/in/the/container`"),
    ("world_size", "it is the number of devices: `device:` or `gpus:`"),
];

/// Keys of a job that yolo has among its settings, and where they stand in a job.
const OWN: &[(&str, &str)] = &[
    ("batch", "`batch`"),
    ("data", "`data`"),
    ("device", "`device`"),
    ("epochs", "`epochs`"),
    ("imgsz", "`imgsz`"),
    ("model", "`model`"),
    ("name", "`name`"),
    ("seed", "`seed`"),
];

/// What to do instead with a key that a job does not have, but other programs do. `value` is what it was given.
pub(super) fn habit(key: &str, value: &Value) -> Option<(String, String)> {
    let plain = key.to_lowercase().replace('-', "_");
    if let Some((_, instead)) = HABITS.iter().find(|(name, _)| *name == plain) {
        return Some((format!("unknown key `{}`", printable(key)), (*instead).to_owned()));
    }
    let (name, _) = ULTRALYTICS.iter().chain(NATIVE).find(|(name, _)| *name == plain)?;
    let value = super::cursor::scalar(value).map_or("...".to_owned(), |value| printable(&value));
    let message = format!("`{name}` is a setting of the trainer, its place is under `args`");
    Some((message, format!("write `args: {{{name}: {value}}}`, or `args.{name}={value}` on the command line")))
}

/// The table as a JSON Schema, for editors. A setting without a value has its default.
pub(super) fn schema() -> Json {
    let one = |kind: Kind| match kind {
        Kind::Flag => json!({ "type": ["boolean", "null"] }),
        Kind::Number(least, most) => json!({ "type": ["number", "null"], "minimum": least, "maximum": most }),
        Kind::Whole(least, most) => json!({ "type": ["integer", "null"], "minimum": least, "maximum": most }),
        Kind::Word(words) => {
            json!({ "enum": words.iter().map(|word| json!(word)).chain([json!(null)]).collect::<Vec<_>>() })
        }
        Kind::FlagOr(words) => {
            let all = [json!(true), json!(false), json!(null)].into_iter().chain(words.iter().map(|word| json!(word)));
            json!({ "enum": all.collect::<Vec<_>>() })
        }
        Kind::FlagOrNumber(least, most) => {
            json!({ "type": ["boolean", "number", "null"], "minimum": least, "maximum": most })
        }
        Kind::Wholes => {
            let whole = json!({ "type": ["integer", "null"], "minimum": 0, "maximum": 1_000_000 });
            json!({ "anyOf": [whole, { "type": "array", "items": whole }] })
        }
        Kind::StepsOrMinutes => {
            let steps = json!({ "type": ["integer", "null"], "minimum": 1 });
            json!({ "anyOf": [steps, { "type": "string", "pattern": "^[1-9][0-9]*m$" }] })
        }
    };
    // What either trainer takes: which of them the job has is beyond a schema that people can read.
    let mut properties = serde_json::Map::new();
    for (name, kind) in ULTRALYTICS.iter().chain(NATIVE) {
        let described = one(*kind);
        match properties.get_mut(*name) {
            None => drop(properties.insert((*name).to_owned(), described)),
            Some(known) if *known == described => {}
            Some(known) => *known = json!({ "anyOf": [known.take(), described] }),
        }
    }
    json!({ "type": ["object", "null"], "properties": properties, "additionalProperties": false })
}

/// The settings under `args`, checked against what the trainer knows.
pub(super) fn read(at: &Cursor<'_>, trainer: Trainer) -> Result<BTreeMap<String, Json>, JobError> {
    let mut settings = BTreeMap::new();
    for (key, setting) in at.entries("settings of the trainer, such as `{lr0: 0.01}`")? {
        if trainer == Trainer::Command {
            let mut invalid =
                setting.document.wrong_key(&setting.path, "`args` is for trainers whose settings are known");
            invalid.hint = Some("give a program its settings on its `command` line or in its `environment`".into());
            return Err(invalid.into());
        }
        let Some((_, kind)) = table(trainer).iter().find(|(name, _)| *name == key) else {
            return Err(unknown(&setting, key, trainer));
        };
        if setting.value.is_null() {
            continue;
        }
        settings.insert(key.to_owned(), check(&setting, *kind)?);
    }
    if settings.get("overlap") == Some(&Json::Bool(true)) && settings.get("reduce") == Some(&Json::from("exact")) {
        let message = "`overlap` sends gradients before they are whole, `reduce: exact` adds whole ones";
        let mut invalid = at.document.wrong_key(&at.path, message);
        invalid.hint = Some("choose one of the two".into());
        return Err(invalid.into());
    }
    Ok(settings)
}

fn unknown(setting: &Cursor<'_>, key: &str, trainer: Trainer) -> JobError {
    let refuse = |message: String| setting.document.wrong_key(&setting.path, message);
    let shown = printable(key);
    if key == "<<" {
        return refuse("merge key `<<` in `args` is not supported; write the keys out".into()).into();
    }
    if let Some((_, place)) = OWN.iter().find(|(name, _)| *name == key) {
        return refuse(format!("`{key}` has a place of its own at the top level of a job: {place}")).into();
    }
    if let Some((_, instead)) = HABITS.iter().find(|(name, _)| *name == key) {
        let mut invalid = refuse(format!("`{shown}` is not for `args`"));
        invalid.hint = Some((*instead).to_owned());
        return invalid.into();
    }
    let message = format!("trainer `{}` has no setting `{shown}`", trainer.name());
    if trainer == Trainer::Native && ULTRALYTICS.iter().any(|(name, _)| *name == key) {
        let mut invalid = refuse(message);
        invalid.hint = Some("`trainer: ultralytics` has it".into());
        return invalid.into();
    }
    match nearest(key, table(trainer).iter().map(|(name, _)| *name)) {
        Some(near) => refuse(format!("{message}; did you mean `{near}`?")).into(),
        None => refuse(message).into(),
    }
}

fn check(at: &Cursor<'_>, kind: Kind) -> Result<Json, JobError> {
    let value = at.value;
    let within = |least: f64, most: f64| value.as_f64().filter(|number| (least..=most).contains(number));
    let word = |words: &[&str]| value.as_str().filter(|word| words.contains(word));
    let (fits, expected) = match kind {
        Kind::Flag => (value.is_bool(), "`true` or `false`".to_owned()),
        Kind::Number(least, most) => (within(least, most).is_some(), format!("a number from {least} to {most}")),
        Kind::Whole(least, most) => (
            value.as_i64().is_some_and(|number| (least..=most).contains(&number)),
            format!("a whole number from {least} to {most}"),
        ),
        Kind::Word(words) => (
            word(words).is_some(),
            match value.as_str().and_then(|text| nearest(text, words.iter().copied())) {
                Some(near) => format!("one of {}; did you mean `{near}`?", listed(words.iter().copied())),
                None => format!("one of {}", listed(words.iter().copied())),
            },
        ),
        Kind::FlagOr(words) => (
            value.is_bool() || word(words).is_some(),
            format!("`true`, `false`, {}", listed(words.iter().copied()).replace(" and ", " or ")),
        ),
        Kind::FlagOrNumber(least, most) => (
            value.is_bool() || within(least, most).is_some(),
            format!("`true`, `false` or a number from {least} to {most}"),
        ),
        Kind::Wholes => {
            let whole = |value: &Value| value.as_u64().is_some_and(|number| number <= 1_000_000);
            let fits = whole(value) || value.as_sequence().is_some_and(|list| list.iter().all(whole));
            (fits, "a whole number or a list of them".to_owned())
        }
        Kind::StepsOrMinutes => {
            let minutes = value.as_str().and_then(|text| text.strip_suffix('m')).and_then(|text| text.parse().ok());
            let fits = value.as_u64().or(minutes).is_some_and(|count: u64| count > 0);
            (fits, "a whole number of steps, or minutes such as `10m`".to_owned())
        }
    };
    if !fits {
        return Err(at.wrong(expected).into());
    }
    serde_json::to_value(value).map_err(|_| at.wrong("a plain value").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the trainer in the image refuses must be refused here, before an image is built.
    #[test]
    fn nothing_is_taken_that_the_image_refuses() {
        let module = include_str!("../../images/ultralytics/evenkeel_ultralytics/job.py");
        let owned = module.split_once("OWNED = frozenset(\n    \"").and_then(|(_, rest)| rest.split_once('"'));
        let owned: Vec<&str> = owned.expect("the module's list").0.split_whitespace().collect();
        assert!(owned.contains(&"batch") && owned.contains(&"time"), "{owned:?}");
        for name in owned {
            assert!(!ULTRALYTICS.iter().any(|(known, _)| *known == name), "`args.{name}`");
        }
    }

    /// What our own trainer refuses must be refused here, too.
    #[test]
    fn the_native_trainers_settings_are_those_of_its_crate() {
        let lines = |text: &'static str, start: &str| -> Vec<&str> {
            let (_, table) = text.split_once(start).expect("a table");
            let (table, _) = table.split_once("];").expect("its end");
            table.lines().map(str::trim).filter(|line| !line.is_empty()).collect()
        };
        let theirs = lines(include_str!("../../crates/yolo/src/settings.rs"), "pub const TABLE: &[(&str, Kind)] = &[");
        assert_eq!(theirs, lines(include_str!("settings.rs"), "const NATIVE: &[(&str, Kind)] = &["));
        assert_eq!(theirs.len(), NATIVE.len());
    }

    #[test]
    fn the_table_is_sorted_and_no_name_has_two_places() {
        assert!([ULTRALYTICS, NATIVE].iter().all(|table| table.windows(2).all(|pair| pair[0].0 < pair[1].0)));
        for (name, _) in HABITS.iter().chain(OWN) {
            assert!(!ULTRALYTICS.iter().any(|(other, _)| other == name), "{name}");
        }
    }
}
