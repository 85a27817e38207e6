//! Walks of the state machine: what a run does from its first action to its last.

use evenkeel_wire::{Event as Told, FailureClass, Record, VERSION};

use super::*;

const NOW: Duration = Duration::from_secs(100);

fn told(rank: u32, event: Told) -> Event {
    Event::Told { rank, record: Box::new(Record { v: VERSION, generation: 1, rank, seq: 0, time_ms: 0, event }) }
}

fn exit(rank: u32, code: Option<i32>, signal: Option<i32>, stopped: bool) -> Event {
    let sha256 = String::new();
    told(rank, Told::Exit { code, signal, stopped, oom_killed: false, lines: 0, bytes: 0, sha256, dropped: 0 })
}

fn running(ranks: u32) -> RunState {
    let mut state = RunState::new(ranks, Duration::from_secs(10));
    state.begin();
    for rank in 0..ranks {
        state.on_event(Event::Created { rank }, NOW);
    }
    for rank in 0..ranks {
        state.on_event(Event::Started { rank }, NOW);
    }
    assert!(state.is_under_way(), "trainers were told to start");
    state
}

fn ask(rank: u32, how: Ending) -> Action {
    Action::Ask { rank, how }
}

#[test]
fn a_good_run_goes_from_create_to_remove() {
    let mut state = RunState::new(2, Duration::from_secs(10));
    assert_eq!(state.begin(), [Action::Create { rank: 0 }]);
    let next = [Action::Start { rank: 0 }, Action::Create { rank: 1 }];
    assert_eq!(state.on_event(Event::Created { rank: 0 }, NOW), next);
    assert_eq!(state.on_event(Event::Created { rank: 1 }, NOW), []);
    assert_eq!(state.on_event(Event::Started { rank: 0 }, NOW), [Action::Start { rank: 1 }]);
    assert_eq!(state.on_event(Event::Started { rank: 1 }, NOW), [Action::Go]);
    assert_eq!(state.on_event(exit(0, Some(0), None, false), NOW), []);
    let removes = [Action::Remove { rank: 0 }, Action::Remove { rank: 1 }];
    assert_eq!(state.on_event(exit(1, Some(0), None, false), NOW), removes);
    state.on_event(Event::Removed { rank: 0 }, NOW);
    assert!(!state.is_over());
    state.on_event(Event::Removed { rank: 1 }, NOW);
    assert!(state.is_over());
    assert!(state.ends().iter().all(RankEnd::is_good));
}

#[test]
fn a_leader_that_may_be_made_anew_is_joined_when_it_runs() {
    let mut state = RunState::new(3, Duration::from_secs(10)).leader_first();
    assert_eq!(state.begin(), [Action::Create { rank: 0 }]);
    assert_eq!(state.on_event(Event::Created { rank: 0 }, NOW), [Action::Start { rank: 0 }]);
    assert_eq!(state.on_event(Event::LimitKept { rank: 0, message: "not permitted".into() }, NOW), []);
    let others = [Action::Create { rank: 1 }, Action::Create { rank: 2 }];
    assert_eq!(state.on_event(Event::Started { rank: 0 }, NOW), others);
    assert_eq!(state.on_event(Event::Created { rank: 1 }, NOW), [Action::Start { rank: 1 }]);
}

#[test]
fn trainers_start_once() {
    let mut state = running(2);
    assert_eq!(state.on_event(told(0, Told::Waiting), NOW), []);
    assert_eq!(state.on_event(Event::Deadline, NOW), []);
}

#[test]
fn one_bad_end_ends_all_at_once() {
    let mut state = running(3);
    let actions = state.on_event(exit(1, None, Some(9), false), NOW);
    assert_eq!(actions, [ask(0, Ending::AtOnce), ask(2, Ending::AtOnce)]);
    assert_eq!(state.deadline(), Some(NOW + SEAL_TIME));
    assert_eq!(state.on_event(exit(0, None, Some(9), true), NOW), []);
    // Rank 2's agent does not answer: the engine kills it, and that is no failure of its own.
    assert_eq!(state.on_event(Event::Deadline, NOW + SEAL_TIME), [ask(2, Ending::ByForce)]);
    let actions = state.on_event(Event::Ended { rank: 2, code: Some(137), oom_killed: false, words: None }, NOW);
    assert_eq!(actions.len(), 3, "{actions:?}");
    let ends = state.ends();
    assert!(!ends[1].was_asked() && !ends[1].is_good());
    assert!(ends[0].was_asked() && ends[2].was_asked());
}

