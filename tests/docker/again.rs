//! Runs that are started again with smaller micro-batches, by a program that says what a trainer says which runs out of memory.

use serde_json::{Value, json};

use crate::needs_engine;
use crate::support::{Place, Running, entries, job, nothing_left, until};

/// A program that needs memory for micro-batches of at most `fits` images on rank 1; it is told of its batch in both ways.
fn hungry(place: &Place, fits: u32, more: &str) {
    let script = format!(
        "echo {{micro_batch}} of {{target_batch}}, $EVENKEEL_ACCUMULATE times, on $RANK\n\
         [ $RANK = 0 ] && exec sleep 600\n\
         if [ $EVENKEEL_MICRO_BATCH -gt {fits} ]; then\n\
         echo 'torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB' >&2\n\
         exit 1\nfi\n"
    );
    job(place, &script, &format!("batch: 32\n{more}"));
}

/// Micro-batches of every attempt, by rank.
fn attempts(journal: &[Value]) -> Vec<Value> {
    let ranks = |attempt: &&Value| attempt["detail"]["ranks"].as_array().expect("ranks").clone();
    let cut = |ranks: Vec<Value>| ranks.iter().map(|rank| rank["micro_batches"].clone()).collect();
    entries(journal, "attempt").iter().map(ranks).map(cut).collect()
}

#[test]
fn a_program_that_runs_out_of_memory_gets_smaller_batches_until_it_fits() {
    needs_engine!();
    let place = Place::new();
    hungry(&place, 4, "");
    // Rank 0 of the last generation ends with rank 1.
    let script = std::fs::read_to_string(place.path().join("job.yaml")).expect("written");
    place.write(
        "job.yaml",
        &script.replace("&& exec sleep 600", "&& [ $EVENKEEL_MICRO_BATCH -gt 4 ] && exec sleep 600"),
    );
    let ended = place.run(&["train", "job.yaml"]).with_code(0);
    let ended = ended
        .saying("rank 1 ran out of memory with micro-batches of 16; starting again with 8, 32 images a step as before")
        .saying("with micro-batches of 8; starting again with 4, 32 images a step");
    // Rank 0 may be gone before it says a word of an attempt that fails.
    for line in ["[1] 16 of 32, 1 times, on 1", "[1] 8 of 32, 2 times, on 1", "[0] 4 of 32, 4 times, on 0"] {
        assert!(ended.stdout.contains(line), "no `{line}`:\n{}", ended.stdout);
    }
    let journal = place.journal();
    assert_eq!(attempts(&journal), [json!([[16], [16]]), json!([[8, 8], [8, 8]]), json!([[4, 4, 4, 4], [4, 4, 4, 4]])]);
    let logs = entries(&journal, "logs");
    assert_eq!(logs.len(), 3);
    for (generation, log) in (1..).zip(&logs) {
        assert_eq!(log["detail"]["generation"], generation);
        for rank in 0..2 {
            assert_eq!(log["detail"]["ranks"][rank]["whole"], true, "{log}");
        }
    }
    let plan: Value = serde_json::from_str(&place.recorded("plan.json")).expect("a plan");
    assert_eq!(plan["ranks"][1]["micro_batches"], json!([4, 4, 4, 4]));
    assert_eq!(entries(&journal, "end")[0]["detail"]["generations"], 3);
    nothing_left(&place);
}

#[test]
fn what_never_fits_ends_after_as_many_attempts_as_there_are_halves() {
    needs_engine!();
    let place = Place::new();
    hungry(&place, 0, "");
    place
        .run(&["train", "job.yaml"])
        .with_code(4)
        .saying("a single image does not fit")
        .saying("(out_of_memory.device)");
    assert_eq!(attempts(&place.journal()).len(), 5, "16, 8, 4, 2, 1");
    nothing_left(&place);
}

#[test]
fn whoever_wants_no_smaller_batch_or_no_new_start_gets_none() {
    needs_engine!();
    let place = Place::new();
    hungry(&place, 4, "max_restarts: 1\n");
    place.run(&["train", "job.yaml"]).with_code(4).saying("all that `max_restarts` allows");
    assert_eq!(attempts(&place.journal()).len(), 2);
    place
        .run(&["train", "job.yaml", "batch.micro=16"])
        .with_code(4)
        .saying("are what the job asks for; with `batch.on_oom: step_down` smaller ones are tried");
    nothing_left(&place);
}

#[test]
fn an_earlier_attempts_words_say_nothing_of_a_later_end() {
    needs_engine!();
    let place = Place::new();
    let script =
        "[ $RANK = 0 ] && exec sleep 600\n[ $EVENKEEL_MICRO_BATCH = 16 ] && echo CUDA out of memory && exit 1\nexit 3";
    job(&place, script, "batch: 32\n");
    place.run(&["train", "job.yaml"]).with_code(1).saying("exit code 3 (code)");
    assert_eq!(attempts(&place.journal()).len(), 2);
    nothing_left(&place);
}

#[test]
fn a_peer_that_had_to_be_killed_stands_in_no_way() {
    needs_engine!();
    let place = Place::new();
    // Rank 0's agent is stopped, as one would seem whose trainer hangs in a driver: the engine has to end it, and its log has no seal.
    let script = "[ $EVENKEEL_MICRO_BATCH -le 8 ] && exit 0\n[ $RANK = 0 ] && kill -STOP $PPID && exec sleep 600\n\
                  sleep 0.5; echo CUDA out of memory; exit 1";
    job(&place, script, "batch: 32\n");
    let ended = place.run(&["train", "job.yaml"]).with_code(0);
    ended.saying("starting again with 8").saying("rank 0: its log has no seal");
    assert_eq!(attempts(&place.journal()).len(), 2);
    nothing_left(&place);
}

#[test]
fn an_interrupt_ends_a_later_attempt_as_any() {
    needs_engine!();
    let place = Place::new();
    hungry(&place, 8, "volumes: [.:/place]\n");
    let script = std::fs::read_to_string(place.path().join("job.yaml")).expect("written");
    place.write("job.yaml", &script.replace("fi\\n", "fi\\ntouch /place/up; exec sleep 600\\n"));
    let run = Running::start(place.evenkeel(&["train", "job.yaml"]));
    until("the second attempt", || place.path().join("up").exists().then_some(()));
    run.signal("INT");
    run.end().with_code(130).saying("stopped after");
    assert_eq!(attempts(&place.journal()).len(), 2);
    nothing_left(&place);
}
