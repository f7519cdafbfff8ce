//! Profiles: what is written down of every dispatch, that clocks tell the truth, and what a driver compiled, kept in a file.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use pollster::block_on;
use refrain::Error;
use refrain::backend::profile::{Clock, Load, Profile};
use refrain::backend::{Backend, DeviceChoice, DeviceOptions, Plan};
use refrain::kernels::RowList;
use refrain::kernels::embed::embed;
use refrain::kernels::experts::{Slots, experts_down, experts_up};
use refrain::kernels::experts_grouped::{Groups, experts_grouped};
use refrain::kernels::fma_rate::fma_rate;
use refrain::kernels::group::{group, most_tiles};
use refrain::kernels::linear::{Into, linear};
use refrain::kernels::read_rate::{Pattern, read_rate, read_rates};
use refrain::kernels::rmsnorm::rmsnorm;
use refrain::model::defaults::Exit;
use refrain::model::files::Source;
use refrain::model::{Depth, Engine, Feed, Logits, Options};
use refrain::precision::Precision;
use refrain::tensor::{Dtype, Matrix, Tensor};
use tempfile::TempDir;

use crate::devices;
use crate::goldens::Case;

fn tensor(backend: &mut Backend, rows: usize, cols: usize) -> Tensor {
    backend.tensor("a tensor", Dtype::F32, rows, cols).unwrap()
}

/// What ran between start and take.
fn profile(backend: &mut Backend, plans: &[&Plan]) -> Profile {
    backend.start_profile().unwrap();
    plans.iter().for_each(|plan| block_on(backend.run(plan)).unwrap());
    block_on(backend.take_profile()).unwrap()
}

/// Dispatches that do not overlap, of non-negative times after the start.
fn in_order(profile: &Profile, what: &str) {
    let mut end = 0.0;
    for (i, ran) in profile.dispatches.iter().enumerate() {
        // A clock's last digits, and what it takes to bring two clocks together for the first.
        let slack = if i == 0 { 1e-3 } else { 1e-6 };
        assert!(ran.begin > end - slack && ran.seconds >= 0.0, "{what}: {i} begins at {} after {end}, {ran:?}", ran.begin);
        end = ran.begin + ran.seconds;
    }
}

#[test]
fn a_profile_knows_what_ran() {
    for (name, options) in devices::all() {
        let mut backend = devices::open(&options);
        let (x, gain, y) = (tensor(&mut backend, 9, 64), tensor(&mut backend, 1, 64), tensor(&mut backend, 9, 64));
        let (z, w) = (tensor(&mut backend, 9, 32), backend.matrix("w", Precision::Q8, 32, 64, 1).unwrap());
        let numbers = tensor(&mut backend, 1, 100);
        let mut pass = backend.pass();
        // Recorded with a pass in between, so that what is said of one kernel is seen not to stay for the next.
        fma_rate(&mut pass, 100, 3, true, &numbers).unwrap();
        rmsnorm(&mut pass, &x, &gain, &y, 2).unwrap();
        linear(&mut pass, &w, (&y).into(), (&z).into(), 2, Into::Set).unwrap();
        let plan = backend.plan(pass).unwrap();
        block_on(backend.run(&plan)).unwrap();
        // More than one command buffer holds.
        let plans: Vec<&Plan> = std::iter::repeat_n(&plan, 70).collect();
        let found = profile(&mut backend, &plans);
        assert_eq!(found.dispatches.len(), 210, "{name}");
        assert_eq!(found.clock, if name == "cpu" { Clock::Host } else { Clock::Device }, "{name}");
        in_order(&found, name);
        let loads: Vec<Load> = found.dispatches.iter().map(|ran| ran.load).collect();
        assert!(loads.chunks(3).all(|three| three == &loads[..3]), "{name}");
        let known = |load: Load| (load.kernel, load.precision, load.rows, load.flops);
        assert_eq!(known(loads[0]), ("fma_rate", Precision::F32, None, 100 * 3 * 192), "{name}");
        assert_eq!(loads[0].bytes, 400, "{name}");
        assert_eq!(known(loads[1]), ("rmsnorm", Precision::F32, Some(2), loads[1].flops), "{name}");
        // Rows of what it binds, unless the kernel says better: two of x and of y, and the gain.
        assert!(loads[1].bytes >= 4 * 64 * 2 * 2, "{name}: {}", loads[1].bytes);
        assert_eq!((loads[2].kernel, loads[2].precision, loads[2].rows), ("matvec", Precision::Q8, Some(2)), "{name}");
        assert!(loads[2].bytes >= w.bytes(32) as u64, "{name}: {}", loads[2].bytes);
        let kernels = found.kernels();
        assert!(kernels.len() == 3 && kernels.iter().all(|sum| sum.calls == 70), "{name}: {kernels:?}");
        assert!(kernels.is_sorted_by(|a, b| a.seconds >= b.seconds), "{name}: {kernels:?}");
        assert_eq!(kernels.iter().find(|sum| sum.kernel == "fma_rate").unwrap().flops, 70 * 57_600, "{name}");
        let sum: f64 = kernels.iter().map(|sum| sum.seconds).sum();
        assert!((sum - found.busy()).abs() <= 1e-9 && found.lost().unwrap() >= 0.0, "{name}");
        let submits = found.host.iter().filter(|did| did.name == "submit").count();
        assert_eq!(submits, if name == "cpu" { 0 } else { 4 }, "{name}: {:?}", found.host);
        // What runs after the profile is nobody's business, and a new one starts empty.
        block_on(backend.run(&plan)).unwrap();
        let refused = block_on(backend.take_profile());
        assert!(matches!(&refused, Err(Error::Usage { reason }) if reason.contains("not started")), "{name}: {refused:?}");
        assert_eq!(profile(&mut backend, &[&plan]).dispatches.len(), 3, "{name}");
        let empty = profile(&mut backend, &[]);
        assert_eq!(empty.dispatches, [], "{name}");
        // 0, not -0, which is what floats sum up to where there are none.
        assert!([empty.busy(), empty.lost().unwrap()].iter().all(|sum| *sum == 0.0 && sum.is_sign_positive()), "{name}");
    }
}