#[test]
fn a_container_without_a_seal_is_a_bad_end() {
    let mut state = running(2);
    let actions = state.on_event(Event::Ended { rank: 0, code: Some(137), oom_killed: false, words: None }, NOW);
    assert_eq!(actions, [ask(1, Ending::AtOnce)]);
    assert!(!state.ends()[0].was_asked());
}

#[test]
fn the_end_of_a_sealed_container_says_nothing_new() {
    let mut state = running(2);
    state.on_event(exit(1, Some(0), None, false), NOW);
    assert_eq!(state.on_event(Event::Ended { rank: 1, code: Some(0), oom_killed: false, words: None }, NOW), []);
    assert!(state.ends()[0].is_good());
}

#[test]
fn ctrl_c_asks_then_insists() {
    let mut state = running(2);
    let asks = |how| [ask(0, how), ask(1, how)];
    assert_eq!(state.on_event(Event::Signal(Signal::Interrupt), NOW), asks(Ending::Gracefully));
    assert_eq!(state.on_event(Event::Deadline, NOW + Duration::from_secs(9)), []);
    assert_eq!(state.on_event(Event::Deadline, NOW + Duration::from_secs(10)), asks(Ending::AtOnce));
    assert_eq!(state.signal(), Some(Signal::Interrupt));
}

#[test]
fn the_second_ctrl_c_kills() {
    let mut state = running(1);
    state.on_event(Event::Signal(Signal::Interrupt), NOW);
    assert_eq!(state.on_event(Event::Signal(Signal::Interrupt), NOW), [ask(0, Ending::ByForce)]);
    assert!(!state.is_over() && state.left().is_empty());
    // An engine that does not answer holds nobody.
    assert_eq!(state.on_event(Event::Signal(Signal::Interrupt), NOW), []);
    assert!(state.is_over());
    assert_eq!(state.left(), [0]);
}

#[test]
fn an_engine_that_does_not_kill_is_waited_for_only_so_long() {
    let mut state = running(2);
    state.on_event(Event::Signal(Signal::Quit), NOW);
    assert_eq!(state.deadline(), Some(NOW + ENGINE_TIME));
    state.on_event(Event::Ended { rank: 1, code: Some(137), oom_killed: false, words: None }, NOW);
    state.on_event(Event::Deadline, NOW + ENGINE_TIME);
    assert!(state.is_over());
    assert_eq!(state.left(), [0, 1]);
}

#[test]
fn a_program_that_fell_ends_all_before_its_spool_is_sealed() {
    let mut state = running(3);
    let fell = Told::Ended { code: None, signal: Some(9) };
    let asks = [0, 1, 2].map(|rank| ask(rank, Ending::AtOnce));
    assert_eq!(state.on_event(told(2, fell), NOW), asks);
    // A peer that lost it dies of itself, and its seal comes first.
    state.on_event(told(0, Told::Ended { code: Some(1), signal: None }), NOW);
    state.on_event(exit(0, Some(1), None, false), NOW);
    state.on_event(exit(1, None, Some(9), true), NOW);
    // What it left behind held its seal up for too long.
    state.on_event(Event::Ended { rank: 2, code: Some(137), oom_killed: false, words: None }, NOW);
    let ends = state.ends();
    assert!(ends[2].order < ends[0].order && !ends[2].was_asked() && !ends[0].was_asked() && ends[1].was_asked());
    assert_eq!(ends[2].program, Some(ProgramEnd { code: None, signal: Some(9) }));
}

#[test]
fn a_program_that_ends_well_ends_nobody() {
    assert_eq!(running(2).on_event(told(0, Told::Ended { code: Some(0), signal: None }), NOW), []);
}

#[test]
fn who_was_stopped_by_somebody_else_was_not_asked() {
    let mut state = running(2);
    assert_eq!(state.on_event(exit(1, None, Some(15), true), NOW), [ask(0, Ending::AtOnce)]);
    state.on_event(exit(0, None, Some(9), true), NOW);
    let ends = state.ends();
    assert!(ends[0].was_asked() && !ends[1].was_asked());
}

#[test]
fn an_interrupt_after_the_end_changes_no_outcome() {
    let mut state = running(2);
    state.on_event(exit(1, Some(7), None, false), NOW);
    state.on_event(Event::Signal(Signal::Interrupt), NOW);
    assert_eq!(state.signal(), None, "it had failed before");
    let mut state = running(1);
    state.on_event(exit(0, Some(0), None, false), NOW);
    assert_eq!(state.on_event(Event::Signal(Signal::Interrupt), NOW), []);
    assert_eq!(state.signal(), None, "it was done before");
}

