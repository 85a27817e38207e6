//! Trial steps: that what they tell of memory is what a training takes.

use evenkeel_wire::Event;
use serde_json::{Value, json};

use crate::place::{Job, Place, SIDE, Trained};

/// Images, labels and bytes of every micro-batch that a rank tried, or of every batch of a validation.
fn tried(trained: &Trained, rank: usize, of_validation: bool) -> Vec<(u32, u32, Option<u64>)> {
    let tried = |event: &Event| match event {
        Event::Tried { validation, images, labels, peak_bytes, seconds, imgsz, .. } if *validation == of_validation => {
            assert!(*imgsz == SIDE && (peak_bytes.is_none() || *seconds > 0.0), "{event:?}");
            Some((*images, *labels, *peak_bytes))
        }
        _ => None,
    };
    trained.ranks[rank].events.iter().filter_map(tried).collect()
}

/// Mosaics in all epochs, however few there are.
fn mosaics() -> Value {
    json!({"close_mosaic": 0})
}

fn trial(job: &Job<'_>, trial: &Value, more: &[(&str, &str)]) -> Trained {
    job.begin(more, &|told| told["trial"] = trial.clone()).end()
}

#[test]
fn what_a_trial_needs_a_training_needs() {
    let place = Place::with_images(48);
    // With the average's validation, and objects that many mosaics gather.
    let job = |images: u32| Job { cut: vec![vec![images], vec![images]], epochs: 2, ..Job::new(&place, mosaics()) };
    let found = trial(&job(8), &json!({"sizes": [], "limits": [null, 68_000_000], "most": 8}), &[]).done();
    let (first, second) = (tried(&found, 0, false), tried(&found, 1, false));
    eprintln!("{first:?}\n{second:?}\n{:?}", tried(&found, 0, true));
    assert_eq!(first.iter().map(|tried| tried.0).collect::<Vec<_>>(), [1, 2, 4, 8]);
    // Each mosaic has one object of four images at most.
    assert!(first.iter().all(|tried| tried.1 == first[0].1 && (2..=4).contains(&tried.1)), "{first:?}");
    assert!(first.windows(2).all(|pair| pair[0].2 < pair[1].2), "{first:?}");
    // The other rank may not need as much, and goes on with what it has as long as its peer looks further.
    assert_eq!(second.len(), first.len());
    assert!(second.iter().all(|tried| tried.0 < 8 && tried.2.expect("fits") <= 68_000_000), "{second:?}");
    // Two for each of the micro-batch, if there were so many.
    assert_eq!(tried(&found, 0, true).iter().map(|tried| tried.0).collect::<Vec<_>>(), [4]);

    let trained = job(8).train(&[("EVENKEEL_MEMORY", "100000000000")]).done();
    let memory = |event: &Event| if let Event::Step { memory_bytes, .. } = event { *memory_bytes } else { None };
    let real = trained.ranks[0].events.iter().filter_map(memory).max().expect("a step") as f64;
    let trial = first.last().and_then(|tried| tried.2).expect("it fits") as f64;
    eprintln!("{trial} bytes in the trial, {real} in the training");
    assert!((real / trial - 1.0).abs() < 0.01, "{trial} bytes in the trial, {real} in the training");
}

#[test]
fn a_size_that_does_not_fit_is_told_and_nothing_is_left() {
    let place = Place::with_images(48);
    let job = Job { cut: vec![vec![8], vec![8]], out: "out".into(), ..Job::new(&place, json!({})) };
    let sizes = |first: u32, second: u32| json!({"sizes": [first, second], "limits": [], "most": 8});
    let needs = trial(&job, &sizes(8, 4), &[]).done();
    let needs = [0, 1].map(|rank| tried(&needs, rank, false)[0].2.expect("it fits"));
    let memory = ((needs[0] + needs[1]) / 2).to_string();
    let found = trial(&job, &sizes(8, 4), &[("EVENKEEL_MEMORY", &memory)]).done();
    assert_eq!(tried(&found, 0, false).iter().map(|tried| (tried.0, tried.2)).collect::<Vec<_>>(), [(8, None)]);
    assert!(tried(&found, 1, false).is_empty(), "its peer ended the trial");
    let left: Vec<_> =
        std::fs::read_dir(found.path()).expect("a folder").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["job.json"]);
    let fits = trial(&job, &sizes(4, 4), &[("EVENKEEL_MEMORY", &memory)]).done();
    assert!(tried(&fits, 0, false)[0].2.is_some_and(|bytes| bytes < needs[0]));
}

