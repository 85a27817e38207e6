//! The trainer's events, sound and broken, become numbered records.

use evenkeel_wire::{Event, FailureClass};

use crate::support::{Run, done};

#[test]
fn events_are_wrapped_in_order() {
    let run = Run::new();
    let outcome = run.shell(
        r#"printf '{"kind":"joined","world_size":2,"backend":"gloo","device":"cpu"}\n{"kind":"note","mess' >&$EVENKEEL_EVENTS_FD
        sleep 0.02
        printf 'age":"half and half"}\n\n' >&$EVENKEEL_EVENTS_FD
        echo a line
        printf '{"kind":"failure","class":"out_of_memory.device","message":"no end of line"}' >&$EVENKEEL_EVENTS_FD"#,
    );
    assert_eq!(outcome.seal(), done(1));
    assert_eq!(
        outcome.events[2..6],
        [
            Event::Joined { world_size: 2, backend: "gloo".into(), device: "cpu".into() },
            Event::Note { message: "half and half".into() },
            Event::Ended { code: Some(0), signal: None },
            Event::Failure {
                class: FailureClass::OutOfMemoryDevice,
                message: "no end of line".into(),
                retry_below: None
            },
        ]
    );
}

#[test]
fn garbage_becomes_a_note_and_does_no_harm() {
    let run = Run::new();
    let outcome = run.shell(
        r#"exec >&$EVENKEEL_EVENTS_FD
        echo hello
        echo '{"kind":"of another version"}'
        echo '{"kind":"exit","code":0,"signal":null,"stopped":false,"oom_killed":false,"lines":0,"bytes":0,"sha256":"","dropped":0}'
        echo '{"kind":"metrics","epoch":1,"values":{"loss":NaN}}'
        printf '\377\376\n'
        head -c 1000000 /dev/zero | tr '\0' '{'; echo
        echo '{"kind":"note","message":"still here"}'"#,
    );
    assert_eq!(outcome.seal(), done(0));
    let notes = outcome.notes();
    assert_eq!(notes.len(), 7, "{notes:?}");
    assert!(
        notes[0].starts_with("an event of the trainer is not understood") && notes[0].ends_with(": hello"),
        "{}",
        notes[0]
    );
    assert!(notes[1].contains("of another version"));
    assert!(notes[2].contains("is the agent's own"));
    assert!(notes[3].contains("NaN"));
    assert!(notes[5].contains("is too long") && notes[5].len() < 400);
    assert_eq!(notes[6], "still here");
}

#[test]
fn many_events_from_several_processes_are_all_there() {
    let run = Run::new();
    let outcome = run.shell(
        r#"for p in 1 2 3 4; do
            (i=0; while [ $i -lt 2000 ]; do echo '{"kind":"note","message":"'$p $i'"}' >&$EVENKEEL_EVENTS_FD; i=$((i+1)); done) &
        done; wait"#,
    );
    assert_eq!(outcome.seal(), done(0));
    let notes = outcome.notes();
    assert_eq!(notes.len(), 8000);
    for process in 1..=4 {
        let of_one = notes.iter().filter_map(|note| note.strip_prefix(&format!("{process} "))?.parse::<u32>().ok());
        assert!(of_one.eq(0..2000));
    }
}