#[test]
fn an_interrupt_while_a_failure_ends_keeps_another_launch_from_following() {
    for interrupts in 1..3 {
        let mut state = running(2);
        state.on_event(exit(1, Some(1), None, false), NOW);
        for _ in 0..interrupts {
            state.on_event(Event::Signal(Signal::Interrupt), NOW);
        }
        assert_eq!((state.signal(), state.asked()), (None, Some(Signal::Interrupt)));
    }
}

#[test]
fn a_trainer_that_we_killed_has_not_failed_by_itself() {
    let mut state = running(3);
    let reason = Told::Failure { class: FailureClass::Collective, message: "no answer".into(), retry_below: None };
    state.on_event(told(2, reason), NOW);
    state.on_event(told(2, Told::Ended { code: Some(1), signal: None }), NOW);
    // One that fell by itself before it could be asked, and one that falls because it was.
    state.on_event(told(0, Told::Ended { code: Some(1), signal: None }), NOW);
    state.on_event(told(1, Told::Ended { code: None, signal: Some(9) }), NOW);
    state.on_event(exit(0, Some(1), None, false), NOW);
    state.on_event(exit(1, None, Some(9), true), NOW);
    state.on_event(exit(2, Some(1), None, false), NOW);
    let asked: Vec<(u32, bool)> = state.ends().iter().map(|end| (end.rank, end.was_asked())).collect();
    assert_eq!(asked, [(0, false), (1, true), (2, false)]);
}

#[test]
fn what_the_engine_gave_no_answer_on_is_removed() {
    let mut state = RunState::new(1, Duration::from_secs(10));
    state.begin();
    let lost = Event::EngineFailed { rank: 0, operation: Operation::Create, message: "broken".into(), answered: false };
    assert_eq!(state.on_event(lost, NOW), [Action::Remove { rank: 0 }]);
    let again =
        Event::EngineFailed { rank: 0, operation: Operation::Remove, message: "broken".into(), answered: false };
    state.on_event(again, NOW);
    assert!(state.is_over());
    assert_eq!(state.left(), [0]);
}

#[test]
fn ctrl_backslash_kills_at_once() {
    assert_eq!(running(1).on_event(Event::Signal(Signal::Quit), NOW), [ask(0, Ending::ByForce)]);
}

#[test]
fn a_launch_that_cannot_be_recorded_is_given_up() {
    let mut state = RunState::new(2, Duration::from_secs(10));
    state.begin();
    state.on_event(Event::Created { rank: 0 }, NOW);
    state.on_event(Event::Started { rank: 0 }, NOW);
    assert_eq!(state.on_event(Event::Broken, NOW), [ask(0, Ending::AtOnce)]);
    assert!(state.is_broken() && !state.is_under_way());
    state.on_event(exit(0, None, Some(9), true), NOW);
    let removes = [Action::Remove { rank: 0 }, Action::Remove { rank: 1 }];
    assert_eq!(state.on_event(Event::Created { rank: 1 }, NOW), removes);
}

#[test]
fn ctrl_c_before_anything_exists_leaves_nothing() {
    let mut state = RunState::new(2, Duration::from_secs(10));
    state.begin();
    assert_eq!(state.on_event(Event::Signal(Signal::Interrupt), NOW), []);
    assert_eq!(state.on_event(Event::Created { rank: 0 }, NOW), [Action::Remove { rank: 0 }]);
    state.on_event(Event::Removed { rank: 0 }, NOW);
    assert!(state.is_over());
}

#[test]
fn one_that_starts_late_still_hears_of_the_end() {
    let mut state = RunState::new(2, Duration::from_secs(10));
    state.begin();
    state.on_event(Event::Created { rank: 0 }, NOW);
    assert_eq!(state.on_event(Event::Signal(Signal::Terminate), NOW), []);
    // No trainer runs yet that could save something.
    assert_eq!(state.on_event(Event::Started { rank: 0 }, NOW), [ask(0, Ending::AtOnce)]);
    // The follower was still being created: it must be known, to be removed.
    assert_eq!(state.on_event(exit(0, None, None, true), NOW), []);
    let removes = [Action::Remove { rank: 0 }, Action::Remove { rank: 1 }];
    assert_eq!(state.on_event(Event::Created { rank: 1 }, NOW), removes);
}

#[test]
fn a_leader_that_cannot_be_created_ends_the_run() {
    let mut state = RunState::new(2, Duration::from_secs(10));
    state.begin();
    let failed =
        Event::EngineFailed { rank: 0, operation: Operation::Create, message: "no such image".into(), answered: true };
    assert_eq!(state.on_event(failed, NOW), []);
    assert!(state.is_over());
    assert!(matches!(state.ends()[0].how, How::NotStarted { .. }));
}

