//! Which of a trainer's pictures are shown, and how. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::markup::text;
use super::{Picture, PictureKind, Report};

/// Bytes of one picture, at most.
pub const LARGEST: u64 = 1 << 20;
/// Bytes of all of them, at most. In the page they take a third more.
pub const ALL: u64 = 1_280_000;
/// Pictures, at most.
pub const MOST: usize = 8;

/// What a file's name says of the picture in it; nothing for one that a report does not show.
pub fn kind(name: &str) -> Option<PictureKind> {
    let (stem, ending) = name.rsplit_once('.')?;
    if !["jpg", "jpeg", "png", "webp", "svg"].contains(&ending.to_ascii_lowercase().as_str()) {
        return None;
    }
    match stem {
        _ if stem.starts_with("val") && stem.ends_with("_pred") => Some(PictureKind::Prediction),
        _ if stem.starts_with("val") && stem.ends_with("_labels") => Some(PictureKind::Label),
        "confusion_matrix" | "confusion_matrix_normalized" => Some(PictureKind::Curve),
        _ if stem == "PR_curve" || stem == "BoxPR_curve" => Some(PictureKind::Curve),
        _ => None,
    }
}

/// The media type of a picture by how it begins; nothing for what is none.
pub fn media(bytes: &[u8]) -> Option<&'static str> {
    let starts = |magic: &[u8]| bytes.starts_with(magic);
    if starts(b"\xff\xd8\xff") {
        Some("image/jpeg")
    } else if starts(b"\x89PNG\r\n\x1a\n") {
        Some("image/png")
    } else if starts(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
        Some("image/webp")
    } else if starts(b"<svg") || starts(b"<?xml") {
        // As the source of an image it runs no script and asks nobody for anything.
        Some("image/svg+xml")
    } else {
        None
    }
}

/// The pictures as HTML, and what became of the others.
pub fn gallery(report: &Report) -> String {
    let mut shown = String::new();
    for (kind, title) in [
        (PictureKind::Prediction, "Predictions"),
        (PictureKind::Label, "Labels of the same images"),
        (PictureKind::Curve, "Curves and matrices"),
    ] {
        let pictures: String =
            report.pictures.iter().filter(|picture| picture.kind == kind).map(|picture| one(picture, title)).collect();
        if !pictures.is_empty() {
            shown.push_str(&format!("<h3>{title}</h3>\n<div class=\"pictures\">\n{pictures}</div>\n"));
        }
    }
    if report.pictures.is_empty() && report.left_out.is_empty() {
        return "<p class=\"none\">The trainer left no pictures: it draws them at its end, and not where it was asked not to (<code>plots: \
                false</code>).</p>\n"
            .to_owned();
    }
    if !report.left_out.is_empty() {
        let names: Vec<String> = report.left_out.iter().map(|name| format!("<code>{}</code>", text(name))).collect();
        shown.push_str(&format!(
            "<p class=\"note\">A report holds up to {MOST} pictures of {:.1} MB together. In the record there are also {}.</p>\n",
            ALL as f64 / 1e6,
            names.join(", ")
        ));
    }
    shown
}

fn one(picture: &Picture, title: &str) -> String {
    let name = text(&picture.name);
    let content = STANDARD.encode(&picture.bytes);
    format!(
        "<figure class=\"picture\"><img alt=\"{title}: {name}\" src=\"data:{};base64,{content}\"><figcaption>{name}</figcaption></figure>\n",
        picture.media
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_known_by_name_and_by_content() {
        for (name, expected) in [
            ("val_batch0_pred.jpg", Some(PictureKind::Prediction)),
            ("val_pred.svg", Some(PictureKind::Prediction)),
            ("val_batch2_labels.jpg", Some(PictureKind::Label)),
            ("confusion_matrix.png", Some(PictureKind::Curve)),
            ("BoxPR_curve.png", Some(PictureKind::Curve)),
            ("results.png", None),
            ("train_batch0.jpg", None),
            ("val_pred.html", None),
            ("val_pred", None),
        ] {
            assert_eq!(kind(name), expected, "{name}");
        }
        assert_eq!(media(b"\xff\xd8\xff\xe0"), Some("image/jpeg"));
        assert_eq!(media(b"RIFF\0\0\0\0WEBPVP8 "), Some("image/webp"));
        assert_eq!((media(b"<html>"), media(b""), media(b"RIFF")), (None, None, None));
    }
}
