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

fn trial(job: &Job<'_>, trial: &Value, more: &[(&str, &str)]) -> Trained {
    job.begin(more, &|told| told["trial"] = trial.clone()).end()
}

#[test]
fn what_a_trial_needs_a_training_needs() {
    let place = Place::with_images(48);
    // With the average's validation, and objects that many mosaics gather.
    let job = |images: u32| Job { cut: vec![vec![images], vec![images]], epochs: 2, ..Job::new(&place, json!({})) };
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
    assert_eq!(tried(&found, 0, true).iter().map(|tried| tried.0).collect::<Vec<_>>(), [16]);

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
