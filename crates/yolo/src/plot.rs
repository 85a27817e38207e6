//! Pictures of what was learnt, as SVG: text that every browser shows, sharp at any size.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::ExtendedColorType;
use image::codecs::jpeg::JpegEncoder;

use crate::data::picture::Picture;
use crate::metric::{Matrix, RECALLS};
use crate::nms::Detection;

/// Colours of lines and boxes, told apart also by those who see few.
const COLOURS: [&str; 8] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442", "#000000"];
const FONT: &str = "font-family=\"sans-serif\" font-size=\"12\"";
/// Classes whose lines have a name beside them: more would cover each other.
const NAMED: usize = 12;

/// A drawing of so many units, on white.
struct Drawing {
    width: f64,
    height: f64,
    body: String,
}

impl Drawing {
    fn new(width: f64, height: f64) -> Self {
        Self { width, height, body: String::new() }
    }

    fn text(&mut self, x: f64, y: f64, more: &str, text: &str) {
        self.body.push_str(&format!("<text x=\"{x:.1}\" y=\"{y:.1}\" {FONT} {more}>{}</text>\n", escaped(text)));
    }

    fn rectangle(&mut self, x: f64, y: f64, width: f64, height: f64, style: &str) {
        let size = format!("width=\"{width:.1}\" height=\"{height:.1}\"");
        self.body.push_str(&format!("<rect x=\"{x:.1}\" y=\"{y:.1}\" {size} {style}/>\n"));
    }

    fn line(&mut self, points: impl Iterator<Item = (f64, f64)>, style: &str) {
        let points: Vec<String> = points.map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        self.body.push_str(&format!("<polyline points=\"{}\" fill=\"none\" {style}/>\n", points.join(" ")));
    }

    fn finish(self) -> String {
        let Self { width, height, body } = self;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n"
        )
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A line with its name.
#[derive(Clone, Debug)]
pub struct Curve {
    /// What it shows.
    pub name: String,
    /// Its points; those that are not finite are left out.
    pub points: Vec<(f64, f64)>,
}

/// A field of curves, with the ends of both axes written down.
fn field(drawing: &mut Drawing, at: (f64, f64), size: (f64, f64), title: &str, curves: &[Curve]) {
    let ((left, top), (width, height)) = (at, size);
    drawing.text(left + width / 2.0, top - 8.0, "text-anchor=\"middle\" font-weight=\"bold\"", title);
    drawing.rectangle(left, top, width, height, "fill=\"none\" stroke=\"#888\"");
    let finite = || curves.iter().flat_map(|curve| &curve.points).filter(|(x, y)| x.is_finite() && y.is_finite());
    let ends = |of: fn(&(f64, f64)) -> f64| {
        let (low, high) =
            finite().map(of).fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), value| (a.min(value), b.max(value)));
        // A single value has some room around it.
        if low < high { (low, high) } else { (low - 0.5, low + 0.5) }
    };
    if finite().next().is_none() {
        drawing.text(left + width / 2.0, top + height / 2.0, "text-anchor=\"middle\"", "nothing to show");
        return;
    }
    let ((x_low, x_high), (y_low, y_high)) = (ends(|it| it.0), ends(|it| it.1));
    let place = |(x, y): &(f64, f64)| {
        (left + (x - x_low) / (x_high - x_low) * width, top + height - (y - y_low) / (y_high - y_low) * height)
    };
    for (number, curve) in curves.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let points = curve.points.iter().filter(|(x, y)| x.is_finite() && y.is_finite()).map(place);
        drawing.line(points, &format!("stroke=\"{colour}\" stroke-width=\"1.5\""));
        if curves.len() > 1 && number < NAMED {
            let y = top + 14.0 + 14.0 * number as f64;
            drawing.text(left + width - 6.0, y, &format!("text-anchor=\"end\" fill=\"{colour}\""), &curve.name);
        }
    }
    drawing.text(left, top + height + 14.0, "", &short(x_low));
    drawing.text(left + width, top + height + 14.0, "text-anchor=\"end\"", &short(x_high));
    drawing.text(left - 4.0, top + height, "text-anchor=\"end\"", &short(y_low));
    drawing.text(left - 4.0, top + 10.0, "text-anchor=\"end\"", &short(y_high));
}

