//! The devices that tests run on: the CPU backend and two software GPUs, lavapipe (Mesa) and SwiftShader (in Chromium's package).
//! Between them they catch what one forgives. `tests/run` installs both and names them in the environment.
#![allow(clippy::panic, clippy::print_stdout)]

use std::sync::OnceLock;

use refrain::backend::{AdapterInfo, AdapterKind, Backend, DeviceChoice, DeviceOptions, adapters};

/// What the adapters of the two drivers are called.
const SOFTWARE_GPUS: [&str; 2] = ["llvmpipe", "SwiftShader"];

/// The CPU, then the software GPUs, each with its name and the options that open it.
pub fn all() -> Vec<(&'static str, DeviceOptions)> {
    let cpu = DeviceOptions { device: DeviceChoice::Cpu, ..Default::default() };
    std::iter::once(("cpu", cpu)).chain(gpus()).collect()
}

/// The software GPUs. One that is missing is an error where `REFRAIN_REQUIRE_SOFTWARE_GPUS=1` (as `tests/run` sets it), else a note.
pub fn gpus() -> Vec<(&'static str, DeviceOptions)> {
    SOFTWARE_GPUS.iter().filter_map(|name| Some((*name, gpu(name)?))).collect()
}

/// The software GPU of this name, if it is there.
pub fn gpu(name: &'static str) -> Option<DeviceOptions> {
    adapter(name).map(|_| DeviceOptions { device: DeviceChoice::Name(name.to_string()), ..Default::default() })
}

/// The facts of the software GPU of this name, if it is there.
pub fn adapter(name: &str) -> Option<&'static AdapterInfo> {
    static FOUND: OnceLock<Vec<AdapterInfo>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let found = pollster::block_on(adapters());
        for name in SOFTWARE_GPUS {
            if !found.iter().any(|adapter| is(adapter, name)) {
                missing(name, &found);
            }
        }
        found
    });
    found.iter().find(|adapter| is(adapter, name))
}

fn is(adapter: &AdapterInfo, name: &str) -> bool {
    adapter.kind == AdapterKind::Software && adapter.name.contains(name)
}

fn missing(name: &str, found: &[AdapterInfo]) {
    let there: Vec<&str> = found.iter().map(|adapter| adapter.name.as_str()).collect();
    let required = std::env::var("REFRAIN_REQUIRE_SOFTWARE_GPUS").is_ok_and(|value| value == "1");
    assert!(!required, "the software GPU {name} is missing: expected among the Vulkan adapters, found {there:?}; see tests/run");
    println!("note: not tested on {name}, which is not among the Vulkan adapters {there:?}: `bash tests/run` sets it up");
}

/// Opens a device. Both drivers stand being opened many times at once (tried: 16 threads), in 10 to 100 ms each.
pub fn open(options: &DeviceOptions) -> Backend {
    pollster::block_on(Backend::open(options)).unwrap_or_else(|error| panic!("{:?}: {error}", options.device))
}

#[test]
fn the_test_devices_are_there_and_open() {
    assert_eq!(all()[0].0, "cpu");
    for (name, options) in all() {
        let backend = open(&options);
        assert!(backend.info().name.to_lowercase().contains(&name.to_lowercase()), "{name}: opened {}", backend.info().name);
        assert_eq!(backend.info().adapter.is_some(), name != "cpu");
    }
}
