//! What a kernel is: a WGSL body, the parts that are linked to it, its arguments, its parameters, its grid, and the CPU twin that
//! says in plain Rust what it computes. A kernel is declared once, as a constant, beside its formula (see [`crate::kernels`]).
//!
//! Bindings follow from the declaration: 0 is the uniform `Params`, then the arguments that are read, then those that are
//! written, each in order. A test lets naga reflect every shader and compares. Shared memory (`var<workgroup>`) is not zeroed where the
//! API leaves that to us: a kernel reads there only what it has written.

use crate::precision::Precision;
use crate::tensor::Dtype;

/// The parameters of a dispatch: a struct of `u32` and `f32` that the shader sees as its uniform `p`.
/// Made by the [`params!`](crate::params) macro, which keeps names and types for the reflection test.
pub trait Params: bytemuck::Pod + Send + Sync {
    /// Name and WGSL type (`u32` or `f32`) of each field, in order.
    const FIELDS: &'static [(&'static str, &'static str)];
}

/// Declares a [`Params`] struct: `params! { Name { rows: u32, eps: f32 } }`.
#[macro_export]
#[doc(hidden)]
macro_rules! params {
    ($(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* $field:ident : $ty:ident),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
        #[repr(C)]
        #[allow(missing_docs)] // the kernel's formula and the struct's own doc say what the fields are
        pub struct $name { $($(#[$fdoc])* pub $field: $ty),* }
        impl $crate::kernel::Params for $name {
            const FIELDS: &'static [(&'static str, &'static str)] = &[$((stringify!($field), stringify!($ty))),*];
        }
    };
}

/// One storage argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub struct Arg {
    /// The variable's name in the shader.
    pub name: &'static str,
    /// What its words are.
    pub dtype: Dtype,
}

/// An argument of `f32` words.
pub const fn f32s(name: &'static str) -> Arg {
    Arg { name, dtype: Dtype::F32 }
}

/// An argument of `u32` words.
pub const fn u32s(name: &'static str) -> Arg {
    Arg { name, dtype: Dtype::U32 }
}

/// An argument that holds weights, in whatever precision: a shader reads them through [`Link::Weight`].
pub const fn weights(name: &'static str) -> Arg {
    Arg { name, dtype: Dtype::Weights(Precision::F32) }
}

/// An interchangeable part of a shader; the [`Tier`] picks the file, or the [`Precision`] of the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// `Lane`, `reduce_sum`, `reduce_max` over a workgroup.
    Reduce,
    /// `reduce_sum8`, `reduce_max8`: the same of eight values at once. Needs `Lane`, of [`Link::Reduce`].
    Reduce8,
    /// `eight`: vectors of shared memory that every thread wants. Needs `Lane`, of [`Link::Reduce`].
    Eight,
    /// `Best`, `is_better`, `reduce_best`: the largest value of a workgroup with its id.
    Best,
    /// `team_sum`: a sum over [`Tier::lanes`] threads.
    TeamSum,
    /// `dots_part`, `dots_sum`: eight dot products with one x, made by a thread or by a workgroup. Needs `Lane`, of [`Link::Reduce`].
    Dots,
    /// `area`: all products of [`Tier::area`] outputs and rows, by a workgroup. Needs `Lane`, of [`Link::Reduce`].
    Area,
    /// `weight4`, `weight8`: so many neighbouring numbers of a weight matrix.
    Weight,
    /// `rope_angle`, `rope_turn`: rotary position embedding of one pair.
    RopeTurn,
    /// `slot_expert`: the expert that a row's slot is for.
    Slot,
    /// `cache_slot`, `cache_start`: where a row's sequence lies in the cache.
    Cache,
    /// `state_row`: where a row's state lies.
    State,
    /// `closed`: whether the pass is needed no more. Binds the device's gate as group 1.
    Gate,
}

/// What is chosen from the facts of an adapter: constants in the header of every shader, and which files are linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tier {
    /// Threads of every workgroup: a power of 4, at most 256, so that it can stand as a square too.
    pub workgroup: u32,
    /// Threads of a team that makes one sum together (a power of two that divides `workgroup`). 1 where threads are the lanes of a
    /// processor's vectors: there kernels of products let every thread work alone.
    pub lanes: u32,
    /// Whether reductions use subgroup operations.
    pub subgroups: bool,
}

impl Tier {
    /// What every WebGPU device can run.
    pub const BASELINE: Tier = Tier { workgroup: 64, lanes: 16, subgroups: false };
    /// Software GPUs: one thread is one SIMD lane of a CPU core, and every barrier costs a loop over the workgroup.
    pub const SOFTWARE: Tier = Tier { workgroup: 16, lanes: 1, subgroups: false };
    /// Software GPUs whose subgroups are vector registers: a number passes from lane to lane at the price of one instruction.
    pub const SOFTWARE_SUBGROUPS: Tier = Tier { subgroups: true, ..Tier::SOFTWARE };
    /// GPUs with subgroup operations.
    pub const SUBGROUPS: Tier = Tier { workgroup: 64, lanes: 16, subgroups: true };

