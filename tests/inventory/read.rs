//! Inventories of machines that fixtures describe, read by nvml-wrapper through our own NVML.

use evenkeel::inventory::{
    Availability, ComputeCapability, CudaVersion, DeviceRequest, Gpu, Inventory, Memory, Mig, SelectError,
    SelectOptions, availability, nvml, ready, render, select,
};

use super::child::{fixture, inventory};

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

fn auto(inventory: &Inventory) -> Result<evenkeel::inventory::Selection, SelectError> {
    select(inventory, &DeviceRequest::Auto, &SelectOptions::default())
}

fn indices(selection: &evenkeel::inventory::Selection) -> Vec<String> {
    selection.devices.iter().map(|device| device.name.chars().take(5).collect()).collect()
}

#[test]
fn four_equal_cards_are_read_and_used() {
    let inventory = fixture("four-equal");
    assert_eq!(inventory.note, None);
    assert_eq!(inventory.host.driver.as_deref(), Some("580.95.05"));
    assert_eq!(inventory.host.nvml.as_deref(), Some("13.580.95.05"));
    assert_eq!(inventory.host.cuda_driver, Some(CudaVersion { major: 13, minor: 0 }));
    assert_eq!(inventory.gpus.len(), 4);
    for (index, gpu) in (0..).zip(&inventory.gpus) {
        let expected = Gpu {
            index,
            uuid: Some(format!("GPU-{:08x}-1c2d-4e5f-8a9b-0123456789ab", 0x4f00_0000 + index * 0x11)),
            name: Some("NVIDIA RTX A5000".into()),
            memory: Some(Memory { total_bytes: 24 * GIB, free_bytes: 24 * GIB - 300 * MIB }),
            compute_capability: Some(ComputeCapability { major: 8, minor: 6 }),
            mig: Some(Mig::NotSupported),
            compute_processes: Some(Vec::new()),
            graphics_processes: Some(Vec::new()),
            display_active: Some(false),
            ..Gpu::default()
        };
        assert_eq!(*gpu, expected);
    }
    let selection = auto(&inventory).expect("four free cards");
    assert_eq!(indices(&selection), ["GPU 0", "GPU 1", "GPU 2", "GPU 3"]);
    assert_eq!(selection.devices[3].id.to_string(), "GPU-4f000033-1c2d-4e5f-8a9b-0123456789ab");
    assert_eq!(selection.reasons, Vec::<String>::new(), "nothing needs a reason");
}

#[test]
fn unequal_cards_are_used_with_the_memory_that_each_has() {
    let inventory = fixture("unequal");
    let budgets: Vec<_> = auto(&inventory).expect("free").devices.iter().map(|one| one.memory_budget_bytes).collect();
    assert_eq!(budgets, [Some(24 * GIB - 260 * MIB), Some(11 * GIB - 180 * MIB)]);
    // The older one is told before anything is built.
    let devices = auto(&inventory).expect("free").devices;
    let cuda = CudaVersion { major: 13, minor: 0 };
    let error = ready::check_cuda(&inventory.host, &devices, cuda).expect_err("Pascal");
    assert!(error.to_string().starts_with("GPU 1 (NVIDIA GeForce GTX 1080 Ti)"), "{error}");
}

#[test]
fn a_busy_card_is_left_out_and_named() {
    let inventory = fixture("one-busy");
    let selection = auto(&inventory).expect("two free cards");
    assert_eq!(indices(&selection), ["GPU 0", "GPU 2"]);
    assert_eq!(
        selection.reasons,
        ["GPU 1 (NVIDIA RTX A5000) is left out: busy with pid 5000001 `python` with 10.0 GiB"]
    );
}

#[test]
fn programs_of_this_machine_are_told_with_name_and_owner() {
    let folder = tempfile::tempdir().expect("a folder");
    let document = folder.path().join("machine.json");
    let pid = std::process::id();
    let text = format!(
        r#"{{"devices": [{{"uuid": "GPU-1", "name": "card", "compute_processes": [{{"pid": {pid}, "used": 1073741824}}]}}]}}"#
    );
    std::fs::write(&document, text).expect("written");
    let inventory = inventory(&document);
    let Availability::Busy { by } = availability(&inventory.gpus[0]) else { panic!("{inventory:?}") };
    assert_eq!((by[0].pid, by[0].used_bytes), (pid, Some(GIB)));
    let comm = std::fs::read_to_string("/proc/self/comm").expect("linux");
    assert!(comm.starts_with(&by[0].name.as_deref().expect("a name")[..4]), "{by:?}");
    assert!(by[0].user.is_some(), "{by:?}");
}

