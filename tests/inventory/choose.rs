//! What a wish for devices gives, on machines drawn at random and on a few drawn by hand.

use std::collections::BTreeSet;

use evenkeel::error::{ExitCode, Failure};
use evenkeel::inventory::lock::Holder;
use evenkeel::inventory::{
    Availability, ComputeCapability, CpuShare, DeviceId, DeviceRequest, Gpu, GpuName, Host, Inventory, Memory, Mig,
    Process, SelectError, SelectOptions, Selection, availability, ready, select,
};

const GIB: u64 = 1 << 30;

/// SplitMix64: the same machines every time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits ^ (bits >> 31)) % sides
    }

    fn gpu(&mut self, index: u32, prefix: &str) -> Gpu {
        let total_bytes = (1 + self.roll(80)) * GIB;
        let process = |pid| Process { pid, used_bytes: None, name: None, user: None };
        let mut gpu = Gpu {
            index,
            uuid: (self.roll(12) > 0).then(|| format!("{prefix}-{:012x}-{index}", self.roll(1 << 40))),
            memory: (self.roll(8) > 0).then(|| Memory { total_bytes, free_bytes: self.roll(total_bytes + 1) }),
            mig: (self.roll(12) > 0).then_some(Mig::Disabled),
            compute_processes: (self.roll(8) > 0).then(Vec::new),
            graphics_processes: (self.roll(8) > 0).then(Vec::new),
            ..Gpu::default()
        };
        if self.roll(3) == 0 {
            gpu.compute_processes = Some(vec![process(100 + index)]);
        }
        if self.roll(3) == 0 {
            gpu.graphics_processes = Some(vec![process(100 + index)]);
        }
        if self.roll(6) == 0 {
            gpu.held_by = Some(Holder { pid: 7, run: "shapes/1".into(), ..Holder::default() });
        }
        if prefix == "GPU" && self.roll(6) == 0 {
            let instances = (0..self.roll(4)).map(|number| self.gpu(number as u32, "MIG")).collect();
            gpu.mig = Some(Mig::Enabled { instances });
        }
        gpu
    }

    fn machine(&mut self) -> Inventory {
        let gpus = (0..self.roll(9)).map(|index| self.gpu(index as u32, "GPU")).collect();
        let host = Host { cpus: 1 + self.roll(64) as u32, memory_bytes: Some(64 * GIB), ..Host::default() };
        Inventory { gpus, note: None, ..Inventory::without_gpus(host, "") }
    }
}

fn is_free(gpu: &Gpu) -> bool {
    matches!(availability(gpu), Availability::Free { .. })
}

fn everything(inventory: &Inventory) -> Vec<&Gpu> {
    inventory.gpus.iter().flat_map(|card| std::iter::once(card).chain(card.instances())).collect()
}

/// What holds of every selection on GPUs that were not named.
fn check_chosen(inventory: &Inventory, selection: &Selection) {
    let uuids: BTreeSet<&str> = selection.devices.iter().filter_map(|device| device.id.uuid()).collect();
    assert_eq!(uuids.len(), selection.devices.len(), "no device twice");
    for uuid in &uuids {
        let gpu = everything(inventory).into_iter().find(|gpu| gpu.uuid.as_deref() == Some(uuid)).expect("there");
        assert!(is_free(gpu), "{gpu:?}");
    }
    if uuids.iter().any(|uuid| uuid.starts_with("MIG")) {
        assert_eq!(uuids.len(), 1, "an instance is alone");
    }
}

