//! What the terminal that a text is for can show.

use std::collections::BTreeMap;
use std::io::IsTerminal;

/// Columns where nobody says how many there are.
const COLUMNS: usize = 80;

/// What a text may consist of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Columns.
    pub width: usize,
    /// Whether it may be coloured.
    pub colour: bool,
    /// Whether it may hold more than ASCII.
    pub unicode: bool,
}

impl Look {
    /// The look of stdout, by the process's environment.
    #[must_use]
    pub fn of_stdout(environment: &BTreeMap<String, String>) -> Self {
        let stdout = std::io::stdout();
        let size = rustix::termios::tcgetwinsize(&stdout).ok().filter(|_| stdout.is_terminal());
        Self::from(environment, stdout.is_terminal(), size.map(|size| usize::from(size.ws_col)))
    }

    fn from(environment: &BTreeMap<String, String>, terminal: bool, columns: Option<usize>) -> Self {
        let get = |name: &str| environment.get(name).filter(|value| !value.is_empty()).map(String::as_str);
        let dumb = get("TERM").is_none_or(|term| term == "dumb");
        // The first of these that is set decides, as in the C library.
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(get).unwrap_or_default().to_lowercase();
        let columns =
            columns.filter(|columns| *columns > 0).or_else(|| get("COLUMNS").and_then(|text| text.parse().ok()));
        Self {
            width: columns.unwrap_or(COLUMNS),
            colour: terminal && !dumb && get("NO_COLOR").is_none(),
            unicode: locale.ends_with("utf-8") || locale.ends_with("utf8"),
        }
    }

    /// The text in a colour of the terminal, by its number in an escape sequence.
    #[must_use]
    pub fn paint(self, colour: u8, text: &str) -> String {
        if self.colour { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_asked_for_what_it_can() {
        let look = |pairs: &[(&str, &str)], terminal, columns| {
            let all = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let look = Look::from(&all, terminal, columns);
            (look.width, look.colour, look.unicode)
        };
        let xterm = ("TERM", "xterm-256color");
        assert_eq!(look(&[xterm, ("LANG", "de_DE.UTF-8")], true, Some(132)), (132, true, true));
        assert_eq!(look(&[xterm, ("LANG", "en_US.utf8"), ("LC_ALL", "C")], true, Some(0)), (80, true, false));
        assert_eq!(look(&[xterm, ("NO_COLOR", "1"), ("LC_CTYPE", "C.UTF-8")], true, Some(80)), (80, false, true));
        assert_eq!(look(&[xterm, ("NO_COLOR", ""), ("COLUMNS", "100")], true, None), (100, true, false));
        assert_eq!(look(&[("TERM", "dumb")], true, Some(80)), (80, false, false));
        assert_eq!(look(&[xterm], false, None), (80, false, false));
    }
}