fn short(value: f64) -> String {
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Curves of a training over its epochs, a field for each of `fields`: its title and its curves.
#[must_use]
pub fn results(fields: &[(String, Vec<Curve>)]) -> String {
    const COLUMNS: usize = 4;
    let (width, height) = (230.0, 160.0);
    let rows = fields.len().div_ceil(COLUMNS) as f64;
    let mut drawing = Drawing::new(COLUMNS as f64 * (width + 60.0) + 10.0, rows * (height + 56.0) + 10.0);
    for (number, (title, curves)) in fields.iter().enumerate() {
        let (column, row) = ((number % COLUMNS) as f64, (number / COLUMNS) as f64);
        field(
            &mut drawing,
            (50.0 + column * (width + 60.0), 30.0 + row * (height + 56.0)),
            (width, height),
            title,
            curves,
        );
    }
    drawing.finish()
}

/// Precision over recall at an overlap of one half, for every class that has objects.
#[must_use]
pub fn precision_recall(curves: &[Option<Vec<f64>>], names: &[String]) -> String {
    let mut drawing = Drawing::new(560.0, 480.0);
    let curve = |(class, precisions): (usize, &Option<Vec<f64>>)| {
        let points =
            precisions.as_ref()?.iter().enumerate().map(|(at, value)| (at as f64 / (RECALLS - 1) as f64, *value));
        Some(Curve { name: name(names, class), points: points.collect() })
    };
    let all: Vec<Curve> = curves.iter().enumerate().filter_map(curve).collect();
    field(&mut drawing, (60.0, 30.0), (470.0, 400.0), "precision over recall, IoU 0.5", &all);
    drawing.finish()
}

/// What was taken for what: a column for each class that is there, a row for each that was said, background last in both.
#[must_use]
pub fn confusion(matrix: &Matrix, names: &[String]) -> String {
    let count = matrix.classes + 1;
    let cell = (640.0 / count as f64).clamp(8.0, 60.0);
    let (left, top) = (120.0, 60.0);
    let mut drawing = Drawing::new(left + cell * count as f64 + 20.0, top + cell * count as f64 + 110.0);
    drawing.text(left, 24.0, "font-weight=\"bold\"", "detections (rows) against objects (columns)");
    let label = |class: usize| if class == matrix.classes { "background".to_owned() } else { name(names, class) };
    for there in 0..count {
        let total: u64 = (0..count).map(|said| matrix.at(said, there)).sum();
        let x = left + cell * there as f64;
        let middle = x + cell / 2.0;
        let turned = format!(
            "text-anchor=\"end\" transform=\"rotate(-60 {middle:.1} {:.1})\"",
            top + cell * count as f64 + 14.0
        );
        drawing.text(middle, top + cell * count as f64 + 14.0, &turned, &label(there));
        for said in 0..count {
            let y = top + cell * said as f64;
            if there == 0 {
                drawing.text(left - 6.0, y + cell / 2.0 + 4.0, "text-anchor=\"end\"", &label(said));
            }
            let number = matrix.at(said, there);
            let share = number as f64 / total.max(1) as f64;
            drawing.rectangle(
                x,
                y,
                cell,
                cell,
                &format!("fill=\"#0072b2\" fill-opacity=\"{share:.3}\" stroke=\"#ddd\""),
            );
            if number > 0 && cell >= 24.0 {
                let colour = if share > 0.5 { "white" } else { "black" };
                drawing.text(
                    middle,
                    y + cell / 2.0 + 4.0,
                    &format!("text-anchor=\"middle\" fill=\"{colour}\""),
                    &number.to_string(),
                );
            }
        }
    }
    drawing.finish()
}

/// Some pictures with what was found in them, side by side.
///
/// # Errors
///
/// A picture cannot be encoded.
pub fn detections(pictures: &[(Picture, Vec<Detection>)], names: &[String]) -> Result<String, image::ImageError> {
    let columns = (pictures.len() as f64).sqrt().ceil().max(1.0) as usize;
    let widest = pictures.iter().map(|(picture, _)| picture.width).max().unwrap_or(1);
    let highest = pictures.iter().map(|(picture, _)| picture.height).max().unwrap_or(1);
    // Small pictures are shown larger.
    let scale = (240.0 / f64::from(widest.max(highest))).max(1.0);
    let (width, height) = (f64::from(widest) * scale + 8.0, f64::from(highest) * scale + 8.0);
    let mut drawing = Drawing::new(columns as f64 * width, pictures.len().div_ceil(columns) as f64 * height);
    for (number, (picture, found)) in pictures.iter().enumerate() {
        let (x, y) = ((number % columns) as f64 * width + 4.0, (number / columns) as f64 * height + 4.0);
        let mut jpeg = Vec::new();
        JpegEncoder::new_with_quality(&mut jpeg, 90).encode(
            &picture.rgb,
            picture.width,
            picture.height,
            ExtendedColorType::Rgb8,
        )?;
        let (w, h) = (f64::from(picture.width) * scale, f64::from(picture.height) * scale);
        let data = STANDARD.encode(jpeg);
        drawing.body.push_str(&format!(
            "<image x=\"{x:.1}\" y=\"{y:.1}\" width=\"{w:.1}\" height=\"{h:.1}\" href=\"data:image/jpeg;base64,{data}\"/>\n"
        ));
        for it in found {
            let colour = COLOURS[it.class % COLOURS.len()];
            let [x1, y1, x2, y2] = it.corners.map(|corner| f64::from(corner) * scale);
            drawing.rectangle(
                x + x1,
                y + y1,
                x2 - x1,
                y2 - y1,
                &format!("fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\""),
            );
            let label = format!("{} {:.2}", name(names, it.class), it.confidence);
            let outline = "stroke=\"white\" stroke-width=\"3\" paint-order=\"stroke\"";
            drawing.text(x + x1 + 2.0, (y + y1 - 3.0).max(y + 12.0), &format!("fill=\"{colour}\" {outline}"), &label);
        }
    }
    Ok(drawing.finish())
}

fn name(names: &[String], class: usize) -> String {
    names.get(class).cloned().unwrap_or_else(|| class.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawings_are_well_formed_whatever_they_show() {
        let names = ["<a & b>".to_owned(), "c\"d".to_owned()];
        let curve = |points: &[(f64, f64)]| Curve { name: names[0].clone(), points: points.to_vec() };
        let mut matrix = Matrix::new(2);
        matrix.add(0, 1);
        let found = vec![Detection { corners: [1.0, 2.0, 8.0, 9.0], confidence: 0.5, class: 7 }];
        for drawn in [
            results(&[
                ("loss".into(), vec![curve(&[(1.0, f64::NAN), (2.0, 1.0)]), curve(&[])]),
                ("none".into(), vec![]),
            ]),
            precision_recall(&[None, Some(vec![1.0; RECALLS])], &names),
            precision_recall(&[], &names),
            confusion(&matrix, &names),
            detections(&[(Picture::plain(16, 12, 9), found), (Picture::plain(10, 20, 200), vec![])], &names)
                .expect("encoded"),
            detections(&[], &names).expect("nothing to encode"),
        ] {
            assert!(drawn.starts_with("<svg ") && drawn.ends_with("</svg>\n"), "{drawn}");
            assert!(!drawn.contains("<a &") && !drawn.contains("NaN") && !drawn.contains("inf"), "{drawn}");
            let opened = drawn.matches('<').count();
            assert_eq!(opened, drawn.matches('>').count(), "{drawn}");
        }
    }
}
