//! Small charts out of characters. Pure.

/// Rows of a chart.
const HEIGHT: usize = 4;
/// A cell of a column, from empty to full.
const BLOCKS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// The same where only ASCII can be shown.
const ASCII: [char; 4] = [' ', '.', ':', '#'];

/// A chart of values over epochs, in lines that are no wider than `width`: a title, bars between the least and the greatest value, the
/// first and the last epoch below. Of several values that fall into one column their mean is shown. Values that are missing or not finite leave a gap.
#[must_use]
pub fn chart(title: &str, points: &[(u64, Option<f64>)], width: usize, unicode: bool) -> Vec<String> {
    let finite = || points.iter().filter_map(|(_, value)| value.filter(|value| value.is_finite()));
    let (Some(least), Some(greatest)) = (finite().reduce(f64::min), finite().reduce(f64::max)) else {
        return Vec::new();
    };
    let labels = [number(greatest), number(least)];
    let margin = labels.iter().map(String::len).max().unwrap_or(0);
    let room = width.saturating_sub(margin + 1).max(1);
    let columns = columns(points, room);
    let cells: &[char] = if unicode { &BLOCKS } else { &ASCII };
    let full = cells.len() - 1;
    let mut lines = vec![format!("{title:>margin$}")];
    for row in (0..HEIGHT).rev() {
        let label = match row {
            0 => &labels[1],
            row if row == HEIGHT - 1 => &labels[0],
            _ => "",
        };
        let bars: String = columns.iter().map(|value| cells[cell(*value, (least, greatest), row, full)]).collect();
        lines.push(format!("{label:>margin$} {}", bars.trim_end()).trim_end().to_owned());
    }
    let (first, last) = (points[0].0, points[points.len() - 1].0);
    let first = first.to_string();
    let rest = columns.len().saturating_sub(first.len());
    let ends = if last.to_string().len() < rest { format!("{first}{last:>rest$}") } else { first };
    lines.push(format!("{:margin$} {ends}", ""));
    lines
}

/// A chart of one row, from nothing to the greatest value, at most `width` columns wide. What is missing is a gap.
#[must_use]
pub fn spark(points: &[(u64, Option<f64>)], width: usize, unicode: bool) -> String {
    let finite = points.iter().filter_map(|(_, value)| value.filter(|value| value.is_finite()));
    let Some(greatest) = finite.reduce(f64::max) else { return String::new() };
    let cells: &[char] = if unicode { &BLOCKS } else { &ASCII };
    let full = (cells.len() - 1) as f64;
    let part = |value: f64| if greatest > 0.0 { (value / greatest * full).ceil().clamp(1.0, full) } else { 1.0 };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and the number of cells")]
    let cell = |value: &Option<f64>| cells[value.map_or(0.0, part) as usize];
    // One column a value, however few there are.
    columns(points, width.min(points.len()).max(1)).iter().map(cell).collect()
}

/// Charts beside each other where they find room, below each other where not.
#[must_use]
pub fn beside(left: Vec<String>, right: Vec<String>, width: usize) -> Vec<String> {
    const GAP: usize = 4;
    let wide = |lines: &[String]| lines.iter().map(|line| line.chars().count()).max().unwrap_or(0);
    let (left_width, right_width) = (wide(&left), wide(&right));
    if left.is_empty() || right.is_empty() || left_width + GAP + right_width > width {
        let gap = (!left.is_empty() && !right.is_empty()).then(String::new);
        return left.into_iter().chain(gap).chain(right).collect();
    }
    let pad = |line: &str| " ".repeat(left_width + GAP - line.chars().count());
    let both = left.iter().zip(&right);
    both.map(|(left, right)| format!("{left}{}{right}", pad(left)).trim_end().to_owned()).collect()
}

/// How full a cell is, of `full` parts. The least value has one of them, so that it can be told from none.
fn cell(value: Option<f64>, (least, greatest): (f64, f64), row: usize, full: usize) -> usize {
    let Some(value) = value else { return 0 };
    let share = if greatest > least { (value - least) / (greatest - least) } else { 1.0 };
    let parts = (full * HEIGHT) as f64;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and the number of parts")]
    let height = (1.0 + share * (parts - 1.0)).round() as usize;
    height.saturating_sub(row * full).min(full)
}

