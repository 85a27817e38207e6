//! A network's weights under the names of the official state dict.

use std::collections::BTreeMap;

use tch::{Device, Kind, Tensor};

use crate::network::Network;

/// Weights are of another model.
#[derive(Debug, thiserror::Error)]
#[error("the weights are of another model: {0}")]
pub struct Other(String);

/// Sets every variable of a network.
///
/// # Errors
///
/// One is missing or has another shape; then nothing was changed.
pub fn fill(network: &Network, weights: &BTreeMap<String, Tensor>) -> Result<(), Other> {
    let variables = network.variables();
    for (name, variable) in &variables {
        let Some(found) = weights.get(name) else { return Err(Other(format!("there is no `{name}`"))) };
        if found.size() != variable.size() {
            return Err(Other(format!("`{name}` is {:?}, not {:?}", found.size(), variable.size())));
        }
    }
    let _guard = tch::no_grad_guard();
    for (name, mut variable) in variables {
        variable.copy_(&weights[&name]);
    }
    Ok(())
}

/// Sets the variables of a network for which there are weights of their shape: of a network for other classes, all but the last layer's.
/// Returns how many were set, and how many there are.
///
/// # Errors
///
/// None fits.
pub fn transfer(network: &Network, weights: &BTreeMap<String, Tensor>) -> Result<(usize, usize), Other> {
    let _guard = tch::no_grad_guard();
    let variables = network.variables();
    let (mut set, all) = (0, variables.len());
    for (name, mut variable) in variables {
        if let Some(found) = weights.get(&name).filter(|found| found.size() == variable.size()) {
            variable.copy_(found);
            set += 1;
        }
    }
    if set == 0 { Err(Other("none has a name and a shape of this one".into())) } else { Ok((set, all)) }
}

/// A tensor's values row by row, as f32 in little-endian order, in memory that no device's cap counts.
#[must_use]
pub fn bytes(tensor: &Tensor) -> Vec<u8> {
    let _guard = tch::no_grad_guard();
    let tensor = tensor.detach().to_device(Device::Cpu).to_kind(Kind::Float).contiguous();
    let mut bytes = vec![0; 4 * tensor.numel()];
    tensor.copy_data_u8(&mut bytes, tensor.numel());
    bytes
}
