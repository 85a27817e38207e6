//! Whether a machine can run an image's CUDA: told before anything is built. Pure.

use super::{ComputeCapability, CudaVersion, Device, Host};
use crate::error::{ExitCode, Failure};

/// What of an engine decides whether its containers can have GPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineFacts {
    /// Names of its runtimes, as its info lists them.
    pub runtimes: Vec<String>,
    /// Whether a device specification of NVIDIA's is in one of its CDI folders.
    pub cdi_spec_found: bool,
    /// Whether `nvidia-container-runtime-hook`, which the engine itself looks for, is on its PATH.
    pub hook_on_path: bool,
    /// Whether `nvidia-ctk`, which sets an engine up, is on the PATH.
    pub configurator_on_path: bool,
}

/// Why a machine with GPUs cannot train on them yet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    /// The driver is older than the image's CUDA needs.
    #[error("the NVIDIA driver {found} is too old for the image's CUDA {cuda}, which needs {needed} or newer")]
    DriverTooOld {
        /// The driver's version.
        found: String,
        /// The image's CUDA.
        cuda: CudaVersion,
        /// What is needed, as a version of the driver.
        needed: String,
    },
    /// The card is older than the image's CUDA supports.
    #[error("{device} has compute capability {found}, and the image's CUDA {cuda} needs {needed} or newer")]
    CardTooOld {
        /// The card.
        device: String,
        /// Its generation.
        found: ComputeCapability,
        /// The image's CUDA.
        cuda: CudaVersion,
        /// The oldest generation that it supports.
        needed: ComputeCapability,
    },
    /// The engine cannot give GPUs to containers.
    #[error("the engine cannot give GPUs to containers: the NVIDIA Container Toolkit is missing")]
    NoToolkit,
    /// The toolkit is there, and the engine does not know of it.
    #[error(
        "the engine cannot give GPUs to containers: it does not know the NVIDIA Container Toolkit that is installed"
    )]
    ToolkitNotConfigured,
}

impl NotReady {
    /// The nearest way out.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::DriverTooOld { needed, .. } => format!(
                "install driver {needed} or newer (`sudo apt install nvidia-driver` where it is packaged), or train on \
                 `device=cpu:2`"
            ),
            Self::CardTooOld { .. } => {
                "leave the card out (`device=` names the others), or train on `device=cpu:2`".to_owned()
            }
            Self::NoToolkit => {
                "add NVIDIA's package repository, then: sudo apt install nvidia-container-toolkit && sudo \
                                nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker"
                    .to_owned()
            }
            Self::ToolkitNotConfigured => {
                "sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker".to_owned()
            }
        }
    }
}

impl From<NotReady> for Failure {
    fn from(error: NotReady) -> Self {
        let hint = error.hint();
        Self::new(ExitCode::MachineNotReady, error).hint(hint)
    }
}

/// The oldest branch of the driver that runs programs of CUDA `major`, by NVIDIA's rule that a driver runs every minor
/// version of a CUDA that it knows. None: a CUDA that was not known when this was written.
#[must_use]
pub fn oldest_driver(major: u32) -> Option<u32> {
    match major {
        11 => Some(450),
        12 => Some(525),
        13 => Some(580),
        _ => None,
    }
}

/// The oldest cards that CUDA `major` has code for.
#[must_use]
pub fn oldest_card(major: u32) -> Option<ComputeCapability> {
    match major {
        11 => Some(ComputeCapability { major: 3, minor: 5 }),
        12 => Some(ComputeCapability { major: 5, minor: 0 }),
        13 => Some(ComputeCapability { major: 7, minor: 5 }),
        _ => None,
    }
}

/// Checks that `host`'s driver and the GPUs among `devices` can run an image made for `cuda`. What could not be read
/// is not held against the machine.
///
/// # Errors
///
/// The driver or a card is too old.
pub fn check_cuda(host: &Host, devices: &[Device], cuda: CudaVersion) -> Result<(), NotReady> {
    if devices.iter().all(|device| device.id.uuid().is_none()) {
        return Ok(());
    }
    if let Some(found) = &host.driver {
        let branch = found.split('.').next().and_then(|branch| branch.parse::<u32>().ok());
        let too_old = |needed: String| NotReady::DriverTooOld { found: found.clone(), cuda, needed };
        match (branch, oldest_driver(cuda.major)) {
            (Some(branch), Some(needed)) if branch < needed => return Err(too_old(needed.to_string())),
            // Of a CUDA that is newer than this table, the driver itself says whether it knows it.
            (_, None) if host.cuda_driver.is_some_and(|newest| newest.major < cuda.major) => {
                return Err(too_old(format!("one for CUDA {}", cuda.major)));
            }
            _ => {}
        }
    }
    let Some(needed) = oldest_card(cuda.major) else {
        return Ok(());
    };
    for device in devices {
        if let Some(found) = device.compute_capability.filter(|found| *found < needed) {
            return Err(NotReady::CardTooOld { device: device.name.clone(), found, cuda, needed });
        }
    }
    Ok(())
}

