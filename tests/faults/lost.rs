//! A device that goes away: at every look of a generation, and while a model is loaded. The error says so, and whoever opens the model again
//! goes on with the same text.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pollster::block_on;
use refrain::backend::DeviceOptions;
use refrain::generate::Params;
use refrain::model::defaults::Exit;
use refrain::model::{Depth, Logits};
use refrain::sampler::Sampling;
use refrain::{Model, Options, shipped, wgpu};

use super::{MODELS, Own, small};

/// A prompt of each model, of which some token loops more than once.
fn prompt(model: &str) -> &'static str {
    if model == "follow" { "a >b b >c ?a" } else { "@1 12 23" }
}

/// Warm text: without its seed it would be another each time.
fn params() -> Params {
    let sampling = Sampling { temperature: 1.5, seed: 3, ..Sampling::default() };
    Params { max_tokens: Some(4), loops: Some(4), sampling: Some(sampling), echo: true, ..Params::default() }
}

fn open(name: &str, own: &Own) -> refrain::Result<Model> {
    let options = small(DeviceOptions::default());
    Model::open_on(own.backend(&options.device)?, &shipped::source(name).unwrap(), &options, &mut |_| {})
}

/// What is told of a step.
type Told = (u32, String, usize);

/// Generates, passing over as many steps as are told already: the same seed gives the same ones.
fn go_on(name: &str, model: &mut Model, told: &mut Vec<Told>) -> refrain::Result<()> {
    let mut steps = model.generate(prompt(name), params())?;
    let mut passed = 0;
    while let Some(step) = block_on(steps.next()) {
        let step = step?;
        if passed == told.len() {
            told.push((step.token, step.text, step.loops));
        }
        passed += 1;
    }
    Ok(())
}

/// Counts the times that the host looks from here on, and takes the device away at one of them.
fn destroy_at(device: wgpu::Device, queue: wgpu::Queue, look: usize, looks: Arc<AtomicUsize>) {
    queue.clone().on_submitted_work_done(move || {
        if looks.fetch_add(1, Ordering::Relaxed) == look {
            return device.destroy();
        }
        destroy_at(device, queue, look, looks);
    });
}

/// Runs a generation on a device of its own that goes away at a look; what was told until then, how it ended, and how often was looked.
fn disturbed(name: &str, look: usize) -> (Vec<Told>, refrain::Result<()>, usize) {
    let own = Own::open("llvmpipe").unwrap();
    let mut model = open(name, &own).unwrap();
    let (mut told, looks) = (Vec::new(), Arc::new(AtomicUsize::new(0)));
    destroy_at(own.device.clone(), own.queue.clone(), look, looks.clone());
    let ended = go_on(name, &mut model, &mut told);
    if ended.is_err() {
        // It stays so.
        let again = go_on(name, &mut model, &mut Vec::new()).unwrap_err();
        assert_eq!(again.code(), "device_lost", "{name}, afterwards: {again}");
    }
    (told, ended, looks.load(Ordering::Relaxed))
}

#[test]
fn at_every_look_of_a_generation() {
    if crate::devices::gpu("llvmpipe").is_none() {
        return;
    }
    for name in MODELS {
        let (undisturbed, ended, all) = disturbed(name, usize::MAX);
        ended.unwrap();
        let loops: usize = undisturbed.iter().map(|step| step.2).sum();
        assert!(undisturbed.len() > 6 && loops > undisturbed.len(), "{name}: {undisturbed:?}");
        let mut cut = BTreeMap::<usize, usize>::new();
        let healthy = Own::open("llvmpipe").unwrap();
        for look in 0..all {
            let (mut told, ended, looks) = disturbed(name, look);
            let Err(error) = ended else {
                // Nothing was needed of it any more, or there were fewer looks this time: two may meet in one.
                assert_eq!(told, undisturbed, "{name}: look {look} of {all}, {looks} this time");
                continue;
            };
            assert_eq!(error.code(), "device_lost", "{name}, look {look}: {error}");
            assert_eq!(told, undisturbed[..told.len()], "{name}, look {look}");
            *cut.entry(told.len()).or_default() += 1;
            go_on(name, &mut open(name, &healthy).unwrap(), &mut told).unwrap();
            assert_eq!(told, undisturbed, "{name}, after look {look}");
        }
        println!("{name}: lost at each of {all} looks, after so many of {} steps: {cut:?}", undisturbed.len());
        // The prompt's steps come together. Every pass of the loop is looked at, four of them for the prompt and for each token.
        let prompt = undisturbed.len() - 4;
        let places: Vec<usize> = std::iter::once(0).chain(prompt..undisturbed.len()).collect();
        assert_eq!(cut.keys().copied().collect::<Vec<_>>(), places, "{name}");
        assert!(cut.values().sum::<usize>() >= 3 * places.len(), "{name}: {cut:?}");
    }
}

#[test]
fn at_every_piece_of_a_load() {
    if crate::devices::gpu("llvmpipe").is_none() {
        return;
    }
    for name in MODELS {
        let options = small(DeviceOptions::default());
        let load = |at: usize| {
            let own = Own::open("llvmpipe").unwrap();
            let pieces = Cell::new(0);
            let lose = &mut |_| {
                pieces.set(pieces.get() + 1);
                if pieces.get() == at {
                    own.device.destroy();
                }
            };
            let backend = own.backend(&options.device).unwrap();
            let loaded = Model::open_on(backend, &shipped::source(name).unwrap(), &options, lose);
            (loaded.and_then(|mut model| go_on(name, &mut model, &mut Vec::new())), pieces.get())
        };
        let (whole, pieces) = load(usize::MAX);
        whole.unwrap();
        for at in 1..=pieces {
            let error = load(at).0.unwrap_err();
            assert_eq!(error.code(), "device_lost", "{name}, after piece {at}: {error}");
        }
        println!("{name}: lost after each of {pieces} pieces of a load");
    }
}

/// A batch on a device that goes away ends, and says why.
#[test]
fn in_a_batch() {
    let Some(own) = Own::open("llvmpipe") else { return };
    let source = shipped::source("follow").unwrap();
    let options = Options { sequences: Some(2), ..small(DeviceOptions::default()) };
    let backend = own.backend(&options.device).unwrap();
    let mut engine = refrain::model::Engine::load_on(backend, &source, &options, &mut |_| {}).unwrap();
    let mut batch = block_on(engine.batch()).unwrap();
    for tokens in [&[1, 2, 3][..], &[4]] {
        let sequence = batch.engine().sequence().unwrap();
        let key = batch.insert(sequence).unwrap();
        batch.feed(key, tokens, Depth { loops: 4, min_loops: 0, exit: Exit::Fixed }, Logits::GREEDY).unwrap();
    }
    destroy_at(own.device.clone(), own.queue.clone(), 1, Arc::default());
    let error = block_on(batch.next()).unwrap_err();
    assert_eq!(error.code(), "device_lost", "{error}");
}