#[test]
fn auto_takes_every_free_card_in_order_and_names_the_others() {
    let mut dice = Dice(1);
    let (mut on_gpus, mut on_cpus, mut none) = (0, 0, 0);
    for _ in 0..2000 {
        let machine = dice.machine();
        let free: Vec<u32> = machine.gpus.iter().filter(|gpu| is_free(gpu)).map(|gpu| gpu.index).collect();
        match select(&machine, &DeviceRequest::Auto, &SelectOptions::default()) {
            Ok(selection) if machine.gpus.is_empty() => {
                on_cpus += 1;
                assert_eq!(selection.devices.len() as u32, machine.host.cpus.min(2));
                let cpus: f64 = selection.devices.iter().filter_map(|device| device.cpus).sum();
                assert!((cpus - f64::from(machine.host.cpus)).abs() < 1e-9);
            }
            Ok(selection) => {
                on_gpus += 1;
                check_chosen(&machine, &selection);
                let taken: Vec<u32> = selection
                    .devices
                    .iter()
                    .map(|device| match device.id {
                        DeviceId::Gpu { index, .. } => index,
                        DeviceId::Cpu { .. } => panic!("a CPU beside GPUs"),
                    })
                    .collect();
                if free.is_empty() {
                    assert_eq!(taken.len(), 1, "one instance");
                } else {
                    assert_eq!(taken, free);
                }
                for gpu in machine.gpus.iter().filter(|gpu| !is_free(gpu) && gpu.instances().is_empty()) {
                    let start = format!("GPU {} is left out: ", gpu.index);
                    assert!(selection.reasons.iter().any(|reason| reason.starts_with(&start)), "{start}");
                }
            }
            Err(SelectError::NoneFree { left_out }) => {
                none += 1;
                assert!(everything(&machine).into_iter().all(|gpu| !is_free(gpu)));
                assert!(left_out.len() >= machine.gpus.iter().filter(|gpu| gpu.instances().is_empty()).count());
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(on_gpus > 500 && on_cpus > 100 && none > 100, "all three were met: {on_gpus}, {on_cpus}, {none}");
}

#[test]
fn a_count_is_met_exactly_or_refused_with_what_can_be_had() {
    let mut dice = Dice(2);
    for _ in 0..2000 {
        let machine = dice.machine();
        let wanted = dice.roll(5) as u32;
        let free = machine.gpus.iter().filter(|gpu| is_free(gpu)).count();
        match select(&machine, &DeviceRequest::Count(wanted), &SelectOptions::default()) {
            Ok(selection) => {
                assert_eq!(selection.devices.len(), wanted as usize);
                check_chosen(&machine, &selection);
            }
            Err(SelectError::NoDevices) => assert_eq!(wanted, 0),
            Err(SelectError::NoGpus { .. }) => assert!(machine.gpus.is_empty()),
            Err(SelectError::NotEnough { free: told, .. }) => {
                assert_eq!(told, free);
                assert!(free < wanted as usize);
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn named_cards_come_in_the_order_named() {
    let mut dice = Dice(3);
    let mut met = 0;
    for _ in 0..2000 {
        let machine = dice.machine();
        let mut names: Vec<u32> = (0..machine.gpus.len() as u32).collect();
        for index in (1..names.len()).rev() {
            names.swap(index, dice.roll(index as u64 + 1) as usize);
        }
        names.truncate(2);
        let request = DeviceRequest::Gpus(names.iter().copied().map(GpuName::Index).collect());
        let Ok(selection) = select(&machine, &request, &SelectOptions::default()) else { continue };
        met += 1;
        let expected: Vec<_> = names.iter().map(|index| machine.gpus[*index as usize].uuid.as_deref()).collect();
        assert_eq!(selection.devices.iter().map(|device| device.id.uuid()).collect::<Vec<_>>(), expected);
    }
    assert!(met > 100, "{met}");
}

fn card(index: u32) -> Gpu {
    Gpu {
        index,
        uuid: Some(format!("GPU-{index}{index}{index}-abc")),
        name: Some("card".into()),
        memory: Some(Memory { total_bytes: 8 * GIB, free_bytes: 8 * GIB }),
        mig: Some(Mig::NotSupported),
        compute_processes: Some(Vec::new()),
        graphics_processes: Some(Vec::new()),
        ..Gpu::default()
    }
}

fn machine(gpus: Vec<Gpu>) -> Inventory {
    let host = Host { cpus: 4, memory_bytes: Some(16 * GIB), ..Host::default() };
    Inventory { gpus, note: None, ..Inventory::without_gpus(host, "") }
}

fn busy(index: u32) -> Gpu {
    let python = Process { pid: 42, used_bytes: Some(GIB), name: Some("python".into()), user: Some("alice".into()) };
    Gpu { compute_processes: Some(vec![python]), ..card(index) }
}

#[test]
fn the_cards_of_a_run_are_free_for_it_and_nobody_elses() {
    let held = Gpu { held_by: Some(Holder::default()), ..busy(1) };
    let inventory = machine(vec![busy(0), held, busy(2)]);
    let own: Vec<String> = [0, 1].map(|at: usize| inventory.gpus[at].uuid.clone().expect("a UUID")).into();
    let request = DeviceRequest::Gpus(own.iter().cloned().map(GpuName::Uuid).collect());
    assert!(ask(&inventory, request.clone()).is_err());
    let freed = inventory.without_users_of(&own);
    assert_eq!(ask(&freed, request), Ok(own));
    assert!(matches!(availability(&freed.gpus[2]), Availability::Busy { .. }));
}

fn ask(inventory: &Inventory, request: DeviceRequest) -> Result<Vec<String>, String> {
    ask_seeing(inventory, request, None).map(|(devices, _)| devices)
}

fn ask_seeing(
    inventory: &Inventory,
    request: DeviceRequest,
    cuda_visible_devices: Option<&str>,
) -> Result<(Vec<String>, Vec<String>), String> {
    let options = SelectOptions { cuda_visible_devices, ..SelectOptions::default() };
    let selection = select(inventory, &request, &options).map_err(|error| error.to_string())?;
    Ok((selection.devices.iter().map(|device| device.id.to_string()).collect(), selection.reasons))
}

fn uuid(text: &str) -> GpuName {
    GpuName::Uuid(text.to_owned())
}

#[test]
fn what_cannot_be_granted_is_said_with_names() {
    let split = Gpu { mig: Some(Mig::Enabled { instances: vec![card(7), card(8)] }), ..card(2) };
    let machine = machine(vec![card(0), busy(1), split]);
    let cases = [
        (vec![GpuName::Index(1)], "GPU 1 (card) is busy with pid 42 `python` of alice with 1.0 GiB"),
        (vec![GpuName::Index(5)], "there is no GPU `5`; this machine has GPU 0 (card), GPU 1 (card), GPU 2 (card)"),
        (vec![GpuName::Index(0), uuid("GPU-000")], "GPU 0 (card) is named twice"),
        (vec![uuid("GPU-")], "`GPU-` is the beginning of several UUIDs"),
        (vec![GpuName::Index(2)], "GPU 2 (card) is split by MIG and takes no work itself"),
        (vec![uuid("GPU-777"), GpuName::Index(0)], "a MIG instance cannot train together with another device"),
    ];
    for (names, expected) in cases {
        let error = ask(&machine, DeviceRequest::Gpus(names)).expect_err(expected);
        assert!(error.starts_with(expected), "{error}");
    }
    assert_eq!(ask(&machine, DeviceRequest::Gpus(vec![uuid("gpu-777")])), Ok(vec!["GPU-777-abc".to_owned()]));
}

#[test]
fn whose_fault_it_is_decides_the_exit_code() {
    let machine = machine(vec![card(0), busy(1)]);
    let code = |request: DeviceRequest| {
        let error = select(&machine, &request, &SelectOptions::default()).expect_err("refused");
        assert!(error.hint().is_some_and(|hint| !hint.is_empty()), "{error}");
        Failure::from(error).code()
    };
    assert_eq!(code(DeviceRequest::Gpus(vec![GpuName::Index(9)])), ExitCode::BadRequest);
    assert_eq!(code(DeviceRequest::Cpus(Vec::new())), ExitCode::BadRequest);
    assert_eq!(code(DeviceRequest::Gpus(vec![GpuName::Index(1)])), ExitCode::MachineNotReady);
    assert_eq!(code(DeviceRequest::Count(2)), ExitCode::MachineNotReady);
}

#[test]
fn a_card_that_the_image_has_no_code_for_is_left_out_and_named() {
    let mut old = card(1);
    old.compute_capability = Some(ComputeCapability { major: 6, minor: 1 });
    let machine = machine(vec![card(0), old]);
    let options = SelectOptions { oldest: ready::oldest_card(13), ..SelectOptions::default() };
    for request in [DeviceRequest::Auto, DeviceRequest::Count(1)] {
        let selection = select(&machine, &request, &options).expect("one is new enough");
        assert_eq!(selection.devices.len(), 1);
        let left = "GPU 1 (card) is left out: its compute capability is 6.1, and the image needs 7.5 or newer";
        assert!(selection.reasons.iter().any(|reason| reason == left), "{:?}", selection.reasons);
    }
    // Asked for by name it is taken: whether it can be used is told before anything is built.
    let named = select(&machine, &DeviceRequest::Gpus(vec![GpuName::Index(1)]), &options).expect("as asked");
    assert_eq!(named.devices.len(), 1);
}

#[test]
fn cuda_visible_devices_says_what_to_choose_from() {
    let machine = machine(vec![card(0), card(1), card(2), busy(3)]);
    let (zero, one, two) = ("GPU-000-abc".to_owned(), "GPU-111-abc".to_owned(), "GPU-222-abc".to_owned());
    let auto = |variable| ask_seeing(&machine, DeviceRequest::Auto, Some(variable)).map(|(devices, _)| devices);
    assert_eq!(auto("2,0"), Ok(vec![two.clone(), zero.clone()]), "its order");
    assert_eq!(auto("GPU-11, 0"), Ok(vec![one.clone(), zero.clone()]));
    assert_eq!(auto("1,-1,0"), Ok(vec![one.clone()]), "as in CUDA, nothing after an entry that names nothing");
    assert_eq!(auto("1,1,3"), Ok(vec![one.clone()]), "the busy one is left out all the same");
    for nothing in ["", "-1", "NoDevFiles"] {
        assert_eq!(auto(nothing), Ok(vec!["cpu:0".to_owned(), "cpu:1".to_owned()]), "`{nothing}`");
    }
    let (_, reasons) = ask_seeing(&machine, DeviceRequest::Auto, Some("")).expect("the CPU");
    assert!(reasons[0].contains("`CUDA_VISIBLE_DEVICES=`"), "{reasons:?}");
    assert!(auto("3").expect_err("busy").contains("GPU 3 (card) is left out: busy"));
    let any =
        |count, variable| ask_seeing(&machine, DeviceRequest::Count(count), Some(variable)).map(|(devices, _)| devices);
    assert_eq!(any(1, "2,0"), Ok(vec![two]));
    assert!(any(3, "2,0").expect_err("two are seen").starts_with("3 GPUs are wanted and 2 can be had"));
    let named =
        ask_seeing(&machine, DeviceRequest::Gpus(vec![GpuName::Index(1)]), Some("2,0")).map(|(devices, _)| devices);
    assert_eq!(named, Ok(vec![one]), "what is named is taken");
}

#[test]
fn cpu_devices_share_what_there_is() {
    let machine = machine(Vec::new());
    let share = |cpus: Option<f64>, memory: Option<u64>| CpuShare { cpus, memory };
    let select = |list: Vec<CpuShare>| select(&machine, &DeviceRequest::Cpus(list), &SelectOptions::default());
    let selection = select(vec![share(None, None); 3]).expect("three");
    for device in &selection.devices {
        assert!((device.cpus.expect("a share") - 4.0 / 3.0).abs() < 1e-12);
        assert_eq!(
            (device.threads(), device.memory_budget_bytes, device.memory_cap_bytes),
            (Some(1), Some(16 * GIB / 3), None)
        );
    }
    assert_eq!(selection.reasons, Vec::<String>::new());
    let selection = select(vec![share(Some(1.0), Some(2 * GIB)), share(None, None)]).expect("the rest");
    assert_eq!(selection.devices[0].memory_cap_bytes, Some(2 * GIB));
    assert_eq!(selection.devices[1].cpus, Some(3.0));
    assert_eq!(selection.devices[1].memory_budget_bytes, Some(14 * GIB));
    let crowded = select(vec![share(Some(4.0), None); 2]).expect("slow, but possible");
    assert!(crowded.reasons[0].contains("8 processors of 4"), "{:?}", crowded.reasons);
    let many = select(vec![share(None, None); 8]).expect("half a processor each");
    assert!(many.reasons[0].contains("0.50 of a processor"), "{:?}", many.reasons);
    assert_eq!(many.devices[7].threads(), Some(1));
    assert!(matches!(select(vec![share(Some(5.0), None)]), Err(SelectError::CpuTooLarge { index: 0, .. })));
    assert!(matches!(select(vec![share(Some(4.0), None), share(None, None)]), Err(SelectError::CpuLeftOver)));
    assert!(matches!(select(vec![share(None, Some(9 * GIB)); 2]), Err(SelectError::MemoryTooLarge { .. })));
}

#[test]
fn without_gpus_the_note_is_in_the_answer() {
    let machine = Inventory::without_gpus(Host { cpus: 1, ..Host::default() }, "this machine has no NVIDIA driver");
    let error = ask(&machine, DeviceRequest::Count(1)).expect_err("none");
    assert_eq!(error, "no GPU to be had: this machine has no NVIDIA driver");
    let (devices, reasons) = ask_seeing(&machine, DeviceRequest::Auto, None).expect("the CPU");
    assert_eq!(devices, ["cpu:0"]);
    assert_eq!(reasons[0], "this machine has no NVIDIA driver");
    assert!(reasons[1].contains("there is one processor"), "{reasons:?}");
}