#[test]
fn a_display_takes_memory_and_does_not_make_busy() {
    let inventory = fixture("display");
    let selection = auto(&inventory).expect("two cards");
    assert_eq!(indices(&selection), ["GPU 0", "GPU 1"]);
    assert_eq!(selection.devices[0].memory_budget_bytes, Some(22 * GIB));
    assert_eq!(selection.reasons, ["GPU 0 (NVIDIA RTX A5000): it drives a display, 22.0 GiB of its 24.0 GiB are free"]);
    let drawing = inventory.gpus[0].graphics_processes.as_ref().expect("read");
    assert_eq!(drawing[1].used_bytes, None, "what the driver does not tell is not 0");
    // One of any: the one without a display.
    let one = select(&inventory, &DeviceRequest::Count(1), &SelectOptions::default()).expect("one");
    assert_eq!(indices(&one), ["GPU 1"]);
}

#[test]
fn a_split_card_gives_its_largest_free_instance() {
    let inventory = fixture("mig");
    let instances = inventory.gpus[0].instances();
    assert_eq!(instances.iter().map(|one| one.index).collect::<Vec<_>>(), [0, 2, 3], "1 is a gap");
    assert_eq!(availability(&inventory.gpus[0]), Availability::Split { instances: 3 });
    assert!(matches!(availability(&instances[2]), Availability::Busy { .. }));
    let selection = auto(&inventory).expect("one instance");
    assert_eq!(selection.devices.len(), 1);
    assert_eq!(selection.devices[0].id.to_string(), "MIG-c0002222-aaaa-5bbb-8ccc-0123456789ab");
    assert_eq!(selection.devices[0].kind().to_string(), "NVIDIA A100-SXM4-40GB MIG 3g.20gb", "a profile is a kind");
    assert_eq!(selection.devices[0].compute_capability, Some(ComputeCapability { major: 8, minor: 0 }));
    assert!(selection.reasons[0].contains("is used alone"), "{:?}", selection.reasons);
    assert!(instances[0].unreadable.is_empty(), "{:?}", instances[0].unreadable);
}

#[test]
fn an_error_from_every_call_leaves_a_reason_and_no_zero() {
    let inventory = fixture("every-error");
    let fields: Vec<&str> = inventory.host.unreadable.keys().map(String::as_str).collect();
    assert_eq!(fields, ["cuda_driver", "driver", "nvml"]);
    let all = [
        "compute_capability",
        "compute_processes",
        "display_active",
        "graphics_processes",
        "memory",
        "mig",
        "name",
        "uuid",
    ];
    // The first card has fallen off the bus; the second may not even be opened by this user.
    for (index, why) in [(0, "fell off the bus"), (1, "does not have permission")] {
        let gpu = &inventory.gpus[index];
        assert_eq!(gpu.unreadable.keys().map(String::as_str).collect::<Vec<_>>(), all);
        assert!(gpu.unreadable.values().all(|text| text.contains(why)), "{:?}", gpu.unreadable);
        let nothing = Gpu { index: gpu.index, unreadable: gpu.unreadable.clone(), ..Gpu::default() };
        assert_eq!(*gpu, nothing);
    }
    assert_eq!(inventory.gpus[2].memory, None);
    assert_eq!(inventory.gpus[4].memory, None, "a card without memory is a reading gone wrong");
    assert!(inventory.gpus[4].unreadable.contains_key("memory"));
    assert!(matches!(availability(&inventory.gpus[2]), Availability::Unknown { .. }));
    assert!(matches!(availability(&inventory.gpus[3]), Availability::Unknown { .. }), "MIG is on, instances unknown");
    let selection = auto(&inventory).expect("the last card");
    assert_eq!(indices(&selection), ["GPU 4"]);
    assert_eq!(selection.devices[0].memory_budget_bytes, None);
    assert_eq!(selection.reasons.len(), 4, "{:?}", selection.reasons);
    let table = render::table(&inventory);
    assert!(table.contains("GPU 0: memory: device fell off the bus"), "{table}");
    assert!(!table.contains("0 MiB"), "{table}");
}

