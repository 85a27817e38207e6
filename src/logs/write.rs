//! A line of a log as it is printed. Pure.

use serde_json::json;

use super::lines::Line;

/// Colours of the ranks on a terminal, by their numbers in an escape sequence; as many as can be told apart.
const COLOURS: [u8; 6] = [36, 33, 32, 35, 34, 91];

/// How lines are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As the program wrote it.
    Raw,
    /// Behind its rank, as `docker compose logs` does it.
    Prefixed {
        /// Digits of the highest rank.
        digits: usize,
        /// Whether the rank is coloured.
        colour: bool,
        /// Whether a carriage return takes the cursor back to the beginning of the line.
        terminal: bool,
    },
    /// As an object of JSON.
    Json,
}

impl Form {
    /// Adds a line to `out`.
    pub fn write(self, rank: u32, line: &Line, out: &mut Vec<u8>) {
        let text = line.bytes.strip_suffix(b"\n").unwrap_or(&line.bytes);
        match self {
            Self::Raw => out.extend_from_slice(&line.bytes),
            Self::Json => {
                let time = (line.time_ms > 0).then_some(line.time_ms);
                let object = json!({ "rank": rank, "time_ms": time, "text": String::from_utf8_lossy(text) });
                out.extend_from_slice(object.to_string().as_bytes());
                out.push(b'\n');
            }
            Self::Prefixed { digits, colour, terminal } => {
                let prefix = prefix(rank, digits, colour);
                out.extend_from_slice(prefix.as_bytes());
                // What comes after it would stand in place of the rank; one before the line feed moves nothing.
                let (text, end) = match text.strip_suffix(b"\r") {
                    Some(text) if terminal => (text, &b"\r\n"[..]),
                    _ => (text, &b"\n"[..]),
                };
                let mut pieces = text.split(|byte| terminal && *byte == b'\r');
                out.extend_from_slice(pieces.next().unwrap_or_default());
                for piece in pieces {
                    out.push(b'\r');
                    out.extend_from_slice(prefix.as_bytes());
                    out.extend_from_slice(piece);
                }
                out.extend_from_slice(end);
            }
        }
    }
}

fn prefix(rank: u32, digits: usize, colour: bool) -> String {
    let prefix = format!("rank {rank:<digits$} | ");
    match COLOURS[rank as usize % COLOURS.len()] {
        number if colour => format!("\x1b[{number}m{prefix}\x1b[0m"),
        _ => prefix,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(form: Form, rank: u32, bytes: &[u8]) -> String {
        let mut out = Vec::new();
        form.write(rank, &Line { time_ms: 7, bytes: bytes.to_vec() }, &mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn a_line_stands_behind_its_rank() {
        let plain = Form::Prefixed { digits: 2, colour: false, terminal: false };
        assert_eq!(written(plain, 3, b"text\n"), "rank 3  | text\n");
        assert_eq!(written(plain, 13, b"no end"), "rank 13 | no end\n");
        assert_eq!(written(plain, 0, b"10%\r20%\r\n"), "rank 0  | 10%\r20%\r\n");
        assert_eq!(written(plain, 0, b"\n"), "rank 0  | \n");
    }

    #[test]
    fn a_bar_on_a_terminal_does_not_cover_its_rank() {
        let terminal = Form::Prefixed { digits: 1, colour: false, terminal: true };
        assert_eq!(written(terminal, 0, b"10%\r20%\r\n"), "rank 0 | 10%\rrank 0 | 20%\r\n");
        let coloured = Form::Prefixed { digits: 1, colour: true, terminal: true };
        assert_eq!(written(coloured, 1, b"x\n"), "\x1b[33mrank 1 | \x1b[0mx\n");
    }

    #[test]
    fn programs_get_objects_or_bytes() {
        assert_eq!(
            written(Form::Json, 1, b"a \"b\"\xff\n"),
            "{\"rank\":1,\"time_ms\":7,\"text\":\"a \\\"b\\\"\u{fffd}\"}\n"
        );
        let mut out = Vec::new();
        Form::Raw.write(1, &Line { time_ms: 0, bytes: b"\xff\x00".to_vec() }, &mut out);
        assert_eq!(out, b"\xff\x00");
    }
}