/// What kernels that say what they do say: bytes that they read and write, and operations.
#[test]
fn a_profile_knows_what_gathers_and_experts_take() {
    let mut backend = devices::open(&devices::all().swap_remove(0).1);
    let (rows, k, routed, shared, dim, hidden) = (3, 2, 5, 1, 36, 20);
    let (slots_of_a_row, table) = (k + shared, backend.matrix("table", Precision::Q8, 50, dim, 1).unwrap());
    let [up, down] = [(2 * hidden, dim), (dim, hidden)]
        .map(|(outs, ins)| backend.matrix("w", Precision::F16, (routed + shared) * outs, ins, outs).unwrap());
    let mut words = |rows, cols| backend.tensor("words", Dtype::U32, rows, cols).unwrap();
    let (list, ids, tiles, order) = (words(rows, 4), words(rows, k), words(most_tiles(9, 6, 4), 4), words(1, 9));
    let (x, out, gates) = (tensor(&mut backend, rows, dim), tensor(&mut backend, rows, dim), tensor(&mut backend, rows, k));
    let (inner, pairs) = (tensor(&mut backend, rows * slots_of_a_row, hidden), tensor(&mut backend, rows * slots_of_a_row, dim));
    let (slots, groups) = (Slots { ids, gates, routed, shared }, Groups { tiles: &tiles, order: &order, tile: 4 });
    let mut pass = backend.pass();
    embed(&mut pass, &table, RowList { table: list, first: 0, rows }, &x).unwrap();
    experts_up(&mut pass, &up, &slots, &x, &inner, rows).unwrap();
    experts_down(&mut pass, &down, &slots, &inner, &out, rows).unwrap();
    group(&mut pass, &slots, groups, rows).unwrap();
    experts_grouped(&mut pass, &down, &slots, &inner, groups, &pairs, rows).unwrap();
    // Four rounds of two workgroups.
    let (read, written) = (tensor(&mut backend, 1, 16 * 4 * 2 * 16), tensor(&mut backend, 1, 40));
    read_rate(&mut pass, &read, Pattern::Rows, 16, 4, &written).unwrap();
    let plan = backend.plan(pass).unwrap();
    let found = profile(&mut backend, &[&plan]);
    // Three rows choose at most six experts, of which there are five, and the shared one is always read.
    let read = |w: &Matrix| w.bytes(w.rows);
    let expected = [
        ("embed", table.bytes(rows) + 4 * rows * dim, 0),
        ("experts_up", read(&up) + 4 * (rows * dim + 9 * hidden), 2 * 9 * 2 * hidden * dim),
        ("experts_down", read(&down) + 4 * (9 * hidden + 2 * rows * dim), 2 * 9 * dim * hidden),
        ("experts_grouped", read(&down) + 4 * 9 * (hidden + dim), 2 * 9 * dim * hidden),
        ("read_rate", 4 * (2048 + 32), 0),
    ];
    let loads = found.dispatches.iter().map(|ran| (ran.load.kernel, ran.load.bytes as usize, ran.load.flops as usize));
    assert_eq!(loads.filter(|(kernel, ..)| *kernel != "group").collect::<Vec<_>>(), expected);
}

