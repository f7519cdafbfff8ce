//! Many short generations of every kind, one after the other and together, on engines that stay open: memory does not grow, no device
//! is lost, and each of a sample says what it says in a fresh engine, to the bit. `bash tests/soak` runs it as a whole. Everything is drawn
//! from one seed: generation n is the same one in every run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::collections::BTreeMap;

use pollster::block_on;
use refrain::backend::DeviceOptions;
use refrain::generate::{Model, Params, Prompt};
use refrain::model::defaults::Exit;
use refrain::model::files::Source;
use refrain::model::{Depth, Detail, Engine, Feed, Finished, Logits, Options, Schedule};
use refrain::sampler::Sampling;
use refrain::shipped;
use serde_json::json;
use sysinfo::{Pid, ProcessesToUpdate, System};

use crate::devices;
use crate::random::{mla, overflowing};

/// Generations whose like is run in a fresh engine, one in so many.
const SAMPLED: usize = 100;
/// On the software GPU, one in so many; there a fresh engine takes as long as hundreds of generations. In the first hundredth every second
/// one: a driver compiles each kernel once, and what that takes must be in the first figure.
const ON_THE_GPU: usize = 40;
const SAMPLED_ON_THE_GPU: usize = 50;
/// Rows of a pass: few, so that all shapes of passes, for each of which an engine keeps a plan, are met early.
const CHUNK: usize = 8;
/// How much more memory the last hundredth may find than the first left. An engine keeps up to 4096 plans, those of rare shapes are made
/// late; and the allocator keeps what lies between.
const GROWTH: f64 = 1.05;
const SLACK: u64 = 8 << 20;

/// Pseudo-random numbers (Knuth's MMIX generator, its upper bits).
struct Draw(u64);

impl Draw {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (((self.0 >> 33) * n as u64) >> 31) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }

    fn tokens(&mut self, vocabulary: usize, most: usize) -> Vec<u32> {
        (0..1 + self.below(most)).map(|_| self.below(vocabulary) as u32).collect()
    }
}

/// An engine that stays open, and what it takes to make another like it.
struct Host {
    source: Source,
    options: Options,
    prompts: Vec<String>,
    model: Model,
}

impl Host {
    fn new(source: Source, prompts: &[&str], device: &DeviceOptions, sequences: usize) -> Self {
        let options = Options { device: device.clone(), sequences: Some(sequences), chunk: Some(CHUNK), ..Options::default() };
        let model = open(&source, &options);
        Self { source, options, prompts: prompts.iter().map(ToString::to_string).collect(), model }
    }
}

fn open(source: &Source, options: &Options) -> Model {
    block_on(Model::open(source, options, &mut |_| {})).unwrap()
}

fn hosts(device: &DeviceOptions) -> Vec<Host> {
    let shipped = |name, prompts: &[&str]| Host::new(shipped::source(name).unwrap(), prompts, device, 3);
    vec![
        shipped("follow", &["a >b b >c c >d d >d ?a ?b", "k >w v >h w >h ?v", "nobody knows this"]),
        shipped("cups", &["@1 12 23 34", "@3 13 12 25 35 45", "@9"]),
        shipped("add", &["7+6 3+6 6+3 8+1 =", "1+1 =", "+"]),
        Host::new(overflowing(&json!({"n_experts": 4})), &[], device, 3),
        Host::new(overflowing(&mla()), &[], device, 2),
    ]
}

/// One generation, as it can be run again.
#[derive(Clone)]
struct Job {
    prompt: Prompt,
    params: Params,
    schedule: Schedule,
    /// Steps after which it is dropped.
    steps: usize,
}

