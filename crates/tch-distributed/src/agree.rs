//! Whether all ranks hold the same variables, and if not, which one differs where.

use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::group::ProcessGroup;
use crate::reduce::ReduceOp;

/// One variable, as ranks compare it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Variable {
    /// Name in the variable store; holds no line break.
    pub(crate) name: String,
    /// Whether its gradient is reduced.
    pub(crate) trainable: bool,
    /// Shape, kind and device, in words.
    pub(crate) form: String,
}

impl Variable {
    pub(crate) fn new(name: &str, tensor: &Tensor, trainable: bool) -> Self {
        let form = format!("{:?} of {:?}", tensor.size(), tensor.kind());
        Self { name: name.replace(['\n', '\t'], " "), trainable, form }
    }
}

/// Returns the same on every rank: `Ok`, or an error that names the first variable in which the lowest rank that differs
/// from rank 0 does so.
///
/// Five small collectives where ranks differ, one where they agree.
pub(crate) fn agree(group: &ProcessGroup, own: &[Variable]) -> Result<()> {
    let text = write(own);
    // 62 bits: both the number and its negative are far from the ends of the range.
    let hash = i64::try_from(fnv(text.as_bytes()) >> 2).unwrap_or(0);
    let mut ends = Tensor::from_slice(&[hash, -hash]).to_device(group.device());
    group.all_reduce(&mut ends, ReduceOp::Max)?.wait()?;
    if ends.int64_value(&[0]) == -ends.int64_value(&[1]) {
        return Ok(());
    }
    let theirs = read(&share(group, text, 0)?);
    let complaint = difference(&theirs, own);
    let rank = group.rank();
    let mut first =
        Tensor::from(if complaint.is_some() { i64::from(rank) } else { i64::MAX }).to_device(group.device());
    group.all_reduce(&mut first, ReduceOp::Min)?.wait()?;
    let first = u32::try_from(first.int64_value(&[])).ok().filter(|first| *first < group.world_size());
    let Some(first) = first else {
        return Err(Error::Other("the ranks' variables differ, but none from those of rank 0".into()));
    };
    let complaint = share(group, complaint.unwrap_or_default(), first)?;
    Err(Error::InvalidArgument(format!("rank {first} has other variables than rank 0: {complaint}")))
}

/// The text of rank `root`, on every rank.
fn share(group: &ProcessGroup, own: String, root: u32) -> Result<String> {
    let mut length = Tensor::from(i64::try_from(own.len()).unwrap_or(i64::MAX)).to_device(group.device());
    group.broadcast(&mut length, root)?.wait()?;
    let length = length.int64_value(&[]);
    let mut bytes = if group.rank() == root {
        Tensor::from_slice(own.as_bytes()).to_device(group.device())
    } else {
        Tensor::zeros([length], (Kind::Uint8, group.device()))
    };
    group.broadcast(&mut bytes, root)?.wait()?;
    let bytes = Vec::<u8>::try_from(bytes.to_device(Device::Cpu)).map_err(|error| Error::Other(error.to_string()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What `own` has otherwise than rank 0, if anything.
fn difference(rank_0: &[Variable], own: &[Variable]) -> Option<String> {
    let role = |variable: &Variable| if variable.trainable { "parameter" } else { "buffer" };
    for (i, (theirs, ours)) in rank_0.iter().zip(own).enumerate() {
        if theirs.name != ours.name {
            return Some(format!("number {i} is `{}`, where rank 0 has `{}`", ours.name, theirs.name));
        }
        if theirs.trainable != ours.trainable {
            return Some(format!("`{}` is a {}, that of rank 0 a {}", ours.name, role(ours), role(theirs)));
        }
        if theirs.form != ours.form {
            return Some(format!("{} `{}` is {}, that of rank 0 {}", role(ours), ours.name, ours.form, theirs.form));
        }
    }
    let shared = rank_0.len().min(own.len());
    if let Some(missing) = rank_0.get(shared) {
        return Some(format!("it lacks the {} `{}`", role(missing), missing.name));
    }
    own.get(shared).map(|more| format!("rank 0 lacks the {} `{}`", role(more), more.name))
}

fn write(variables: &[Variable]) -> String {
    let line = |v: &Variable| format!("{}\t{}\t{}\n", v.name, u8::from(v.trainable), v.form);
    variables.iter().map(line).collect()
}

fn read(text: &str) -> Vec<Variable> {
    let variable = |line: &str| {
        let mut fields = line.split('\t').map(str::to_owned);
        let name = fields.next()?;
        let trainable = fields.next()? == "1";
        Some(Variable { name, trainable, form: fields.next()? })
    };
    text.lines().filter_map(variable).collect()
}

/// FNV-1a, 64 bits: the same number in every build, which the standard library's hashers do not promise.
fn fnv(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variable(name: &str, trainable: bool, form: &str) -> Variable {
        Variable { name: name.into(), trainable, form: form.into() }
    }

    #[test]
    fn what_is_written_is_read() {
        let all = [variable("a.weight", true, "[2, 3] of Float"), variable("a.mean", false, "[2] of Float")];
        assert_eq!(read(&write(&all)), all);
        assert_eq!(read(""), []);
    }

    #[test]
    fn a_difference_is_named() {
        let zero = [variable("a", true, "[1] of Float"), variable("b", false, "[2] of Float")];
        assert_eq!(difference(&zero, &zero), None);
        let named = |own: &[Variable]| difference(&zero, own).expect("they differ");
        assert!(named(&zero[..1]).contains("lacks the buffer `b`"));
        assert!(named(&[variable("a", true, "[3] of Float")]).contains("`a` is [3] of Float"));
        assert!(named(&[variable("a", false, "[1] of Float")]).contains("`a` is a buffer"));
        assert!(named(&[variable("c", true, "[1] of Float")]).contains("`c`, where rank 0 has `a`"));
        let more = [zero.as_slice(), &[variable("c", true, "[1] of Float")]].concat();
        assert!(named(&more).contains("rank 0 lacks the parameter `c`"));
    }

    #[test]
    fn the_hash_is_fnv_1a() {
        // Values from the draft of Fowler, Noll, Vo and Eastlake.
        assert_eq!(fnv(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv(b"a"), 0xaf63_dc4c_8601_ec8c);
    }
}