    /// The side of a workgroup that stands as a square.
    pub fn side(&self) -> u32 {
        self.workgroup.isqrt()
    }

    /// Outputs that a workgroup computes in matrix–vector kernels: 8 a thread where threads work alone, else 8.
    pub fn outs(&self) -> usize {
        8 * if self.lanes == 1 { self.workgroup as usize } else { 1 }
    }

    /// Outputs and rows of the area that a workgroup computes in matrix–matrix kernels: constants of the file that is linked.
    pub fn area(&self) -> [usize; 2] {
        match (self.lanes, self.subgroups) {
            (1, false) => [8 * self.side() as usize; 2],
            (1, true) => [8 * self.workgroup as usize, 32],
            _ => [64, 32],
        }
    }

    /// The smallest subgroup that shaders of this tier count on.
    pub fn least_subgroup(&self) -> u32 {
        match (self.lanes, self.subgroups) {
            (_, false) => 0,
            (1, true) => 8,
            _ => 4,
        }
    }

    /// Every tier that a backend may choose; tests validate the shaders under each.
    pub const ALL: [Tier; 4] = [Tier::BASELINE, Tier::SOFTWARE, Tier::SOFTWARE_SUBGROUPS, Tier::SUBGROUPS];
}

/// Workgroups per dimension.
pub type Grid = [usize; 3];

/// The CPU twin: the same parameters and arguments as the shader, in plain Rust. Words of `u32` arguments arrive as the bits of `f32`: see
/// [`words`].
pub enum Twin<P: 'static, const R: usize, const W: usize> {
    /// Of a kernel without weights.
    Plain(PlainTwin<P, R, W>),
    /// Of a kernel with weights, which are in the precision given.
    Weights(WeightsTwin<P, R, W>),
}

/// See [`Twin::Plain`].
pub type PlainTwin<P, const R: usize, const W: usize> = fn(&P, [&[f32]; R], [&mut [f32]; W]);

/// See [`Twin::Weights`].
pub type WeightsTwin<P, const R: usize, const W: usize> = fn(&P, Precision, [&[f32]; R], [&mut [f32]; W]);

/// A kernel with parameters `P` that reads `R` arguments and writes `W`.
pub struct Kernel<P: 'static, const R: usize, const W: usize> {
    /// Also the stem of its shader file.
    pub name: &'static str,
    /// The shader's text, `include_str!` of `shaders/NAME.wgsl`.
    pub body: &'static str,
    /// Parts to link before the body.
    pub links: &'static [Link],
    /// Arguments bound read-only, from binding 1 on.
    pub reads: [Arg; R],
    /// Arguments bound read-write, after the reads. None may be an argument of the same dispatch twice.
    pub writes: [Arg; W],
    /// How many workgroups a dispatch needs.
    pub grid: fn(&P, &Tier) -> Grid,
    /// The CPU twin.
    pub twin: Twin<P, R, W>,
}

/// A kernel with its types erased, as backends and tests handle it.
pub trait AnyKernel: Send + Sync {
    /// The kernel's name.
    fn name(&self) -> &'static str;
    /// The shader's text without header and links.
    fn body(&self) -> &'static str;
    /// Parts to link.
    fn links(&self) -> &'static [Link];
    /// Arguments that are read, then those that are written.
    fn args(&self) -> (&[Arg], &[Arg]);
    /// Names and types of the parameters.
    fn fields(&self) -> &'static [(&'static str, &'static str)];
    /// Runs the twin on bytes of the parameters and on slices in the order of [`args`](Self::args), with weights in this precision.
    fn run_twin(&self, params: &[u8], precision: Precision, reads: &[&[f32]], writes: Vec<&mut [f32]>);
}

impl<P: Params, const R: usize, const W: usize> AnyKernel for Kernel<P, R, W> {
    fn name(&self) -> &'static str {
        self.name
    }
    fn body(&self) -> &'static str {
        self.body
    }
    fn links(&self) -> &'static [Link] {
        self.links
    }
    fn args(&self) -> (&[Arg], &[Arg]) {
        (&self.reads, &self.writes)
    }
    fn fields(&self) -> &'static [(&'static str, &'static str)] {
        P::FIELDS
    }
    fn run_twin(&self, params: &[u8], precision: Precision, reads: &[&[f32]], writes: Vec<&mut [f32]>) {
        let params: P = bytemuck::pod_read_unaligned(params);
        // A `Pass` only records what has the kernel's own arity, so both conversions hold.
        if let (Ok(reads), Ok(writes)) = (<[&[f32]; R]>::try_from(reads), <[&mut [f32]; W]>::try_from(writes)) {
            match self.twin {
                Twin::Plain(twin) => twin(&params, reads, writes),
                Twin::Weights(twin) => twin(&params, precision, reads, writes),
            }
        }
    }
}

/// The words of a `u32` argument of a twin.
pub fn words(arg: &[f32]) -> &[u32] {
    bytemuck::cast_slice(arg)
}

/// The words of a `u32` argument that a twin writes.
pub fn words_mut(arg: &mut [f32]) -> &mut [u32] {
    bytemuck::cast_slice_mut(arg)
}
