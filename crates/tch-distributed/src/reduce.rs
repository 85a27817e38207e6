//! How a collective combines the ranks' values.

use tch::Kind;

/// Reduction of a collective.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ReduceOp {
    /// Sum.
    Sum,
    /// Sum over the ranks, divided by their number; floating-point tensors only.
    Avg,
    /// Product.
    Product,
    /// Minimum.
    Min,
    /// Maximum.
    Max,
    /// Bitwise and; integer tensors only.
    BitAnd,
    /// Bitwise or; integer tensors only.
    BitOr,
    /// Bitwise exclusive or; integer tensors only.
    BitXor,
    /// Sum of what every rank has multiplied by a factor of its own first; floating-point tensors only. The product is
    /// rounded to the tensor's kind before it is added.
    PreMulSum(f64),
}

impl ReduceOp {
    /// Number in c10d's `ReduceOp::RedOpType`. No backend sees a factor: it is applied here, and the rest is a sum.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Sum | Self::PreMulSum(_) => 0,
            Self::Avg => 1,
            Self::Product => 2,
            Self::Min => 3,
            Self::Max => 4,
            Self::BitAnd => 5,
            Self::BitOr => 6,
            Self::BitXor => 7,
        }
    }

    /// Whether the operation means something for elements of `kind`.
    pub(crate) fn fits(self, kind: Kind) -> bool {
        let float = matches!(kind, Kind::Float | Kind::Double | Kind::Half | Kind::BFloat16);
        match self {
            Self::Sum | Self::Product | Self::Min | Self::Max => true,
            Self::Avg | Self::PreMulSum(_) => float,
            Self::BitAnd | Self::BitOr | Self::BitXor => !float,
        }
    }

    /// Whether it works on bits.
    pub(crate) fn bitwise(self) -> bool {
        matches!(self, Self::BitAnd | Self::BitOr | Self::BitXor)
    }
}
