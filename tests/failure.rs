//! What ends mean: every case of the corpus in its class, and memory that a stranger holds told from memory that is short.

use evenkeel::failure::{Memory, diagnose};
use evenkeel::watch::state::{How, RankEnd};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    #[serde(default)]
    on: On,
    #[serde(default)]
    code: Option<i32>,
    #[serde(default)]
    signal: Option<i32>,
    #[serde(default)]
    oom_killed: bool,
    log: String,
    class: String,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum On {
    Gpu,
    Capped,
    #[default]
    Cpu,
}

impl From<On> for Memory {
    fn from(on: On) -> Self {
        match on {
            On::Gpu => Self::Gpu,
            On::Capped => Self::Capped,
            On::Cpu => Self::Host,
        }
    }
}

fn end(code: Option<i32>, signal: Option<i32>, oom_killed: bool) -> RankEnd {
    let code = if signal.is_some() { None } else { code.or(Some(1)) };
    let how = How::Sealed { code, signal, stopped: false, oom_killed, dropped: 0 };
    RankEnd { rank: 0, order: 0, how, asked: false, program: None, failure: None }
}

#[test]
fn every_end_of_the_corpus_has_its_class() {
    let cases: Vec<Case> = serde_yaml::from_str(include_str!("specs/failures.yaml")).expect("a list of cases");
    assert!(cases.len() >= 50, "{} cases", cases.len());
    let mut wrong = Vec::new();
    for Case { name, on, code, signal, oom_killed, log, class } in cases {
        let ends = [end(code, signal, oom_killed)];
        let diagnosis = diagnose(&ends, on.into(), |_| log.clone()).expect("a failure");
        if diagnosis.class.name() != class {
            wrong.push(format!("{name}: {}, not {class}", diagnosis.class.name()));
        }
        assert_eq!(diagnosis.held_by_others, None, "{name}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn memory_that_a_stranger_holds_is_told() {
    let log = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 23.69 GiB of which \
               10.94 MiB is free. Process 3012 has 18.50 GiB memory in use. Process 3077 has 512.00 MiB memory in use. Including \
               non-PyTorch memory, this process has 4.61 GiB memory in use.";
    let diagnosis = diagnose(&[end(None, None, false)], Memory::Gpu, |_| log.to_owned()).expect("a failure");
    assert_eq!(diagnosis.held_by_others, Some(19.0));
    assert!(diagnosis.advice.contains("what else computes on the card"), "{diagnosis:?}");
}