/// What a generation said: its steps without their times, and the error that ended it.
type Said = (Vec<(u32, String, Option<u32>, usize, u32)>, Option<&'static str>);

impl Job {
    fn draw(draw: &mut Draw, host: &Host) -> Self {
        let vocabulary = host.model.config().vocab_size;
        let prompt = match draw.below(20) {
            0 => Prompt::Tokens(vec![vocabulary as u32 + draw.below(9) as u32]),
            1 => Prompt::Tokens(vec![0; 129]),
            2 => Prompt::Tokens(Vec::new()),
            3..10 if !host.prompts.is_empty() => Prompt::Text(draw.pick(&host.prompts)),
            _ => Prompt::Tokens(draw.tokens(vocabulary, 12)),
        };
        let sampling = Sampling {
            temperature: draw.pick(&[0.0, 0.5, 1.0, 2.0, 2.0, 2.0, 1.5, f32::NAN]),
            top_k: draw.pick(&[0, 0, 1, 5, 40, 64, 65, 1000]),
            top_p: draw.pick(&[1.0, 1.0, 0.9, 0.5, 1.0, 1.0, 1.0, 1.5]),
            min_p: draw.pick(&[0.0, 0.0, 0.0, 0.05, 0.3]),
            seed: draw.below(1 << 30) as u64,
        };
        let params = Params {
            max_tokens: draw.pick(&[Some(1), Some(2), Some(3), Some(5), Some(8), Some(8), Some(500), Some(0)]),
            sampling: draw.pick(&[Some(sampling), Some(sampling), None]),
            loops: draw.pick(&[None, Some(1), Some(2), Some(3), Some(3), Some(3), Some(0), Some(99)]),
            min_loops: draw.pick(&[None, None, None, Some(1), Some(2), Some(3)]),
            exit: draw.pick(&[None, Some(Exit::Model), Some(Exit::Model), Some(Exit::Fixed)]),
            stop: draw.pick(&[vec![], vec![], vec!["b".into()], vec!["c d".into(), "5".into()]]),
            echo: draw.one_in(6),
            in_place: draw.one_in(4),
            trace: draw.one_in(40).then(Detail::default),
        };
        let steps = if draw.one_in(5) { draw.below(4) } else { usize::MAX };
        Self { prompt, params, schedule: draw.pick(&[Schedule::Lazy, Schedule::Lazy, Schedule::Full]), steps }
    }

    fn run(&self, model: &mut Model) -> Said {
        model.engine_mut().set_schedule(self.schedule);
        let mut generation = match model.generate(self.prompt.clone(), self.params.clone()) {
            Ok(generation) => generation,
            Err(error) => return (Vec::new(), Some(error.code())),
        };
        let mut said = Vec::new();
        while said.len() < self.steps {
            match block_on(generation.next()) {
                Some(Ok(step)) => {
                    let logprob = step.logprob.map(f32::to_bits);
                    said.push((step.token, step.text, logprob, step.loops, step.next.logprob.to_bits()));
                }
                Some(Err(error)) => return (said, Some(error.code())),
                None => break,
            }
        }
        (said, None)
    }
}

/// A sequence of a batch that came to its end: its tokens, their depth and loops, and the best logit after the last.
type Done = (Vec<u32>, Depth, Vec<usize>, (u32, f32));

/// Several sequences in a batch: they join, go on, are taken out in the middle or dropped with it. Returns how many were begun, those
/// that came to their end, and the errors that were met.
fn batch(draw: &mut Draw, host: &mut Host) -> (usize, Vec<Done>, Vec<&'static str>) {
    let (vocabulary, loops) = (host.model.config().vocab_size, host.model.engine().max_loops());
    let engine = host.model.engine_mut();
    engine.set_schedule(Schedule::Lazy);
    let (mut begun, mut done, mut errors) = (0, Vec::new(), Vec::new());
    let mut batch = block_on(engine.batch()).unwrap();
    let mut members: BTreeMap<usize, (Vec<u32>, Depth)> = BTreeMap::new();
    for _ in 0..2 + draw.below(8) {
        match draw.below(4) {
            0 | 1 => {
                let Ok(sequence) = batch.engine().sequence() else { continue };
                let key = batch.insert(sequence).unwrap();
                let tokens = draw.tokens(vocabulary, 14);
                let (loops, exit) = (1 + draw.below(loops), draw.pick(&[Exit::Model, Exit::Model, Exit::Fixed]));
                let depth = Depth { loops, min_loops: 0, exit };
                batch.feed(key, &tokens, depth, Logits::GREEDY).unwrap();
                errors.extend(batch.feed(key, &[0], depth, Logits::GREEDY).err().map(|error| error.code()));
                members.insert(key, (tokens, depth));
                begun += 1;
            }
            2 => {
                for Finished { key, output } in block_on(batch.next()).unwrap() {
                    drop(block_on(batch.remove(key)).unwrap());
                    let Some((tokens, depth)) = members.remove(&key) else { continue };
                    match output {
                        Ok(output) => {
                            let loops = output.rows.iter().map(|row| row.loops).collect();
                            done.push((tokens, depth, loops, output.predictions[0].best[0]));
                        }
                        Err(error) => errors.push(error.code()),
                    }
                }
            }
            _ => {
                if let Some((key, _)) = members.pop_first() {
                    drop(block_on(batch.remove(key)).unwrap());
                }
            }
        }
    }
    (begun, done, errors)
}

/// A member of a batch alone in a fresh engine: in a batch its rows share passes with others, so sums may be rounded otherwise.
fn compare_member(host: &Host, (tokens, depth, loops, (token, logit)): &Done) {
    let mut fresh = open(&host.source, &host.options);
    let mut sequence = fresh.sequence().unwrap();
    let wanted = Logits { best: 2, ..Logits::GREEDY };
    let output = block_on(fresh.forward(&mut [Feed { sequence: &mut sequence, tokens }], *depth, wanted)).unwrap();
    assert_eq!(&output.rows.iter().map(|row| row.loops).collect::<Vec<_>>(), loops, "loops of {tokens:?}, {depth:?}");
    let best = &output.predictions[0].best;
    let close = |other: f32| (other - logit).abs() <= 1e-4 * logit.abs().max(1.0);
    let same = best.iter().any(|(other, found)| other == token && close(*found));
    assert!(same && close(best[0].1), "{tokens:?}, {depth:?}: {token} with {logit} in the batch, {best:?} alone");
}

/// Copies, cuts and rows that catch up.
fn fork(draw: &mut Draw, host: &mut Host) {
    let engine = host.model.engine_mut();
    let (tokens, depth) = (draw.tokens(6, 9), Depth { loops: 3, min_loops: 0, exit: Exit::Model });
    let mut first = engine.sequence().unwrap();
    block_on(engine.forward(&mut [Feed { sequence: &mut first, tokens: &tokens }], depth, Logits::GREEDY)).unwrap();
    let mut copy = block_on(engine.fork(&first)).unwrap();
    copy.truncate(draw.below(10));
    block_on(engine.catch_up(&copy, draw.below(20))).unwrap();
    let mut feeds = [Feed { sequence: &mut copy, tokens: &[1, 2] }, Feed { sequence: &mut first, tokens: &[3] }];
    block_on(engine.forward(&mut feeds, depth, Logits::GREEDY)).unwrap();
}

/// Bytes of memory that this process holds.
fn resident() -> u64 {
    let pid = Pid::from_u32(std::process::id());
    let mut system = System::new();
    system.refresh_processes(ProcessesToUpdate::Some(&[pid]), true);
    system.process(pid).unwrap().memory()
}

#[test]
#[ignore = "takes long: bash tests/soak"]
fn generations_leak_nothing_and_are_what_they_are_alone() {
    let number = |name: &str, default: u64| std::env::var(name).map_or(default, |value| value.parse().unwrap());
    let (count, seed) = (number("REFRAIN_SOAK", 100_000) as usize, number("REFRAIN_SOAK_SEED", 1));
    let mut draw = Draw(seed);
    let [mut cpu, mut gpu] = [hosts(&devices::all().swap_remove(0).1), devices::gpu("llvmpipe").iter().flat_map(hosts).collect()];
    let (mut run, mut sampled, mut on_the_gpu, mut batched) = (0, 0, 0, 0);
    let (mut errors, mut first, mut marks) = (BTreeMap::<&str, usize>::new(), None, vec![count, count / 2, count / 100]);
    let start = std::time::Instant::now();
    while run < count {
        let share = if run < count / 100 { 2 } else { ON_THE_GPU };
        let hosts = if !gpu.is_empty() && draw.one_in(share) { &mut gpu } else { &mut cpu };
        let index = draw.below(hosts.len());
        let host = &mut hosts[index];
        let is_gpu = host.model.engine().device().adapter.is_some();
        let sample = draw.one_in(if is_gpu { SAMPLED_ON_THE_GPU } else { SAMPLED });
        let before = run;
        match draw.below(20) {
            0 => {
                fork(&mut draw, host);
                run += 1;
            }
            1 | 2 => {
                let (begun, done, met) = batch(&mut draw, host);
                (run, batched) = (run + begun, batched + begun);
                met.into_iter().for_each(|code| *errors.entry(code).or_default() += 1);
                if let Some(done) = done.first().filter(|_| sample) {
                    compare_member(host, done);
                    sampled += 1;
                }
            }
            _ => {
                let job = Job::draw(&mut draw, host);
                let said = job.run(&mut host.model);
                run += 1;
                said.1.into_iter().for_each(|code| *errors.entry(code).or_default() += 1);
                if sample {
                    assert_eq!(
                        said,
                        job.run(&mut open(&host.source, &host.options)),
                        "generation {run} of model {index}, {:?}",
                        job.params
                    );
                    sampled += 1;
                }
            }
        }
        on_the_gpu += if is_gpu { run - before } else { 0 };
        if marks.last().is_some_and(|mark| run >= *mark) {
            marks.pop();
            let engines = || cpu.iter().chain(&gpu).map(|host| host.model.engine());
            let now = [resident(), engines().map(Engine::allocated_bytes).sum()];
            println!(
                "{run} generations ({on_the_gpu} on lavapipe, {batched} in batches), {:.0} s: {:.1} MiB resident, {:.1} MiB on the devices of {} \
                 engines, {sampled} compared with a fresh engine; errors {errors:?}",
                start.elapsed().as_secs_f32(),
                now[0] as f64 / f64::from(1 << 20),
                now[1] as f64 / f64::from(1 << 20),
                engines().count(),
            );
            let first = *first.get_or_insert(now);
            for (what, now, first) in [("resident", now[0], first[0]), ("on devices", now[1], first[1])] {
                let most = (first as f64 * GROWTH) as u64 + SLACK;
                assert!(
                    now <= most,
                    "{now} bytes {what} after {run} generations, {first} after the first hundredth: at most {most} expected"
                );
            }
        }
    }
    let lost = ["device_lost", "gpu"].iter().filter_map(|code| errors.get(code)).sum::<usize>();
    assert_eq!(lost, 0, "devices lost or failed");
    // What was to happen did.
    for code in ["token", "context", "empty_prompt", "argument", "loops", "non_finite", "usage", "unknown_word"] {
        assert!(errors.contains_key(code), "no error {code}: {errors:?}");
    }
    assert!(sampled > count / 300, "{sampled} sampled");
}