/// Checks that an engine can give the GPUs among `devices` to containers.
///
/// # Errors
///
/// The toolkit is missing, or the engine does not know of it.
pub fn check_toolkit(devices: &[Device], engine: &EngineFacts) -> Result<(), NotReady> {
    let wants_gpus = devices.iter().any(|device| device.id.uuid().is_some());
    // `--gpus` needs the hook on the engine's PATH and nothing else; the runtime's name and a CDI specification are two
    // other signs of a toolkit that is set up.
    let known = engine.hook_on_path || engine.cdi_spec_found || engine.runtimes.iter().any(|name| name == "nvidia");
    match known || !wants_gpus {
        true => Ok(()),
        false if engine.configurator_on_path => Err(NotReady::ToolkitNotConfigured),
        false => Err(NotReady::NoToolkit),
    }
}

#[cfg(test)]
mod tests {
    use super::super::DeviceId;
    use super::*;

    const CUDA_13: CudaVersion = CudaVersion { major: 13, minor: 0 };

    fn gpu(capability: Option<(u32, u32)>) -> Device {
        Device {
            id: DeviceId::Gpu { index: 0, uuid: "GPU-1".into() },
            name: "GPU 0 (card)".into(),
            model: Some("card".into()),
            memory_budget_bytes: None,
            memory_cap_bytes: None,
            cpus: None,
            compute_capability: capability.map(|(major, minor)| ComputeCapability { major, minor }),
        }
    }

    fn cpu() -> Device {
        Device { id: DeviceId::Cpu { index: 0 }, cpus: Some(1.0), ..gpu(None) }
    }

    fn host(driver: Option<&str>, newest: Option<u32>) -> Host {
        let cuda_driver = newest.map(|major| CudaVersion { major, minor: 0 });
        Host { cpus: 2, driver: driver.map(str::to_owned), cuda_driver, ..Host::default() }
    }

    #[test]
    fn an_old_driver_is_told_with_what_is_needed() {
        let error = check_cuda(&host(Some("570.124.06"), Some(12)), &[gpu(None)], CUDA_13).expect_err("570 < 580");
        assert_eq!(
            error.to_string(),
            "the NVIDIA driver 570.124.06 is too old for the image's CUDA 13.0, which needs 580 or newer"
        );
        assert_eq!(
            check_cuda(&host(Some("570.124.06"), Some(12)), &[gpu(None)], CudaVersion { major: 12, minor: 8 }),
            Ok(())
        );
        assert_eq!(check_cuda(&host(Some("580.65.06"), Some(13)), &[gpu(None)], CUDA_13), Ok(()));
        assert_eq!(check_cuda(&host(Some("570.124.06"), Some(12)), &[cpu()], CUDA_13), Ok(()), "no GPU is used");
    }

    #[test]
    fn a_driver_that_cannot_be_read_is_not_held_against_the_machine() {
        assert_eq!(check_cuda(&host(None, None), &[gpu(None)], CUDA_13), Ok(()));
        assert_eq!(check_cuda(&host(Some("strange"), Some(13)), &[gpu(None)], CUDA_13), Ok(()));
    }

    #[test]
    fn a_cuda_of_the_future_is_left_to_the_driver() {
        let cuda = CudaVersion { major: 14, minor: 1 };
        assert_eq!(check_cuda(&host(Some("620.1"), Some(14)), &[gpu(None)], cuda), Ok(()));
        assert!(matches!(
            check_cuda(&host(Some("580.1"), Some(13)), &[gpu(None)], cuda),
            Err(NotReady::DriverTooOld { .. })
        ));
    }

    #[test]
    fn a_card_that_cuda_13_left_behind_is_named() {
        let host = host(Some("580.65.06"), Some(13));
        let error = check_cuda(&host, &[gpu(Some((8, 6))), gpu(Some((7, 0)))], CUDA_13).expect_err("Volta");
        assert!(matches!(error, NotReady::CardTooOld { found: ComputeCapability { major: 7, minor: 0 }, .. }));
        assert_eq!(check_cuda(&host, &[gpu(Some((7, 5))), gpu(None)], CUDA_13), Ok(()));
    }

    #[test]
    fn any_sign_of_the_toolkit_is_enough() {
        let none = EngineFacts { runtimes: vec!["runc".into()], ..EngineFacts::default() };
        assert_eq!(check_toolkit(&[gpu(None)], &none), Err(NotReady::NoToolkit));
        assert_eq!(check_toolkit(&[cpu()], &none), Ok(()), "no GPU is used");
        let signs = [
            EngineFacts { runtimes: vec!["runc".into(), "nvidia".into()], ..EngineFacts::default() },
            EngineFacts { cdi_spec_found: true, ..EngineFacts::default() },
            EngineFacts { hook_on_path: true, ..EngineFacts::default() },
        ];
        for facts in signs {
            assert_eq!(check_toolkit(&[gpu(None)], &facts), Ok(()), "{facts:?}");
        }
        let installed = EngineFacts { configurator_on_path: true, ..none };
        assert_eq!(check_toolkit(&[gpu(None)], &installed), Err(NotReady::ToolkitNotConfigured));
    }
}
