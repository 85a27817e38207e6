//! What an attempt comes to, and what follows. Pure.

/// How an attempt ended; the later, the more it says: a rank that failed explains those that hang because of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Every value was right.
    Passed,
    /// It did not end in time.
    Hung,
    /// It ended with wrong values.
    Wrong,
    /// NCCL, or the process, gave an error.
    Failed,
    /// No GPU, or no library for one.
    Unsupported,
}

impl Outcome {
    const ALL: [Self; 5] = [Self::Passed, Self::Hung, Self::Wrong, Self::Failed, Self::Unsupported];

    /// For the ranks to compare.
    pub fn code(self) -> i64 {
        self as i64
    }

    /// What a code means; one that means nothing is a failure.
    pub fn from_code(code: i64) -> Self {
        Self::ALL.into_iter().find(|outcome| outcome.code() == code).unwrap_or(Self::Failed)
    }
}

/// What follows an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It is well.
    Pass,
    /// Once more, without direct access between GPUs: consumer cards hang or compute wrong values over it.
    WithoutP2p,
    /// It is not well.
    Fail,
    /// Nobody can say.
    Unchecked,
}

/// What follows the worst outcome of all ranks.
pub fn next(worst: Outcome, p2p_is_disabled: bool) -> Next {
    match worst {
        Outcome::Passed => Next::Pass,
        Outcome::Hung | Outcome::Wrong if !p2p_is_disabled => Next::WithoutP2p,
        Outcome::Hung | Outcome::Wrong | Outcome::Failed => Next::Fail,
        Outcome::Unsupported => Next::Unchecked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_p2p_may_cause_is_tried_again_and_only_once() {
        assert_eq!(next(Outcome::Passed, false), Next::Pass);
        assert_eq!(next(Outcome::Passed, true), Next::Pass);
        for outcome in [Outcome::Hung, Outcome::Wrong] {
            assert_eq!(next(outcome, false), Next::WithoutP2p);
            assert_eq!(next(outcome, true), Next::Fail);
        }
        for disabled in [false, true] {
            assert_eq!(next(Outcome::Failed, disabled), Next::Fail);
            assert_eq!(next(Outcome::Unsupported, disabled), Next::Unchecked);
        }
    }

    #[test]
    fn the_cause_outranks_its_consequence() {
        assert!(Outcome::Failed > Outcome::Wrong && Outcome::Wrong > Outcome::Hung && Outcome::Hung > Outcome::Passed);
        for outcome in Outcome::ALL {
            assert_eq!(Outcome::from_code(outcome.code()), outcome);
        }
        assert_eq!(Outcome::from_code(99), Outcome::Failed);
    }
}