#[test]
fn what_is_read_to_measure_is_what_was_asked_for() {
    let own = devices::all().swap_remove(0).1;
    // Bytes that a workgroup reads at least: parts of memory are multiples of it.
    let unit = 4 * 16 * 256 * devices::open(&own).tier().workgroup as u64;
    // Asked for, the largest binding; parts and how many units each has.
    for (asked, most, parts, units) in [(5 * unit + 100, None, 1, 5), (5 * unit, Some(2 * unit + 100), 3, 1), (7, None, 1, 1)] {
        let mut backend = devices::open(&DeviceOptions { max_binding: most, ..own.clone() });
        let before = backend.allocated_bytes();
        let rates = block_on(read_rates(&mut backend, asked as usize)).unwrap();
        let taken = parts * units * unit + units * unit / 16;
        assert_eq!(backend.allocated_bytes() - before, taken, "{asked} bytes with bindings of {most:?}");
        assert_eq!(rates.iter().map(|rate| rate.how).collect::<Vec<_>>(), Pattern::ALL.map(Pattern::name));
        assert!(rates.iter().all(|rate| rate.per_second > 0.0), "{rates:?}");
    }
}

/// At the last loop, rows that only catch up leave their keys and values: nobody asks for what else they would come to.
#[test]
fn the_last_loop_spares_rows_that_only_catch_up() {
    for (name, head_groups) in [("gqa_tiny", 2), ("mla_tiny", 1)] {
        let source = Source::folder(Case::open(name).folder).unwrap();
        let device = devices::all().swap_remove(0).1;
        let options = Options { device, loops: Some(3), ..Options::default() };
        let mut engine = block_on(Engine::load(&source, &options, &mut |_| {})).unwrap();
        let mut sequence = engine.sequence().unwrap();
        let mut feed = |engine: &mut Engine, tokens: &[u32], loops| {
            let depth = Depth { loops, min_loops: 0, exit: Exit::Fixed };
            block_on(engine.forward(&mut [Feed { sequence: &mut sequence, tokens }], depth, Logits::GREEDY)).unwrap();
        };
        feed(&mut engine, &[1, 2, 3, 4, 5], 2);
        engine.start_profile().unwrap();
        feed(&mut engine, &[6], 3);
        let found = block_on(engine.take_profile()).unwrap();
        let of = |kernel: &str| found.dispatches.iter().map(|ran| ran.load).filter(|load| load.kernel == kernel).collect::<Vec<_>>();
        let rows = |kernel: &str| of(kernel).iter().map(|load| load.rows.unwrap()).collect::<Vec<_>>();
        // The new token alone, twice; then with the five before it.
        assert_eq!((rows("inject"), rows("recur")), (vec![1, 1, 6], vec![1, 1, 1]), "{name}");
        let attention = of("attention");
        assert_eq!(attention.len(), 5, "{name}: in the prelude, in three loops, in the coda");
        // All heads of a group at once.
        assert!(attention.iter().all(|load| load.grid == [1, head_groups, 1]), "{name}: {attention:?}");
    }
}

#[test]
fn clocks_tell_the_truth() {
    for (name, options) in devices::all() {
        let mut backend = devices::open(&options);
        let y = tensor(&mut backend, 1, 1 << 14);
        let mut plan = |rounds| {
            let mut pass = backend.pass();
            fma_rate(&mut pass, 1 << 14, rounds, true, &y).unwrap();
            backend.plan(pass).unwrap()
        };
        let (short, long) = (plan(1), plan(200));
        profile(&mut backend, &[&short, &long]);
        // The best of several: other tests run beside this one.
        let (mut least, mut most) = ([f64::INFINITY; 2], 0f64);
        for _ in 0..5 {
            let started = Instant::now();
            let found = profile(&mut backend, &[&short, &long]);
            let wall = started.elapsed().as_secs_f64();
            let [short, long] = found.dispatches[..] else { panic!("{name}: {found:?}") };
            assert!(found.busy() <= wall && short.begin + short.seconds <= wall, "{name}: {found:?} in {wall} s");
            least = [least[0].min(short.seconds), least[1].min(long.seconds)];
            most = most.max(found.busy() / wall);
        }
        assert!(least[0] < least[1] / 4.0, "{name}: {least:?} s for one round and for 200");
        assert!(most > 0.2, "{name}: kernels for {most} of the time in which there is nothing else to do");
    }
}