#[test]
fn programs_that_the_driver_does_not_list_are_judged_by_memory() {
    let inventory = fixture("unlisted-programs");
    let selection = auto(&inventory).expect("one almost empty card");
    assert_eq!(indices(&selection), ["GPU 0"]);
    assert!(selection.reasons[0].contains("its programs cannot be read, but 23.7 GiB of its 24.0 GiB are free"));
    assert!(selection.reasons[1].contains("GPU 1 (NVIDIA RTX A5000) is left out: who computes on it cannot be read"));
}

#[test]
fn without_a_usable_library_there_are_no_gpus_and_the_note_says_why() {
    let missing = nvml::inventory(Some("/nonexistent/libnvidia-ml.so.1".as_ref()));
    let cases = [
        (missing, "NVML at `/nonexistent/libnvidia-ml.so.1` cannot be loaded"),
        (fixture("no-driver"), "NVIDIA driver is not loaded"),
        (fixture("mismatch"), "a reboot puts it right"),
        (fixture("no-cards"), "sees no GPU"),
        (fixture("no-count"), "cannot be counted"),
    ];
    for (inventory, expected) in cases {
        assert!(inventory.gpus.is_empty());
        let note = inventory.note.clone().expect("a note");
        assert!(note.contains(expected), "{note}");
        let selection = auto(&inventory).expect("the CPU");
        assert!(selection.devices.iter().all(|device| device.id.uuid().is_none()));
        assert_eq!(selection.reasons[0], note);
        assert!(render::table(&inventory).contains(&note));
    }
}

#[test]
fn an_old_driver_is_told_before_anything_is_built() {
    let inventory = fixture("old-driver");
    let devices = auto(&inventory).expect("the cards are free").devices;
    let error = ready::check_cuda(&inventory.host, &devices, CudaVersion { major: 13, minor: 0 }).expect_err("570");
    assert!(matches!(error, ready::NotReady::DriverTooOld { .. }), "{error}");
    let failure = evenkeel::error::Failure::from(error);
    assert_eq!(failure.code(), evenkeel::error::ExitCode::MachineNotReady);
    assert!(failure.render().contains("580 or newer"), "{}", failure.render());
}

#[test]
fn what_is_printed_as_json_is_read_back_as_the_inventory() {
    for name in ["four-equal", "unequal", "one-busy", "display", "mig", "every-error", "no-driver"] {
        let inventory = fixture(name);
        let text = serde_json::to_string_pretty(&render::report(&inventory)).expect("plain data");
        assert_eq!(Inventory::from_json(&text).expect("readable"), inventory, "{name}");
    }
    let other = r#"{"version": 2, "host": {"cpus": 1}}"#;
    let error = Inventory::from_json(other).expect_err("another version").to_string();
    assert_eq!(error, "inventory of version 2, where version 1 is understood");
    let misspelt = r#"{"version": 1, "host": {"cpus": 1}, "gpus": [{"index": 0, "memroy": null}]}"#;
    assert!(Inventory::from_json(misspelt).is_err(), "a misspelt field is no unknown one");
}

#[test]
fn the_table_shows_each_device_in_a_row() {
    let table = render::table(&Inventory { host: Default::default(), ..fixture("mig") });
    let rows: Vec<&str> = table.lines().skip(2).collect();
    assert_eq!(
        rows,
        [
            "GPU  NAME                               UUID          FREE      TOTAL     CC   STATE",
            "0    NVIDIA A100-SXM4-40GB              GPU-4f000000  39.5 GiB  40.0 GiB  8.0  split by MIG",
            "0:0  NVIDIA A100-SXM4-40GB MIG 1g.5gb   MIG-c0000000  4.7 GiB   4.8 GiB   8.0  free",
            "0:2  NVIDIA A100-SXM4-40GB MIG 3g.20gb  MIG-c0002222  19.5 GiB  19.5 GiB  8.0  free",
            "0:3  NVIDIA A100-SXM4-40GB MIG 3g.20gb  MIG-c0003333  19.5 GiB  19.5 GiB  8.0  busy: pid 5000021 `python` with 2.0 GiB",
        ]
    );
}
