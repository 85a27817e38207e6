//! Takes credentials out of text before a person or a record sees it. Pure.

use std::borrow::Cow;

/// Replaces what stands between `//` and `@` in every URL by `***`.
#[must_use]
pub fn redact(text: &str) -> Cow<'_, str> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("://") {
        let (before, after) = rest.split_at(start + 3);
        let authority = after.find(|c: char| c.is_whitespace() || "/?#\"'`<>,|".contains(c)).unwrap_or(after.len());
        out.push_str(before);
        rest = after;
        // A password may hold an `@` of its own: the last one ends it.
        if let Some(at) = after[..authority].rfind('@') {
            out.push_str("***");
            rest = &after[at..];
        }
    }
    if out.is_empty() { Cow::Borrowed(text) } else { Cow::Owned(out + rest) }
}

/// Whether a text holds a URL with credentials.
#[must_use]
pub fn has_credentials(text: &str) -> bool {
    redact(text) != text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_go_and_the_rest_stays() {
        assert_eq!(
            redact("Looking in https://me:pass@host/simple, http://t@b"),
            "Looking in https://***@host/simple, http://***@b"
        );
        assert_eq!(redact("x://a:p@ss@h y"), "x://***@h y");
    }

    #[test]
    fn an_at_sign_in_a_path_is_no_credential() {
        for text in ["https://host/a@b", "me@host", "https://host:80 x@y", "no url"] {
            assert_eq!(redact(text), text);
            assert!(!has_credentials(text));
        }
    }
}
