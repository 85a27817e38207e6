//! `evenkeel compare`: whether two runs took the same path, and what differs between them.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::json;

use super::find_run::find;
use super::locking::Reference;
use crate::cli;
use crate::error::{ExitCode, Failure, chain};
use crate::output::{print, say};
use crate::runlock::difference::{Difference, differences};
use crate::trajectory::read::{Unreadable, trajectory};
use crate::trajectory::{self, Agreement, Comparison, Verdict};

/// Compares two runs.
pub fn run(args: &cli::Compare, json: bool) -> Result<ExitCode, Failure> {
    let (one, other) = (find(&args.one)?, find(&args.other)?);
    let comparison = trajectory::compare(&trajectory(&one)?, &trajectory(&other)?);
    let lock = |run: &Path| {
        // Of a run without a lock the path alone is compared.
        Reference::read(run).map_err(|failure| say(&format!("warning: {}", failure.message()))).ok()
    };
    let (first, second) = (lock(&one), lock(&other));
    let found = match (&first, &second) {
        (Some(first), Some(second)) => Some(differences(&first.locked, &second.locked)),
        _ => None,
    };
    if json {
        let value = json!({
            "version": 1, "runs": [one, other], "verdict": comparison.verdict(), "digits": comparison.digits(),
            "trajectories": comparison, "differences": found,
        });
        print(&serde_json::to_string_pretty(&value).expect("plain data"))?;
    } else {
        print(describe(&comparison, found.as_deref()).trim_end())?;
    }
    Ok(ExitCode::Done)
}

impl From<Unreadable> for Failure {
    fn from(error: Unreadable) -> Self {
        Self::new(ExitCode::CorruptState, chain(&error))
    }
}

fn describe(comparison: &Comparison, found: Option<&[Difference]>) -> String {
    let digits = comparison.digits().unwrap_or(0);
    let weights = &comparison.weights;
    let mut text = match comparison.verdict() {
        Verdict::BitIdentical => "bit-identical: the weights are the same after every epoch\n".to_owned(),
        Verdict::Equal => "equal in all that both recorded\n".to_owned(),
        Verdict::Close => format!("the trajectories agree to {}\n", counted(digits)),
        Verdict::Different => "the trajectories differ\n".to_owned(),
        Verdict::Unknown => "neither tells of steps, epochs or weights: there is no trajectory to compare\n".to_owned(),
    };
    if weights.compared > 0 {
        let _ = match weights.first_difference {
            None => writeln!(text, "  weights: equal after all {} epochs that both have", weights.compared),
            Some(0) => writeln!(text, "  weights: they differ from the first epoch on"),
            Some(epoch) => writeln!(text, "  weights: equal until epoch {epoch}, then they differ"),
        };
    }
    add(&mut text, "loss of each step", "step", &comparison.losses);
    for (name, agreement) in &comparison.columns {
        add(&mut text, name, "epoch", agreement);
    }
    match found {
        None => text.push_str("what differs between them is not known: not both have a lock\n"),
        Some([]) => text.push_str("nothing differs between their locks\n"),
        Some(found) => {
            text.push_str("what differs between them (first the one, then the other):\n");
            for difference in found {
                let _ = writeln!(text, "  {}", difference.between());
            }
        }
    }
    text
}

fn add(text: &mut String, name: &str, unit: &str, agreement: &Agreement) {
    if agreement.compared == 0 {
        return;
    }
    let of = format!("{} compared", agreement.compared);
    let alone = match agreement.only_one {
        0 => String::new(),
        more => format!("; {more} more in one of them alone"),
    };
    let _ = match (agreement.digits, agreement.worst, agreement.first_difference) {
        (Some(digits), Some(worst), Some(first)) => writeln!(
            text,
            "  {name}: {} at worst ({unit} {worst}), the first difference in {unit} {first}; {of}{alone}",
            counted(digits)
        ),
        _ => writeln!(text, "  {name}: equal; {of}{alone}"),
    };
}

fn counted(digits: u32) -> String {
    match digits {
        0 => "no digit".to_owned(),
        1 => "1 digit".to_owned(),
        digits => format!("{digits} digits"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trajectory::Trajectory;

    #[test]
    fn a_person_reads_how_far_they_agree_and_why_not_further() {
        let path = |last: f64, hash: &str| Trajectory {
            losses: [(0, Some(2.0)), (1, Some(last))].into(),
            weights: [(0, hash.to_owned())].into(),
            ..Trajectory::default()
        };
        let comparison = trajectory::compare(&path(1.0, "a"), &path(1.0004, "b"));
        let difference = Difference {
            area: crate::runlock::difference::Area::Setting,
            what: "seed".into(),
            before: Some("0".into()),
            after: Some("1".into()),
        };
        let text = describe(&comparison, Some(&[difference]));
        for line in [
            "the trajectories agree to 3 digits",
            "weights: they differ from the first epoch on",
            "loss of each step: 3 digits at worst (step 1), the first difference in step 1; 2 compared",
            "  setting `seed`: 0 and 1",
        ] {
            assert!(text.contains(line), "no `{line}` in\n{text}");
        }
        let same = trajectory::compare(&path(1.0, "a"), &path(1.0, "a"));
        assert!(describe(&same, Some(&[])).starts_with("bit-identical"));
    }
}