#[test]
fn a_search_goes_back_from_what_does_not_fit() {
    let place = Place::with_images(48);
    let job = Job { cut: vec![vec![8], vec![8]], epochs: 2, ..Job::new(&place, mosaics()) };
    let search = |memory: u64, args: &Value| {
        let job = Job { args: args.clone(), ..job.clone() };
        let found =
            trial(&job, &json!({"sizes": [], "limits": [], "most": 64}), &[("EVENKEEL_MEMORY", &memory.to_string())]);
        let images = |rank| -> Vec<(u32, bool)> {
            tried(&found, rank, false).iter().map(|tried| (tried.0, tried.2.is_some())).collect()
        };
        (images(0), images(1), found)
    };
    let free = trial(&job, &json!({"sizes": [8, 8], "limits": [], "most": 8}), &[]).done();
    let eight = tried(&free, 0, false)[0].2.expect("fits");
    let (first, second, found) = search(eight - 1, &mosaics());
    found.done();
    // Both run out at 8, and that is all that is to be known.
    assert_eq!(first, [(1, true), (2, true), (4, true), (8, false)]);
    assert_eq!(first, second);

    // Not even one image: nothing else is tried, not even a validation.
    let fixed = |event: &Event| if let Event::Fixed { start_bytes, .. } = event { Some(*start_bytes) } else { None };
    let start = free.ranks[0].events.iter().find_map(fixed).expect("told");
    let (first, _, found) = search(start + (1 << 20), &mosaics());
    let found = found.done();
    assert_eq!(first, [(1, false)]);
    assert!(tried(&found, 0, true).is_empty());

    // With gradients that are sent early the ranks may not know of each other's failure: the trial ends, and says where.
    let (first, _, found) = search(eight + 30_000_000, &json!({"overlap": true, "close_mosaic": 0}));
    let said = |rank: usize| format!("{}{}", found.ranks[rank].stdout, found.ranks[rank].stderr);
    assert!(first.iter().any(|tried| !tried.1) && first[0] == (1, true), "{first:?}: {}{}", said(0), said(1));
    assert!(found.ranks.iter().any(|rank| rank.code == Some(0) || rank.code == Some(1)));
}

#[test]
fn many_labels_are_tried_and_few() {
    let place = Place::with_images(16);
    let line = |number: u32| format!("1 0.{:02} 0.5 0.1 0.3\n", 10 + number);
    for number in 0..16 {
        let lines: String = (0..60).map(line).collect();
        place.label("train", &format!("{number:04}"), lines);
    }
    let job = Job { cut: vec![vec![4]], epochs: 2, ..Job::new(&place, mosaics()) };
    let found = trial(&job, &json!({"sizes": [], "limits": [null], "most": 4}), &[]).done();
    let tried = tried(&found, 0, false);
    let (many, few) = (tried[tried.len() - 2], tried[tried.len() - 1]);
    eprintln!("{tried:?}");
    assert!(many.0 == few.0 && many.1 > 60 && few.1 == 1 && many.2 > few.2, "{tried:?}");
    // The heaviest mosaic of a training is the one that was tried.
    let trained = job.train(&[("EVENKEEL_MEMORY", "100000000000")]).done();
    let memory = |event: &Event| if let Event::Step { memory_bytes, .. } = event { *memory_bytes } else { None };
    let real = trained.ranks[0].events.iter().filter_map(memory).max().expect("a step") as f64;
    let ratio = real / many.2.expect("fits") as f64;
    assert!((0.97..=1.001).contains(&ratio), "the training needed {ratio} of what the trial did");
}

#[test]
fn a_trial_that_is_asked_to_end_ends() {
    let place = Place::with_images(48);
    let job = Job { cut: vec![vec![8], vec![8]], ..Job::new(&place, json!({})) };
    let running = job.begin(&[], &|told| told["trial"] = json!({"sizes": [], "limits": [], "most": 100_000}));
    running.until(1, "size that was tried", |event| matches!(event, Event::Tried { .. }));
    running.terminate();
    let ended = running.end();
    assert!(
        ended.ranks.iter().all(|rank| rank.code == Some(143)),
        "{:?}",
        ended.ranks.iter().map(|rank| rank.code).collect::<Vec<_>>()
    );
}
