//! A device that refuses the k-th allocation of a load, for every k.

use pollster::block_on;
use refrain::backend::{Backend, DeviceOptions};
use refrain::generate::{Params, Prompt};
use refrain::model::defaults::Defaults;
use refrain::model::{Engine, Needs, Options};
use refrain::tensor::{Dtype, Tensor};
use refrain::{Error, Model, wgpu};

use super::{Fault, MODELS, Own, Spoiled, files, on_cpu, small};
use crate::devices;

/// What a load of a model takes.
fn needs(model: &str, backend: &Backend, options: &Options) -> u64 {
    let source = refrain::shipped::source(model).unwrap();
    let (config, _) = refrain::model::read_config(&source).unwrap();
    let weights = refrain::model::files::Weights::open(&source).unwrap();
    Needs::of(backend.info(), &config, &Defaults::default(), options, Some(&weights)).unwrap().0.total()
}

/// Bytes of the allocation that was refused, and bytes that there were, as the message tells them last.
fn refused(error: &Error) -> (u64, u64) {
    let message = error.to_string();
    let number = |after: &str| {
        let text = &message[message.rfind(after).unwrap_or_else(|| panic!("no {after:?} in {message}")) + after.len()..];
        text.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
    };
    (number(" needs "), number("room for "))
}

/// Loads with ever more room, so that each load gets one allocation further than the one before. `backend` opens a device with a memory;
/// `left_behind` counts what is alive on it.
fn sweep(model: &str, options: &Options, backend: &dyn Fn(Option<u64>) -> Backend, left_behind: &dyn Fn() -> usize) -> usize {
    let files = Spoiled::new(files(model));
    let source = files.source();
    let empty = backend(None).allocated_bytes();
    let total = needs(model, &backend(None), options);
    let clean = left_behind();
    let (mut room, mut allocations) = (0, 0);
    loop {
        // The memory would do for the model, but something else lies there: only in the middle of the load does that show.
        let mut device = backend(Some(total));
        let taken = (total - empty - room) as usize / 4;
        if taken > 0 {
            let _: Tensor = device.tensor("something else", Dtype::F32, 1, taken).unwrap();
        }
        files.spoil(Fault::None);
        let loaded = Model::open_on(device, &source, options, &mut |_| {});
        // It is known beforehand where the memory itself is so small.
        let known = backend(Some(empty + room));
        files.spoil(Fault::None);
        let mut pieces = 0;
        let foreseen = Engine::load_on(known, &source, options, &mut |_| pieces += 1).map(drop);
        let error = match loaded {
            Err(error) => error,
            Ok(mut model) => {
                foreseen.unwrap();
                let params = Params { max_tokens: Some(1), ..Params::default() };
                block_on(model.generate(Prompt::Tokens(vec![1, 2]), params).unwrap().next()).unwrap().unwrap();
                break;
            }
        };
        assert_eq!(error.code(), "memory", "{model}: {error}");
        let (needed, left) = refused(&error);
        // What was allowed is used up by the allocations before.
        assert!(left == 0 && needed > 0, "{model}, {room} bytes: {error}");
        let foreseen = foreseen.unwrap_err();
        assert!(matches!(foreseen, Error::Memory { available: Some(_), .. }), "{model}, {room} bytes: {foreseen}");
        assert_eq!(pieces, 0, "{model}: nothing is read where it is known that it does not fit");
        assert_eq!(left_behind(), clean, "{model}, {room} bytes: something is left of the loads");
        room += needed;
        allocations += 1;
    }
    assert_eq!(empty + room, total, "{model}: all of it is allocated in the load");
    allocations
}

#[test]
fn every_allocation_of_a_load() {
    for model in MODELS {
        let with = |memory| DeviceOptions { memory, ..on_cpu().device };
        let backend = |memory| block_on(Backend::open(&with(memory))).unwrap();
        let allocations = sweep(model, &on_cpu(), &backend, &|| 0);
        println!("{model}: {allocations} allocations, each refused on the CPU");
        assert!(allocations > 40, "{model}: {allocations}");
    }
}

#[test]
fn every_allocation_of_a_load_onto_a_gpu() {
    let Some(own) = Own::open("llvmpipe") else { return };
    let options = small(devices::gpu("llvmpipe").unwrap());
    for model in MODELS {
        let backend = |memory| own.backend(&DeviceOptions { memory, ..DeviceOptions::default() }).unwrap();
        let allocations = sweep(model, &options, &backend, &|| own.buffers());
        println!("{model}: {allocations} allocations, each refused on lavapipe");
        assert!(allocations > 40, "{model}: {allocations}");
    }
}

/// A driver that says itself that it has no memory left, after any piece of a load: SwiftShader has no buffer of its largest size.
#[test]
fn a_driver_that_runs_out_of_memory_at_any_piece_of_a_load() {
    let Some(own) = Own::open("SwiftShader") else { return };
    let size = own.device.limits().max_buffer_size;
    let greedy = wgpu::BufferDescriptor { label: Some("greed"), size, usage: wgpu::BufferUsages::STORAGE, mapped_at_creation: false };
    let before = own.buffers();
    for model in MODELS {
        let load = |at: usize| {
            let mut pieces = 0;
            let exhaust = &mut |_| {
                pieces += 1;
                if pieces == at {
                    drop(own.device.create_buffer(&greedy));
                }
            };
            let backend = own.backend(&DeviceOptions::default()).unwrap();
            let loaded = Model::open_on(backend, &refrain::shipped::source(model).unwrap(), &on_cpu(), exhaust).map(drop);
            (loaded, pieces)
        };
        let (whole, pieces) = load(usize::MAX);
        whole.unwrap();
        for at in 1..=pieces {
            let error = load(at).0.unwrap_err();
            assert!(matches!(error, Error::Memory { available: None, .. }), "{model}, after piece {at}: {error}");
            assert!(error.to_string().contains("Out of Memory"), "{model}, after piece {at}: {error}");
            assert_eq!(own.buffers(), before, "{model}, after piece {at}: something is left");
        }
        load(usize::MAX).0.unwrap();
        println!("{model}: out of memory after each of {pieces} pieces, on SwiftShader");
    }
}
