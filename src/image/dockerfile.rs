//! The little that has to be known of a Dockerfile without building it. Pure.

use std::collections::BTreeMap;

/// The text up to the end of a stage: what can have a part in it. The whole text where the stage is not found or not named.
#[must_use]
pub fn until<'a>(text: &'a str, stage: &str) -> &'a str {
    let mut inside = false;
    let mut offset = 0;
    for line in text.split_inclusive('\n') {
        if let Some(from) = from(line) {
            if inside {
                return &text[..offset];
            }
            inside = !stage.is_empty() && from.stage.is_some_and(|name| name.eq_ignore_ascii_case(stage));
        }
        offset += line.len();
    }
    text
}

/// Names of the arguments that it declares.
pub fn arguments(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(argument).map(|(name, _)| name)
}

/// The default of an argument.
#[must_use]
pub fn default<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().filter_map(argument).find(|(found, _)| *found == name).and_then(|(_, value)| value)
}

/// Images of other Dockerfiles that it starts from or copies from, its arguments put in.
#[must_use]
pub fn images(text: &str, arguments: &BTreeMap<String, String>) -> Vec<String> {
    let mut known: BTreeMap<&str, &str> = BTreeMap::new();
    let (mut stages, mut found) = (Vec::new(), Vec::new());
    for line in text.lines() {
        // Only arguments before the first stage count in `FROM`.
        if let Some((name, value)) = argument(line).filter(|_| stages.is_empty()) {
            if let Some(value) = arguments.get(name).map(String::as_str).or(value) {
                known.insert(name, value);
            }
        } else if let Some(from) = from(line) {
            let image = expand(from.image, &known);
            if image != "scratch" && !stages.contains(&image) && !found.contains(&image) {
                found.push(image);
            }
            stages.push(from.stage.unwrap_or_default().to_owned());
        }
    }
    found
}

/// Whether it uses what only BuildKit understands.
#[must_use]
pub fn needs_buildkit(text: &str) -> bool {
    let heredoc = |line: &str| {
        let word = line.split_whitespace().next().unwrap_or("").to_ascii_uppercase();
        matches!(word.as_str(), "RUN" | "COPY" | "ADD") && line.contains("<<") && !line.contains("<<<")
    };
    text.lines().any(|line| {
        let line = line.trim_start();
        !line.starts_with('#') && (line.contains("--mount=") || line.contains("--link") || heredoc(line))
    })
}

struct From<'a> {
    image: &'a str,
    stage: Option<&'a str>,
}

fn from(line: &str) -> Option<From<'_>> {
    let mut words = line.split_whitespace();
    if !words.next()?.eq_ignore_ascii_case("FROM") {
        return None;
    }
    let mut words = words.skip_while(|word| word.starts_with("--"));
    let image = words.next()?;
    let stage = words.next().filter(|word| word.eq_ignore_ascii_case("AS")).and_then(|_| words.next());
    Some(From { image, stage })
}

fn argument(line: &str) -> Option<(&str, Option<&str>)> {
    let (word, rest) = line.trim().split_once(char::is_whitespace)?;
    if !word.eq_ignore_ascii_case("ARG") {
        return None;
    }
    match rest.trim().split_once('=') {
        Some((name, value)) => Some((name, Some(value.trim_matches('"')))),
        None => Some((rest.trim(), None)),
    }
}

/// Puts `$NAME`, `${NAME}` and `${NAME:-default}` in.
fn expand(text: &str, known: &BTreeMap<&str, &str>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find('$') {
        out.push_str(&rest[..start]);
        rest = &rest[start + 1..];
        let (inner, after) = match rest.strip_prefix('{').and_then(|braced| braced.split_once('}')) {
            Some((inner, after)) => (inner, after),
            None => rest.split_at(rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())),
        };
        let (name, fallback) = inner.split_once(":-").unwrap_or((inner, ""));
        out.push_str(known.get(name).copied().unwrap_or(fallback));
        rest = after;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "ARG ROOT=debian:stable\nFROM ${ROOT} AS one\nARG X=\"1\"\nRUN a\nFROM --platform=linux/amd64 one as two\nRUN b\n";

    #[test]
    fn a_stage_ends_where_the_next_begins() {
        assert!(until(TEXT, "one").ends_with("RUN a\n"));
        assert_eq!(until(TEXT, "two"), TEXT);
        assert_eq!(until(TEXT, ""), TEXT);
    }

    #[test]
    fn arguments_and_their_defaults_are_found() {
        assert_eq!(arguments(TEXT).collect::<Vec<_>>(), ["ROOT", "X"]);
        assert_eq!(default(TEXT, "X"), Some("1"));
    }

    #[test]
    fn only_images_from_outside_count() {
        assert_eq!(images(TEXT, &BTreeMap::new()), ["debian:stable"]);
        let given = BTreeMap::from([("ROOT".to_owned(), "mine".to_owned())]);
        assert_eq!(images(TEXT, &given), ["mine"]);
        assert_eq!(images("FROM a${B:-c}$D/e\nFROM scratch", &BTreeMap::new()), ["ac/e"]);
    }

    #[test]
    fn mounts_and_heredocs_need_buildkit() {
        assert!(!needs_buildkit(TEXT));
        assert!(needs_buildkit("FROM a\nRUN --mount=type=cache,target=/x y"));
        assert!(needs_buildkit("FROM a\nRUN <<EOF\nx\nEOF"));
        assert!(!needs_buildkit("FROM a\n# RUN --mount=type=cache\nRUN cat <<< word"));
    }
}
