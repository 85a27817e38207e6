//! Memory that runs out on purpose: how the recovery is tested where it happens, with the error that libtorch itself throws.

use evenkeel_wire::env;
use evenkeel_yolo::step::Place;

use crate::environment::EnvironmentError;

/// `RANK:STEP:PLACE`, several separated by commas. Places: forward, loss, backward, update, validation; a step of a validation is the last
/// one before it. Only in the first launch of a run, so that what follows it can be seen.
const FAULTS: &str = "EVENKEEL_FAULTS";
const EXPECTED: &str = "`RANK:STEP:PLACE`, such as `1:0:backward`, separated by commas";

/// Where memory is to run out on this rank.
#[derive(Debug, Default)]
pub struct Faults(Vec<(u64, Place)>);

impl Faults {
    /// Those of `rank`.
    ///
    /// # Errors
    ///
    /// The variable makes no sense.
    pub fn read(lookup: impl Fn(&str) -> Option<String>, rank: u32) -> Result<Self, EnvironmentError> {
        let first = lookup(env::GENERATION).is_none_or(|generation| generation == "1");
        let Some(text) = lookup(FAULTS).filter(|_| first) else { return Ok(Self::default()) };
        let unfit = || EnvironmentError::Unfit { name: FAULTS, value: text.clone(), expected: EXPECTED };
        let mut faults = Vec::new();
        for fault in text.split(',').filter(|fault| !fault.is_empty()) {
            let [on, step, place] = fault.split(':').collect::<Vec<_>>()[..] else { return Err(unfit()) };
            let place = match place {
                "forward" => Place::Forward,
                "loss" => Place::Loss,
                "backward" => Place::Backward,
                "update" => Place::Update,
                "validation" => Place::Validation,
                _ => return Err(unfit()),
            };
            let (on, step): (u32, u64) = (on.parse().map_err(|_| unfit())?, step.parse().map_err(|_| unfit())?);
            if on == rank {
                faults.push((step, place));
            }
        }
        Ok(Self(faults))
    }

    /// Lets the next allocation fail if this is such a place; each fault happens once.
    pub fn at(&mut self, step: u64, place: Place) {
        if let Some(at) = self.0.iter().position(|fault| *fault == (step, place)) {
            self.0.swap_remove(at);
            // In the midst of each: a tenth of a forward pass, the third part of an update.
            evenkeel_allocator::fail_after(match place {
                Place::Forward | Place::Backward | Place::Validation => 30,
                Place::Loss => 10,
                Place::Update => 7,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_those_of_the_rank() {
        let read =
            |text: &str| Faults::read(|name| (name == FAULTS).then(|| text.to_owned()), 1).map(|faults| faults.0);
        assert_eq!(
            read("0:3:loss,1:4:backward,1:0:validation"),
            Ok(vec![(4, Place::Backward), (0, Place::Validation)])
        );
        assert_eq!(read(""), Ok(vec![]));
        for text in ["1:4", "1:4:nowhere", "x:4:loss", "1:-1:loss", "1:1:loss:2"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
