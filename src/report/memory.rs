//! Memory of each rank: what was seen, against what was predicted and what there is.

use std::fmt::Write as _;

use crate::inventory::render::bytes;
use crate::record::read::Summary;

use super::page::escaped;

const WIDTH: f64 = 360.0;
const ROW: f64 = 46.0;
const BAR: f64 = 14.0;

/// The section; nothing where no rank told of its memory.
pub fn section(summary: &Summary) -> String {
    let ranks: Vec<_> =
        summary.ranks.iter().filter(|rank| rank.measured_bytes.or(rank.predicted_bytes).is_some()).collect();
    let most =
        ranks.iter().flat_map(|rank| [rank.measured_bytes, rank.predicted_bytes, rank.budget_bytes]).flatten().max();
    let Some(most) = most.filter(|most| *most > 0) else { return String::new() };
    #[expect(clippy::cast_precision_loss, reason = "bytes of memory are far below 2^53")]
    let across = |value: u64| value as f64 / most as f64 * WIDTH;
    let mut drawing = String::new();
    for (at, rank) in ranks.iter().enumerate() {
        let top = at as f64 * ROW;
        let (seen, predicted, budget) = (rank.measured_bytes, rank.predicted_bytes, rank.budget_bytes);
        let said = [
            seen.map(|value| format!("{} seen", bytes(value))),
            predicted.map(|value| format!("{} predicted", bytes(value))),
            budget.map(|value| format!("{} there", bytes(value))),
        ];
        let said: Vec<String> = said.into_iter().flatten().collect();
        let _ = write!(
            drawing,
            "<text class=\"strong\" x=\"0\" y=\"{:.0}\">rank {} on {}</text><text x=\"0\" y=\"{:.0}\" dy=\"13\">{}</text>",
            top + 12.0,
            rank.rank,
            escaped(&rank.device),
            top + 12.0,
            said.join(", ")
        );
        let y = top + 30.0;
        let bar = |class: &str, value: u64| {
            format!(
                "<rect class=\"{class}\" x=\"0\" y=\"{y:.0}\" width=\"{:.1}\" height=\"{:.0}\" rx=\"2\"/>",
                across(value),
                BAR - 2.0
            )
        };
        drawing.push_str(&bar("room", budget.unwrap_or(most)));
        if let Some(seen) = seen {
            let over = budget.is_some_and(|budget| seen > budget);
            drawing.push_str(&bar(if over { "over" } else { "seen" }, seen));
        }
        if let Some(predicted) = predicted {
            let x = across(predicted);
            let _ = write!(
                drawing,
                "<line class=\"predicted\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.0}\" y2=\"{:.0}\"/>",
                y - 3.0,
                y + BAR + 1.0
            );
        }
    }
    let height = ranks.len() as f64 * ROW + 4.0;
    format!(
        "<section><h2>Memory</h2><div class=\"charts\"><figure style=\"max-width:27rem\"><figcaption><b>The most that each rank took</b>the bar is what was seen, \
         the line what was predicted</figcaption><svg viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" aria-label=\"Memory of each rank\">{drawing}</svg></figure></div></section>\n"
    )
}
