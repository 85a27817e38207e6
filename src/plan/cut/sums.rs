//! Which sums a row of choices reaches, exactly, in a small window.

/// One choice for each of `sets` that add up to `sum`: the smallest of the last where there are several, and so on to the first.
/// Every set begins with 0 and ascends.
pub(super) fn reach(sets: &[&[u32]], sum: u32) -> Option<Vec<u32>> {
    let words = sum as usize / 64 + 1;
    let has = |bits: &[u64], at: u32| bits[at as usize / 64] >> (at % 64) & 1 == 1;
    let mut layers: Vec<Vec<u64>> = vec![vec![0; words]];
    layers[0][0] = 1;
    for set in sets {
        let last = layers.last().expect("one at least");
        if has(last, sum) {
            break;
        }
        let mut next = last.clone();
        for amount in set.iter().copied().filter(|amount| (1..=sum).contains(amount)) {
            or_shifted(&mut next, last, amount as usize);
        }
        layers.push(next);
    }
    if !has(layers.last().expect("one at least"), sum) {
        return None;
    }
    // Back from the end; whatever was not looked at any more takes 0.
    let mut chosen = vec![0; sets.len()];
    let mut left = sum;
    for place in (0..layers.len() - 1).rev() {
        let before = &layers[place];
        let amount = sets[place].iter().copied().find(|amount| *amount <= left && has(before, left - amount))?;
        chosen[place] = amount;
        left -= amount;
    }
    Some(chosen)
}

/// `into |= from << by`, what is beyond the end being lost.
fn or_shifted(into: &mut [u64], from: &[u64], by: usize) {
    let (words, bits) = (by / 64, by % 64);
    for at in words..into.len() {
        let low = from[at - words] << bits;
        let carried = if bits > 0 && at > words { from[at - words - 1] >> (64 - bits) } else { 0 };
        into[at] |= low | carried;
    }
}

#[cfg(test)]
mod tests {
    use super::reach;

    #[test]
    fn what_is_reached_adds_up() {
        let (threes, eights): (&[u32], &[u32]) = (&[0, 3, 6], &[0, 8, 130]);
        assert_eq!(reach(&[threes, eights], 14), Some(vec![6, 8]));
        assert_eq!(reach(&[threes, eights, threes], 136), Some(vec![6, 130, 0]));
        assert_eq!(reach(&[threes, eights], 7), None);
        assert_eq!(reach(&[threes], 0), Some(vec![0]));
        assert_eq!(reach(&[], 1), None);
    }
}
