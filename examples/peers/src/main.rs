//! refrain's products beside those of cubecl, on one adapter in one process, each as a share of what the adapter can do:
//! `cargo run --release -- [ADAPTER [ROUNDS]]`. See README.md.

mod cube;
mod own;
mod rates;

use std::time::Instant;

use refrain::precision::Precision;
use refrain::wgpu;

/// A product y = x · wᵀ: x is (rows, ins), w is (outs, ins).
#[derive(Clone, Copy)]
pub struct Shape {
    pub rows: usize,
    pub outs: usize,
    pub ins: usize,
}

const SHAPES: [Shape; 6] = [
    Shape { rows: 1, outs: 1024, ins: 1024 },
    Shape { rows: 1, outs: 4096, ins: 4096 },
    Shape { rows: 1, outs: 2048, ins: 8192 },
    Shape { rows: 1, outs: 32000, ins: 1024 },
    Shape { rows: 128, outs: 4096, ins: 4096 },
    Shape { rows: 16, outs: 1024, ins: 1024 },
];

/// Something that computes a product as often as it is told and returns when the device is done.
pub type Run<'a> = Box<dyn FnMut(usize) + 'a>;

/// Numbers in −1 … 1 (Knuth's MMIX generator, its upper bits).
pub fn random(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    };
    (0..count).map(next).collect()
}

/// Fails unless a few results are right.
pub fn check(who: &str, shape: Shape, w: &[f32], x: &[f32], y: &[f32]) {
    for i in (0..shape.rows * shape.outs).step_by(997) {
        let (r, o) = (i / shape.outs, i % shape.outs);
        let sum: f64 = (0..shape.ins).map(|i| f64::from(w[o * shape.ins + i]) * f64::from(x[r * shape.ins + i])).sum();
        assert!((sum - f64::from(y[i])).abs() < 1e-3 * (shape.ins as f64).sqrt(), "{who}: y[{r}, {o}] is {} and should be {sum}", y[i]);
    }
}

/// Seconds of each of `runs` a time, in turns, so that what else the machine does falls on all alike: the median of `rounds`.
fn medians(runs: &mut [(Run, usize)], rounds: usize) -> Vec<f64> {
    let mut seconds = vec![Vec::new(); runs.len()];
    for round in 0..=rounds {
        for ((run, times), seconds) in runs.iter_mut().zip(&mut seconds) {
            let started = Instant::now();
            run(*times);
            if round > 0 {
                seconds.push(started.elapsed().as_secs_f64() / *times as f64);
            }
        }
    }
    let median = |mut seconds: Vec<f64>| {
        seconds.sort_by(f64::total_cmp);
        seconds[seconds.len() / 2]
    };
    seconds.into_iter().map(median).collect()
}

/// How often in a row, so that it takes about a fiftieth of a second.
fn times(run: &mut Run) -> usize {
    run(1);
    let started = Instant::now();
    run(1);
    (0.02 / started.elapsed().as_secs_f64()).clamp(1.0, 1000.0) as usize
}

fn main() {
    let mut args = std::env::args().skip(1);
    let name = args.next().unwrap_or_default();
    let rounds: usize = args.next().map_or(15, |text| text.parse().expect("a number of rounds"));
    let backends = wgpu::Backends::PRIMARY;
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor { backends, ..wgpu::InstanceDescriptor::new_without_display_handle() });
    let adapters = pollster::block_on(instance.enumerate_adapters(backends));
    let adapter = adapters.into_iter().find(|adapter| adapter.get_info().name.contains(&name)).expect("an adapter of this name");
    println!("{}", adapter.get_info().name);

    let rates = rates::Rates::new(&adapter);
    let (read, fma) = (rates.read(), rates.fma());
    println!("best of its read kernels: {}; best of its FMA kernels: {}", read.name, fma.name);
    let cube = cube::Cube::new(&instance, &adapter);
    let own = own::Own::new(&name);

    println!("product            weights   refrain ms    GB/s  GFLOP/s   of best read   of best FMA | cubecl ms  by        refrain ×");
    for shape in SHAPES {
        let Shape { rows, outs, ins } = shape;
        let (w, x) = (random(1, outs * ins), random(2, rows * ins));
        let mut theirs = cube.best(shape, &w, &x);
        for precision in [Precision::F32, Precision::F16, Precision::Q8, Precision::Q4] {
            let (mut ours, bytes) = own.product(shape, precision, &w, &x);
            let count = times(&mut ours);
            let mut runs: Vec<(Run, usize)> = vec![(ours, count), (Box::new(|n| (read.run)(n)), 1), (Box::new(|n| (fma.run)(n)), 1)];
            if let Some((_, run)) = &mut theirs {
                let mut run: Run = Box::new(run);
                let count = times(&mut run);
                runs.push((run, count));
            }
            let seconds = medians(&mut runs, rounds);
            drop(runs);
            let (rate, work) = (bytes as f64 / seconds[0], 2.0 * (rows * outs * ins) as f64 / seconds[0]);
            let (of_read, of_fma) = (rate / (read.count / seconds[1]), work / (fma.count / seconds[2]));
            let size = format!("{rows} × {outs} × {ins}");
            let ours = format!("{size:18} {precision:7} {:12.3} {:7.2} {:8.2}", 1e3 * seconds[0], rate / 1e9, work / 1e9);
            let theirs = match (&theirs, seconds.get(3)) {
                (Some((by, _)), Some(seconds_of)) => format!("{:9.3}  {by:9} {:8.2}", 1e3 * seconds_of, seconds_of / seconds[0]),
                _ => "       no kernel of theirs ran".to_string(),
            };
            println!("{ours} {:12.0} % {:11.0} % | {theirs}", 100.0 * of_read, 100.0 * of_fma);
        }
    }
}
