//! Nobody sees or changes what is another's. What a shader reads or writes outside of its buffers goes nowhere (here); a row that names a
//! sequence, position, place, loop, token or expert that there is not touches nobody's memory (`rows`); a sequence in a used place, or
//! beside others, is what it is alone (`text`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod rows;
mod text;

use pollster::block_on;
use refrain::backend::Span;
use refrain::kernel::{Kernel, Twin, f32s};
use refrain::params;
use refrain::tensor::{Dtype, Tensor};

use crate::devices;

params! {
    /// Where to go astray: in buffers, and in shared memory.
    Astray { at: u32, past: u32 }
}

/// Reads and writes where `at` says, whatever lies there, and `past` the start of the second of three arrays in shared memory. Then it tells
/// what it found in a buffer, and in the two other arrays.
static ASTRAY: Kernel<Astray, 1, 2> = Kernel {
    name: "astray",
    body: "struct Params {
    at: u32,
    past: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<storage, read_write> found: array<f32>;

var<workgroup> left: array<f32, 64>;
var<workgroup> middle: array<f32, 64>;
var<workgroup> right: array<f32, 64>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(local_invocation_index) thread: u32) {
    for (var i = thread; i < 64u; i += WORKGROUP) {
        left[i] = 3.0;
        middle[i] = 4.0;
        right[i] = 3.0;
    }
    workgroupBarrier();
    for (var i = thread; i < 64u; i += WORKGROUP) {
        middle[p.past + i] = 1e30;
    }
    workgroupBarrier();
    for (var i = thread; i < 64u; i += WORKGROUP) {
        found[i] = x[p.at + i];
        y[p.at + i] = 1e30;
        found[64u + i] = left[i] + 0.0 * middle[i];
        found[128u + i] = right[i];
    }
}
",
    links: &[],
    reads: [f32s("x")],
    writes: [f32s("y"), f32s("found")],
    grid: |_, _| [1, 1, 1],
    twin: Twin::Plain(|_, _, _| {}),
};

/// The library makes every shader module with wgpu's checks, in tests and releases alike: there is no other way in its source.
#[test]
fn no_shader_is_made_without_checks() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/backend");
    let mut files: Vec<_> = [folder.clone(), folder.join("gpu")].iter().flat_map(|folder| std::fs::read_dir(folder).unwrap()).collect();
    let texts = files.drain(..).map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    let texts: Vec<String> = texts.map(|path| std::fs::read_to_string(path).unwrap()).collect();
    let count = |what: &str| texts.iter().map(|text| text.matches(what).count()).sum::<usize>();
    assert_eq!(count("create_shader_module("), 1, "the one place that makes modules");
    for unchecked in ["create_shader_module_trusted", "create_shader_module_passthrough", "ShaderRuntimeChecks"] {
        assert_eq!(count(unchecked), 0, "{unchecked}");
    }
}

/// What lies beside a buffer, or an array in shared memory, is neither read nor written by a shader that goes past the end. Of buffers most
/// drivers see to it themselves; of shared memory only the checks do.
#[test]
fn shaders_cannot_leave_their_buffers() {
    const MARK: f32 = 12345.0;
    for (name, options) in devices::gpus() {
        let mut backend = devices::open(&options);
        let mut make = |what, value: f32| -> Tensor {
            let tensor = backend.tensor(what, Dtype::F32, 1, 256).unwrap();
            backend.write(&tensor, 0, &[value; 256]).unwrap();
            tensor
        };
        let before: Vec<Tensor> = (0..8).map(|_| make("a neighbour", MARK)).collect();
        let (x, y, found) = (make("x", 1.0), make("y", 2.0), make("found", 3.0));
        let neighbours: Vec<Tensor> = (0..8).map(|_| make("a neighbour", MARK)).chain(before).collect();
        for (at, past) in [256, 257, 300, 512, 1024, 4096, 65_536, 1 << 20, 1 << 28, u32::MAX / 4 - 300, u32::MAX - 600]
            .into_iter()
            .zip([64, 65, 128].into_iter().cycle())
        {
            let mut pass = backend.pass();
            pass.dispatch(&ASTRAY, Astray { at, past }, [&x], [&y, &found]).unwrap();
            let plan = backend.plan(pass).unwrap();
            block_on(backend.run(&plan)).unwrap();
        }
        let spans: Vec<Span> = neighbours.iter().chain([&found]).map(|tensor| Span::rows(tensor, 0, 1)).collect();
        let mut read = block_on(backend.read(&spans)).unwrap();
        let found = read.pop().unwrap();
        assert!(found.iter().all(|found| *found != MARK), "{name}: a neighbour was read");
        assert_eq!(found[..64].iter().filter(|found| **found == 3.0).count(), 0, "{name}: the kernel ran");
        assert_eq!(found[64..192], [3.0; 128], "{name}: shared memory beside an array");
        assert!(read.iter().flatten().all(|word| *word == MARK), "{name}: a neighbour was written");
    }
}
