//! Gangs that take no step any more, though every rank lives.

use crate::needs_engine;
use crate::support::{Place, entries, job, nothing_left};

/// Two ranks that take a few steps; rank 1 stands still after the third, in the launches that `when` chooses.
fn standing_still(place: &Place, when: &str, more: &str) {
    let step = serde_json::json!({
        "kind": "step", "epoch": 0, "epochs": 1, "step": "STEP", "steps_per_epoch": 100, "images": 16, "loss": 1.5, "terms": {},
        "lr": 0.01, "memory_bytes": null, "time_ms": 20.0,
    });
    let step = step.to_string().replace("\"STEP\"", "'$step'");
    let script = format!(
        "for step in 0 1 2 3 4; do\n\
         [ $RANK$step = 13 ] && {when} && exec sleep 600\n\
         [ $RANK$step = 04 ] && {when} && exec sleep 600\n\
         echo '{step}' >&$EVENKEEL_EVENTS_FD; sleep 0.02\n\
         done"
    );
    job(place, &script, more);
}

#[test]
fn a_gang_that_stands_still_is_started_again_as_often_as_the_job_allows() {
    needs_engine!();
    // It takes a minute until nobody would expect a step any more: both wait for it at once.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let place = Place::new();
            standing_still(&place, "[ $EVENKEEL_GENERATION = 1 ]", "");
            let ended = place.run(&["train", "job.yaml"]).with_code(0);
            ended
                .saying("rank 1 stood still (no step for 60 s: its last was step 3, others step 4")
                .saying("starting again");
            let journal = place.journal();
            let stalled = entries(&journal, "stalled");
            assert_eq!(stalled.len(), 1, "{stalled:?}");
            assert_eq!(stalled[0]["detail"]["rank"], 1);
            assert_eq!(entries(&journal, "generation").len(), 2);
            assert_eq!(entries(&journal, "end")[0]["detail"]["state"], "done");
            nothing_left(&place);
        });
        scope.spawn(|| {
            let place = Place::new();
            standing_still(&place, "true", "max_restarts: 0\n");
            let ended = place.run(&["train", "job.yaml"]).with_code(1);
            ended.saying("rank 1").saying("no step for 60 s").saying("`max_restarts`");
            let journal = place.journal();
            assert_eq!(entries(&journal, "end")[0]["detail"]["failure"]["class"], "stalled");
            nothing_left(&place);
        });
    });
}
