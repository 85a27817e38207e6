//! `evenkeel report`: a record as one file.

use serde_json::json;

use crate::record::{BEGUN, Made};
use crate::support::Place;

fn made(place: &Place) -> Made {
    let mut run = Made::new(&place.path().join("runs"), "shapes", "20261124-034501");
    run.append("results.csv", b"epoch,train/box_loss,metrics/mAP50(B)\n1,2.5,0.1\n2,1.5,0.4\n");
    for rank in 0..2 {
        for step in 0..3 {
            let event = json!({
                "kind": "step", "epoch": 0, "epochs": 2, "step": step, "steps_per_epoch": 3, "images": 8, "loss": 2.0, "terms": {},
                "lr": 0.01, "memory_bytes": 1_000_000, "time_ms": 250.0,
            });
            let record =
                json!({ "v": 1, "generation": 1, "rank": rank, "seq": step, "time_ms": BEGUN, "event": event });
            run.append(&format!("events/rank-{rank}.events.jsonl"), format!("{record}\n").as_bytes());
        }
    }
    run.append("output/val_pred.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>");
    run.done();
    run
}

#[test]
fn a_record_becomes_one_file() {
    let place = Place::new();
    let run = made(&place);
    let path = place.run(&["report"]).with_code(0).stdout;
    assert!(path.trim().ends_with("runs/shapes/20261124-034501/report.html"), "{path}");
    let html = std::fs::read_to_string(run.path().join("report.html")).expect("written");
    for words in ["shapes/20261124-034501", "Loss by epoch", "Images a second", "data:image/svg+xml;base64,"] {
        assert!(html.contains(words), "no `{words}` in {html}");
    }
    // Both ranks together: 2 x 8 images in a quarter of a second.
    assert!(html.contains("images a second 64"), "{html}");
    assert_eq!(place.run(&["report", "shapes", "-o", "-"]).with_code(0).stdout.trim_end(), html.trim_end());
    place.run(&["report", "20261124", "-o", "mine.html"]).with_code(0);
    assert_eq!(std::fs::read_to_string(place.path().join("mine.html")).expect("written"), html);
}

#[test]
fn what_cannot_be_written_or_is_not_there_is_named() {
    let place = Place::new();
    place.run(&["report"]).with_code(2).saying("runs");
    made(&place);
    place.run(&["report", "other"]).with_code(2).saying("no run is called `other`");
    place
        .run(&["report", "-o", "none/report.html"])
        .with_code(3)
        .saying("failed to write the report `none/report.html`")
        .saying("`-o FILE` writes it elsewhere");
}