#[test]
fn a_follower_that_cannot_be_created_takes_its_leader_along() {
    let mut state = RunState::new(2, Duration::from_secs(10));
    state.begin();
    state.on_event(Event::Created { rank: 0 }, NOW);
    state.on_event(Event::Started { rank: 0 }, NOW);
    let failed =
        Event::EngineFailed { rank: 1, operation: Operation::Create, message: "no space".into(), answered: true };
    assert_eq!(state.on_event(failed, NOW), [ask(0, Ending::AtOnce)]);
    assert_eq!(state.on_event(exit(0, None, None, true), NOW), [Action::Remove { rank: 0 }]);
    state.on_event(Event::Removed { rank: 0 }, NOW);
    assert!(state.is_over());
}

#[test]
fn a_container_that_cannot_start_is_removed() {
    let mut state = RunState::new(1, Duration::from_secs(10));
    state.begin();
    state.on_event(Event::Created { rank: 0 }, NOW);
    let failed = Event::EngineFailed {
        rank: 0,
        operation: Operation::Start,
        message: "no device driver".into(),
        answered: true,
    };
    assert_eq!(state.on_event(failed, NOW), [Action::Remove { rank: 0 }]);
}

#[test]
fn a_lost_terminal_changes_nothing() {
    assert_eq!(running(2).on_event(Event::Signal(Signal::Hangup), NOW), []);
}

#[test]
fn the_first_reason_of_a_rank_counts() {
    let mut state = running(1);
    let failure = |class, message: &str| Told::Failure { class, message: message.into(), retry_below: None };
    state.on_event(told(0, failure(FailureClass::OutOfMemoryDevice, "first")), NOW);
    state.on_event(told(0, failure(FailureClass::Code, "second")), NOW);
    state.on_event(exit(0, Some(1), None, false), NOW);
    assert_eq!(
        state.ends()[0].failure,
        Some(Reason { class: FailureClass::OutOfMemoryDevice, message: "first".into(), retry_below: None })
    );
}

#[test]
fn who_stood_still_comes_before_those_that_were_ended_for_it() {
    let mut state = running(2);
    let stalled = Event::Stalled { rank: 1, message: "no step for 60 s".into() };
    assert_eq!(state.on_event(stalled, NOW), [ask(0, Ending::AtOnce), ask(1, Ending::AtOnce)]);
    for rank in 0..2 {
        state.on_event(told(rank, Told::Ended { code: None, signal: Some(9) }), NOW);
        state.on_event(exit(rank, None, Some(9), true), NOW);
    }
    let ends = state.ends();
    assert!(ends[1].order < ends[0].order, "{ends:?}");
    assert!(!ends[1].was_asked());
    assert_eq!(ends[1].failure.as_ref().map(|reason| reason.class), Some(FailureClass::Stalled));
}

#[test]
fn one_that_is_taken_up_is_asked_again_and_removed_again() {
    let under_way = |ranks| RunState::under_way(ranks, Duration::from_secs(10));
    // Nothing happened: there is nothing to do but to wait for both.
    let mut state = under_way(2);
    assert_eq!(state.take_up(NOW), []);
    assert_eq!(state.running(), [0, 1]);
    // Rank 1 fell while nobody looked.
    let mut state = under_way(2);
    let _ = state.on_event(exit(1, Some(7), None, false), NOW);
    assert_eq!(state.take_up(NOW), [ask(0, Ending::AtOnce)]);
    assert_eq!(state.running(), [0]);
    // A signal had asked for the end, and the leader followed it.
    let mut state = under_way(2);
    let _ = state.on_event(Event::Signal(Signal::Interrupt), NOW);
    let _ = state.on_event(exit(0, Some(0), None, true), NOW);
    assert_eq!(state.take_up(NOW), [ask(1, Ending::Gracefully)]);
    assert_eq!(state.deadline(), Some(NOW + Duration::from_secs(10)));
    // All had ended, and one container was removed: the other's removal may have been asked for or not.
    let mut state = under_way(2);
    for rank in 0..2 {
        let _ = state.on_event(exit(rank, Some(0), None, false), NOW);
    }
    let _ = state.on_event(Event::Removed { rank: 1 }, NOW);
    assert_eq!(state.take_up(NOW), [Action::Remove { rank: 0 }]);
    assert_eq!(state.running(), [0; 0]);
}

#[test]
fn whom_nobody_here_asked_to_end_has_not_done_its_work() {
    let mut state = running(2);
    // `docker stop` on one, which follows it in good order.
    assert_eq!(state.on_event(exit(0, Some(0), None, true), NOW), [ask(1, Ending::AtOnce)]);
    let mut state = running(1);
    state.on_event(Event::Signal(Signal::Interrupt), NOW);
    state.on_event(exit(0, Some(0), None, true), NOW);
    assert!(state.ends()[0].is_good());
}
