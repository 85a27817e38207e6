//! Text as it may stand in HTML. Pure.

/// A text that somebody else wrote, for an element or an attribute in quotes. Control characters and terminals' escape sequences are left out.
pub fn text(text: &str) -> String {
    let shown = crate::output::plain(text);
    let mut safe = String::with_capacity(shown.len());
    for char in shown.chars() {
        match char {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            // What turns the direction of writing would let a name look like another one.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => safe.push('\u{fffd}'),
            char => safe.push(char),
        }
    }
    safe
}

/// A table that scrolls by itself where the page is narrow. Cells are HTML already. Columns in which nothing stands but their heading are left out.
pub fn table(caption: &str, head: &[&str], rows: &[Vec<String>]) -> String {
    let shown: Vec<usize> = (0..head.len())
        .filter(|column| rows.iter().any(|row| row.get(*column).is_some_and(|cell| !cell.is_empty())))
        .collect();
    let line = |tag: &str, cells: &mut dyn Iterator<Item = &str>| {
        let cells: String = cells.map(|cell| format!("<{tag}>{cell}</{tag}>")).collect();
        format!("<tr>{cells}</tr>\n")
    };
    let scope = |column: &usize| format!("<th scope=\"col\">{}</th>", head[*column]);
    let head: String = shown.iter().map(scope).collect();
    let rows: String = rows
        .iter()
        .map(|row| line("td", &mut shown.iter().map(|column| row.get(*column).map_or("", String::as_str))))
        .collect();
    format!(
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{caption}\"><table><caption>{caption}</caption>\
         <thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody></table></div>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_somebody_wrote_is_markup() {
        let hostile = "a</title><script>alert('x')</script>\" onload=\"y & \u{202e}z\x1b[31m";
        let safe = text(hostile);
        assert!(!safe.contains(['<', '>', '"', '\'', '\x1b', '\u{202e}']), "{safe}");
        assert!(safe.contains("&lt;script&gt;") && safe.contains("y &amp; "), "{safe}");
    }

    #[test]
    fn a_column_without_cells_is_left_out() {
        let rows = [vec!["1".to_owned(), String::new()], vec!["2".to_owned(), String::new()]];
        let made = table("x", &["rank", "log"], &rows);
        assert!(made.contains("<th scope=\"col\">rank</th>") && !made.contains("log"), "{made}");
    }
}