#[test]
fn no_times_are_taken_where_kernels_are_checked() {
    if devices::gpus().is_empty() {
        return;
    }
    let mut backend = devices::open(&DeviceOptions { device: DeviceChoice::Shadow, ..Default::default() });
    let refused = backend.start_profile();
    assert!(matches!(&refused, Err(Error::Usage { reason }) if reason.contains("checked against the CPU")), "{refused:?}");
}

/// A device that the program made, without timestamps.
#[cfg(feature = "wgpu-interop")]
#[test]
fn a_device_without_timestamps_is_timed_by_round_trips() {
    use refrain::backend::OwnDevice;
    use refrain::wgpu;
    if devices::gpu("llvmpipe").is_none() {
        return;
    }
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapters = block_on(instance.enumerate_adapters(wgpu::Backends::VULKAN));
    let adapter = adapters.into_iter().find(|adapter| adapter.get_info().name.contains("llvmpipe")).unwrap();
    let (device, queue) = block_on(adapter.request_device(&wgpu::DeviceDescriptor::default())).unwrap();
    let mut backend = Backend::from_wgpu(OwnDevice { adapter, device, queue }, &DeviceOptions::default()).unwrap();
    let y = tensor(&mut backend, 1, 1 << 12);
    let mut pass = backend.pass();
    for rounds in [1, 100, 1] {
        fma_rate(&mut pass, 1 << 12, rounds, true, &y).unwrap();
    }
    let plan = backend.plan(pass).unwrap();
    profile(&mut backend, &[&plan]);
    let found = profile(&mut backend, &[&plan]);
    assert_eq!((found.clock, found.lost(), found.dispatches.len()), (Clock::RoundTrip, None, 3));
    in_order(&found, "round trips");
    assert!(found.dispatches.iter().all(|ran| ran.seconds > 0.0), "{found:?}");
    assert_eq!(found.host.len(), 3, "a submit each: {:?}", found.host);
}

/// Opens a device that keeps what it compiles in a folder, compiles something, and closes it.
fn compile(options: &DeviceOptions, folder: &TempDir, below: &str) {
    let mut backend = devices::open(&DeviceOptions { pipeline_cache: Some(folder.path().join(below)), ..options.clone() });
    let y = tensor(&mut backend, 1, 64);
    let mut pass = backend.pass();
    fma_rate(&mut pass, 64, 1, true, &y).unwrap();
    let plan = backend.plan(pass).unwrap();
    let found = profile(&mut backend, &[&plan]);
    assert_eq!(found.dispatches.len(), 1);
}

/// The only file of a folder with its bytes.
fn only_file(folder: &TempDir) -> (PathBuf, Vec<u8>) {
    let files: Vec<PathBuf> = fs::read_dir(folder.path().join("cache")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let [file] = &files[..] else { panic!("{files:?}") };
    (file.clone(), fs::read(file).unwrap())
}

#[test]
fn what_was_compiled_is_kept_and_a_damaged_file_is_as_good_as_none() {
    for (name, options) in devices::gpus() {
        let folder = tempfile::tempdir().unwrap();
        // Made if need be; a folder that cannot be is passed over.
        compile(&options, &folder, "cache");
        let (file, kept) = only_file(&folder);
        assert!(file.extension().is_some_and(|end| end == "bin") && kept.len() > 40, "{name}: {file:?}, {} bytes", kept.len());
        let written = fs::metadata(&file).unwrap().modified().unwrap();
        compile(&options, &folder, "cache");
        assert_eq!(fs::metadata(&file).unwrap().modified().unwrap(), written, "{name}: written again though nothing is new");
        let flipped = |at: usize| {
            let mut bytes = kept.clone();
            bytes[at] ^= 1;
            bytes
        };
        let damaged =
            [Vec::new(), vec![0; 7], kept[..kept.len() - 1].to_vec(), flipped(0), flipped(kept.len() - 1), b"something else".to_vec()];
        for damaged in damaged {
            fs::write(&file, &damaged).unwrap();
            compile(&options, &folder, "cache");
            assert_eq!(only_file(&folder).1, kept, "{name}: {} damaged bytes", damaged.len());
        }
        fs::write(folder.path().join("taken"), "").unwrap();
        compile(&options, &folder, "taken");
        compile(&options, &folder, "taken/below");
        assert_eq!(fs::read(folder.path().join("taken")).unwrap(), b"", "{name}");
    }
}
