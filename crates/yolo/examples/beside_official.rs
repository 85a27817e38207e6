//! What this crate computes for tensors in a file, for a comparison with the official package: see tests/python.
//!
//!     beside_official predict|loss|metric yolov8n CLASSES IN.safetensors OUT.safetensors

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

use evenkeel_yolo::checkpoint::{self, Value};
use evenkeel_yolo::loss::{Assignment, Gains, Object, Objects, loss};
use evenkeel_yolo::metric::Tally;
use evenkeel_yolo::network::Network;
use evenkeel_yolo::nms::Detection;
use evenkeel_yolo::weights;
use tch::{Device, Kind, Tensor};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [mode, scale, classes, input, output] = &arguments[..] else {
        return Err("usage: beside_official predict|loss|metric MODEL CLASSES IN OUT".into());
    };
    tch::set_num_threads(1);
    let classes: i64 = classes.parse()?;
    let given = checkpoint::read(Path::new(input))?.tensors;
    let out = if mode == "metric" {
        metric(&given, classes as usize)?
    } else {
        // Kernels in rows, as the official package has them: another layout sums in another order.
        let mut network = Network::new(scale.parse()?, classes, Device::Cpu, 0, false);
        weights::fill(&network, &given)?;
        match mode.as_str() {
            "predict" => predict(&network, &given),
            "loss" => losses(&mut network, &given)?,
            other => return Err(format!("unknown mode `{other}`").into()),
        }
    };
    let out: Vec<Value> = out.iter().map(|(name, tensor)| Value::of(name, tensor)).collect();
    checkpoint::write(Path::new(output), &out, &BTreeMap::new(), false)?;
    Ok(())
}

fn predict(network: &Network, given: &BTreeMap<String, Tensor>) -> Vec<(String, Tensor)> {
    let (boxes, scores) = network.model.predict(&given["images"]);
    vec![("boxes".into(), boxes.contiguous()), ("scores".into(), scores.contiguous())]
}

/// `labels` are rows of image, class and corners in pixels.
fn losses(network: &mut Network, given: &BTreeMap<String, Tensor>) -> Result<Vec<(String, Tensor)>, Box<dyn Error>> {
    network.prepare_gradients(network.parameters.zeros_like());
    let model = &network.model;
    let images = &given["images"];
    let objects = objects(&given["labels"], images.size()[0] as usize)?;
    let levels = model.forward(images, true);
    let terms = loss(&levels, &Objects::new(&objects, Device::Cpu), &Assignment::default());
    let count = images.size()[0] as f64;
    let each = terms.each(&Gains::default());
    (each.sum(Kind::Float) * count / terms.divisor()).backward();
    let mut out = vec![("terms".to_owned(), each.detach() / terms.divisor())];
    let _guard = tch::no_grad_guard();
    let _ = network.statistics.lerp_(model.norms().batch(), 0.03);
    for (name, variable) in network.variables() {
        if variable.requires_grad() {
            out.push((format!("gradient.{name}"), variable.grad().contiguous()));
        } else {
            out.push((name, variable.contiguous()));
        }
    }
    Ok(out)
}

fn objects(labels: &Tensor, images: usize) -> Result<Vec<Vec<Object>>, Box<dyn Error>> {
    let mut all = vec![Vec::new(); images];
    for row in Vec::<Vec<f32>>::try_from(labels)? {
        all[row[0] as usize].push(Object { class: row[1] as i64, corners: [row[2], row[3], row[4], row[5]] });
    }
    Ok(all)
}

/// `detections` are rows of image, corners, confidence and class.
fn metric(given: &BTreeMap<String, Tensor>, classes: usize) -> Result<Vec<(String, Tensor)>, Box<dyn Error>> {
    let images = given["images"].double_value(&[0]) as usize;
    let objects = objects(&given["labels"], images)?;
    let mut found = vec![Vec::new(); images];
    for row in Vec::<Vec<f32>>::try_from(&given["detections"])? {
        let corners = [row[1], row[2], row[3], row[4]];
        found[row[0] as usize].push(Detection { corners, confidence: row[5], class: row[6] as usize });
    }
    let mut tally = Tally::new(classes);
    for (found, objects) in found.iter().zip(&objects) {
        tally.add(found, objects);
    }
    let mean = tally.outcome().mean;
    let figures = Tensor::from_slice(&[mean.precision, mean.recall, mean.ap50, mean.ap50_95]);
    Ok(vec![("figures".into(), figures.to_kind(Kind::Double))])
}