/// The values as so many columns at most; few values get columns of some width.
fn columns(points: &[(u64, Option<f64>)], room: usize) -> Vec<Option<f64>> {
    let values: Vec<Option<f64>> = points.iter().map(|(_, value)| value.filter(|value| value.is_finite())).collect();
    if values.len() <= room {
        const WIDEST: usize = 3;
        let each = (room / values.len()).clamp(1, WIDEST);
        return values.into_iter().flat_map(|value| std::iter::repeat_n(value, each)).collect();
    }
    (0..room)
        .map(|column| {
            let (from, to) = (column * values.len() / room, (column + 1) * values.len() / room);
            let some: Vec<f64> = values[from..to].iter().copied().flatten().collect();
            (!some.is_empty()).then(|| some.iter().sum::<f64>() / some.len() as f64)
        })
        .collect()
}

/// A value in few characters.
#[must_use]
pub fn number(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && !(0.001..100_000.0).contains(&size) {
        format!("{value:.1e}")
    } else if size >= 100.0 {
        format!("{value:.0}")
    } else if size >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.3}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(values: &[f64]) -> Vec<(u64, Option<f64>)> {
        (1..).zip(values.iter().map(|value| Some(*value))).collect()
    }

    #[test]
    fn a_chart_stands_between_its_extremes() {
        let falling: Vec<f64> = (0..8).map(|number| 8.0 - f64::from(number)).collect();
        let text = chart("loss", &points(&falling), 14, true).join("\n");
        assert_eq!(text, " loss\n8.000 █▄\n      ██▇▃\n      ████▆▂\n1.000 ██████▅▁\n      1      8");
        let text = chart("loss", &points(&falling), 14, false).join("\n");
        assert_eq!(text, " loss\n8.000 #.\n      ###.\n      #####.\n1.000 #######.\n      1      8");
    }

    #[test]
    fn many_epochs_share_columns_and_what_is_missing_is_a_gap() {
        let many: Vec<f64> = (0..10_000).map(f64::from).collect();
        let lines = chart("mAP50", &points(&many), 30, true);
        assert!(lines.iter().all(|line| line.chars().count() <= 30), "{lines:?}");
        let gap = [(1, Some(1.0)), (2, None), (3, Some(f64::NAN)), (4, Some(1.0))];
        let lines = chart("x", &gap, 10, true);
        assert_eq!(lines[4], "1.000 █  █");
        assert!(chart("x", &[(1, None)], 10, true).is_empty());
        assert!(chart("x", &[], 10, true).is_empty());
        // Narrower than its own labels, it still is a chart.
        assert_eq!(chart("x", &points(&[1.0, 2.0]), 3, true).len(), 6);
    }

    #[test]
    fn a_chart_of_one_row_stands_on_nothing() {
        let values = [0.0, 25.0, 50.0, 100.0];
        assert_eq!(spark(&points(&values), 10, true), "▁▂▄█");
        assert_eq!(spark(&points(&values), 10, false), "..:#");
        assert_eq!(spark(&points(&[1.0; 100]), 5, true), "█████");
        assert_eq!(spark(&[(0, Some(0.0)), (1, None), (2, Some(0.0))], 5, true), "▁ ▁");
        assert_eq!(spark(&[(0, None)], 5, true), "");
        assert_eq!(spark(&[], 5, true), "");
    }

    #[test]
    fn two_charts_share_the_lines_where_there_is_room() {
        let chart = || vec!["ab".to_owned(), "c".to_owned()];
        assert_eq!(beside(chart(), chart(), 8), ["ab    ab", "c     c"]);
        assert_eq!(beside(chart(), chart(), 7), ["ab", "c", "", "ab", "c"]);
        assert_eq!(beside(chart(), Vec::new(), 80), ["ab", "c"]);
    }
}
