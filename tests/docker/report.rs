//! The report that a training leaves at its end.

use serde_json::json;

use crate::needs_engine;
use crate::support::{Place, Running, entries, job, nothing_left, until};

fn page(place: &Place) -> String {
    std::fs::read_to_string(place.record().join("report.html")).expect("a report")
}

#[test]
fn a_training_leaves_its_report_whichever_way_it_ends() {
    needs_engine!();
    let place = Place::new();
    let metrics =
        json!({ "kind": "metrics", "epoch": 0, "values": { "metrics/mAP50(B)": 0.875, "train/box_loss": 1.5 } });
    let script = format!(
        "[ $RANK = 1 ] && exit; printf 'epoch,metrics/mAP50(B)\\n1,0.875\\n2,0.9\\n' > /evenkeel/output/results.csv; \
         printf '\\xff\\xd8\\xffx' > /evenkeel/output/val_batch0_pred.jpg; echo '{metrics}' >&$EVENKEEL_EVENTS_FD"
    );
    job(&place, &script, "");
    let ended = place.run(&["train", "job.yaml"]).with_code(0);
    assert!(!ended.stderr.contains("warning"), "{}", ended.stderr);
    let done = page(&place);
    for words in [">done</span>", "0.900", "data:image/jpeg;base64,/9j/eA==", "cpu:1", "sha256:"] {
        assert!(done.contains(words), "no `{words}` in\n{done}");
    }
    nothing_left(&place);

    let place = Place::new();
    job(&place, "[ $RANK = 0 ] && exec sleep 600; echo the reason >&2; exit 7", "");
    place.run(&["train", "job.yaml"]).with_code(1);
    let failed = page(&place);
    assert!(failed.contains("Rank 1 failed first.") && failed.contains("What to do:"), "{failed}");
    nothing_left(&place);

    let place = Place::new();
    job(&place, "echo up; exec sleep 600", "");
    let running = Running::start(place.evenkeel(&["train", "job.yaml"]));
    until("the trainers' start", || entries(&place.journal_so_far(), "go").first().map(|_| ()));
    running.signal("TERM");
    running.end().with_code(143);
    assert!(page(&place).contains(">stopped</span>"));
    nothing_left(&place);
}

#[test]
fn a_report_that_cannot_be_written_is_a_warning() {
    needs_engine!();
    let place = Place::new();
    // What a program may leave in the place of what is read.
    let script = "[ $RANK = 1 ] && exit; cd /evenkeel/output; mkfifo results.csv val_batch0_pred.jpg; ln -s /dev/zero val_batch1_pred.jpg; \
                  echo waiting; while [ ! -e enough ]; do sleep 0.1; done";
    job(&place, script, "");
    let running = Running::start(place.evenkeel(&["train", "job.yaml"]));
    until("the trainers' start", || entries(&place.journal_so_far(), "go").first().map(|_| ()));
    let record = until("the record", || std::fs::canonicalize(place.path().join("runs/job/latest")).ok());
    std::fs::create_dir(record.join("report.html")).expect("a folder in its place");
    std::fs::write(record.join("output/enough"), "").expect("written");
    let ended = running.end().with_code(0);
    let ended = ended.saying("warning: there is no report.html").saying("evenkeel report");
    assert!(ended.stderr.contains("done in"), "{}", ended.stderr);
    std::fs::remove_dir(record.join("report.html")).expect("empty");
    place.run(&["report", "job"]).with_code(0);
    assert!(page(&place).contains("left no pictures"));
    nothing_left(&place);
}
