//! Every permutation of every shader: naga parses and validates it with no more capabilities than its tier may use, and what naga
//! reflects is what the kernel's Rust declaration says. So a binding, a parameter or a file that drifts fails here.
#![allow(clippy::panic, clippy::expect_used)]

use std::path::Path;
use std::{fs, iter};

use naga::proc::Layouter;
use naga::valid::{Capabilities, ValidationFlags, Validator};
use naga::{AddressSpace, GlobalVariable, Module, Scalar, StorageAccess, TypeInner, VectorSize};
use refrain::backend::wgsl::source;
use refrain::kernel::{AnyKernel, Link, Tier};
use refrain::kernels::ALL;
use refrain::precision::Precision;
use refrain::tensor::Dtype;

/// What every WebGPU device offers.
const SHARED_BYTES: u32 = 16 << 10;
const STORAGE_BUFFERS: usize = 8;
const THREADS: u32 = 256;

fn parse(kernel: &dyn AnyKernel, tier: &Tier, precision: Precision, place: &str) -> Module {
    let text = source(kernel, tier, precision);
    let module = naga::front::wgsl::parse_str(&text).unwrap_or_else(|error| panic!("{place}:\n{}", error.emit_to_string(&text)));
    // naga has a name for unpack2x16float's rounding, since OpenGL has it not; every WebGPU device has.
    let every = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    let capabilities = if tier.subgroups { every | Capabilities::SUBGROUP } else { every };
    let valid = Validator::new(ValidationFlags::all(), capabilities).validate(&module);
    valid.unwrap_or_else(|error| panic!("{place}:\n{}", error.emit_to_string(&text)));
    module
}

/// The precisions that make a difference to a kernel.
fn precisions(kernel: &dyn AnyKernel) -> &'static [Precision] {
    if kernel.links().contains(&Link::Weight) { &Precision::ALL } else { &[Precision::F32] }
}

/// Calls `check` with every permutation and its place in a message.
fn for_all(check: impl Fn(&dyn AnyKernel, &Tier, &Module, &str)) {
    for kernel in ALL {
        for tier in &Tier::ALL {
            for precision in precisions(kernel) {
                let place = format!("{} in {precision} on {tier:?}", kernel.name());
                check(kernel, tier, &parse(kernel, tier, *precision, &place), &place);
            }
        }
    }
}

#[test]
fn the_parameters_are_the_declared_ones() {
    for_all(|kernel, _, module, place| {
        let uniforms: Vec<_> =
            module.global_variables.iter().map(|(_, var)| var).filter(|var| var.space == AddressSpace::Uniform).collect();
        let binding = |var: &&GlobalVariable| var.binding.as_ref().map_or((9, 9), |binding| (binding.group, binding.binding));
        let mut found: Vec<_> = uniforms.iter().map(|var| (binding(var), var.name.as_deref().unwrap_or_default())).collect();
        found.sort_unstable();
        let gate = kernel.links().contains(&Link::Gate).then_some(((1, 0), "gate"));
        assert_eq!(found, [((0, 0), "p")].into_iter().chain(gate).collect::<Vec<_>>(), "{place}: uniform variables");
        let Some(var) = uniforms.iter().find(|var| binding(var) == (0, 0)) else { panic!("{place}: no parameters") };
        let TypeInner::Struct { members, .. } = &module.types[var.ty].inner else { panic!("{place}: p is no struct") };
        let found: Vec<_> = members
            .iter()
            .map(|member| {
                let ty = match module.types[member.ty].inner {
                    TypeInner::Scalar(Scalar::U32) => "u32",
                    TypeInner::Scalar(Scalar::F32) => "f32",
                    _ => panic!("{place}: {:?} is neither u32 nor f32", member.name),
                };
                (member.name.as_deref().unwrap_or_default(), ty, member.offset)
            })
            .collect();
        let declared: Vec<_> = kernel.fields().iter().zip(0..).map(|((name, ty), i)| (*name, *ty, 4 * i)).collect();
        assert_eq!(found, declared, "{place}: name, type and offset of the parameters");
    });
}

#[test]
fn the_storage_bindings_are_the_declared_ones() {
    for_all(|kernel, _, module, place| {
        let (reads, writes) = kernel.args();
        let access = iter::repeat_n(StorageAccess::LOAD, reads.len()).chain(iter::repeat(StorageAccess::LOAD | StorageAccess::STORE));
        let args = reads.iter().chain(writes).zip(access);
        let declared: Vec<_> = args.zip(1..).map(|((arg, access), at)| (0, at, arg.name, access, element_of(arg.dtype))).collect();
        let mut found: Vec<_> = module
            .global_variables
            .iter()
            .filter(|(_, var)| !matches!(var.space, AddressSpace::Uniform | AddressSpace::WorkGroup | AddressSpace::Private))
            .map(|(_, var)| {
                let name = var.name.as_deref().unwrap_or_default();
                let AddressSpace::Storage { access } = var.space else { panic!("{place}: {name} lies in {:?}", var.space) };
                let binding = var.binding.as_ref().expect("naga's validator wants a binding on storage");
                (binding.group, binding.binding, name, access, element(module, var.ty, place))
            })
            .collect();
        found.sort_by_key(|(group, at, ..)| (*group, *at));
        assert_eq!(found, declared, "{place}: group, binding, name, access and element of the arguments");
        assert!(found.len() <= STORAGE_BUFFERS, "{place}: {} storage buffers", found.len());
    });
}

/// What a shader reads an argument as: weights come as words, whatever their precision.
fn element_of(dtype: Dtype) -> Dtype {
    if let Dtype::Weights(_) = dtype { Dtype::U32 } else { dtype }
}

/// What the words of a runtime-sized array of scalars or of vectors of 4 are.
fn element(module: &Module, ty: naga::Handle<naga::Type>, place: &str) -> Dtype {
    let TypeInner::Array { base, size: naga::ArraySize::Dynamic, .. } = module.types[ty].inner else {
        panic!("{place}: a storage variable that is no runtime-sized array");
    };
    match module.types[base].inner {
        TypeInner::Scalar(Scalar::F32) | TypeInner::Vector { size: VectorSize::Quad, scalar: Scalar::F32 } => Dtype::F32,
        TypeInner::Scalar(Scalar::U32) | TypeInner::Vector { size: VectorSize::Quad, scalar: Scalar::U32 } => Dtype::U32,
        ref other => panic!("{place}: an array of {other:?}"),
    }
}

#[test]
fn the_workgroups_fit_every_device() {
    for_all(|_, tier, module, place| {
        let [entry] = module.entry_points.as_slice() else { panic!("{place}: {} entry points", module.entry_points.len()) };
        assert_eq!(entry.name, "main", "{place}: the entry point");
        assert!(entry.workgroup_size_overrides.is_none(), "{place}: the size of the workgroup is not constant");
        assert_eq!(entry.workgroup_size.iter().product::<u32>(), tier.workgroup, "{place}: threads of a workgroup");
        assert!(tier.workgroup <= THREADS, "{place}");
        let mut layouts = Layouter::default();
        layouts.update(module.to_ctx()).expect("naga has validated the types");
        let shared = module.global_variables.iter().filter(|(_, var)| var.space == AddressSpace::WorkGroup);
        let bytes: u32 = shared.map(|(_, var)| layouts[var.ty].size.next_multiple_of(16)).sum();
        assert!(bytes <= SHARED_BYTES, "{place}: {bytes} bytes of shared memory");
    });
}

#[test]
fn the_header_holds_the_tiers_constants() {
    for_all(|_, tier, module, place| {
        assert_eq!(tier.side() * tier.side(), tier.workgroup, "{place}: a workgroup stands as a square");
        assert!(tier.lanes.is_power_of_two() && tier.workgroup.is_multiple_of(tier.lanes), "{place}: lanes");
        for (name, value) in [("WORKGROUP", tier.workgroup), ("SIDE", tier.side()), ("LANES", tier.lanes)] {
            let constant = module.constants.iter().find(|(_, constant)| constant.name.as_deref() == Some(name));
            let init = constant.map(|(_, constant)| &module.global_expressions[constant.init]);
            let found = matches!(init, Some(naga::Expression::Literal(naga::Literal::U32(found))) if *found == value);
            assert!(found, "{place}: {name} should be {value}u, found {init:?}");
        }
    });
}

#[test]
fn the_links_share_out_the_work_as_the_grids_do() {
    for_all(|kernel, tier, module, place| {
        let constant = |name: &str| {
            let constant = module.constants.iter().find(|(_, constant)| constant.name.as_deref() == Some(name));
            match constant.map(|(_, constant)| &module.global_expressions[constant.init]) {
                Some(naga::Expression::Literal(naga::Literal::U32(value))) => *value as usize,
                other => panic!("{place}: {name} is {other:?}"),
            }
        };
        if kernel.links().contains(&Link::Dots) {
            assert_eq!(8 * constant("WORKGROUP") / constant("TEAM"), tier.outs(), "{place}: outputs of a workgroup");
        }
        if kernel.links().contains(&Link::Area) {
            assert_eq!([constant("AREA_OUTS"), constant("AREA_ROWS")], tier.area(), "{place}: outputs and rows of a workgroup");
        }
    });
}

/// The stems and texts of the shader files of a folder.
fn files(folder: &str) -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths = entries.map(|entry| entry.expect("a readable entry").path()).filter(|path| path.is_file());
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    paths.map(|path| (path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned()), read(&path))).collect()
}

#[test]
fn every_shader_file_is_a_kernel_of_the_same_name() {
    let mut stems: Vec<_> = files("shaders");
    stems.sort();
    let mut kernels: Vec<_> = ALL.iter().map(|kernel| (kernel.name().to_string(), kernel.body().to_string())).collect();
    kernels.sort();
    let names = |list: &[(String, String)]| list.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&stems), names(&kernels), "files of shaders/ and kernels of ALL");
    for ((name, text), (_, body)) in stems.iter().zip(&kernels) {
        assert_eq!(text, body, "{name}: the kernel's body should be shaders/{name}.wgsl");
    }
}

#[test]
fn every_linked_file_is_used() {
    let precisions = |kernel, tier| Precision::ALL.into_iter().map(move |precision| source(kernel, tier, precision));
    let permutations: Vec<String> =
        ALL.iter().flat_map(|kernel| Tier::ALL.iter().flat_map(move |tier| precisions(*kernel, tier))).collect();
    for (name, text) in files("shaders/link") {
        assert!(permutations.iter().any(|whole| whole.contains(&text)), "no kernel links shaders/link/{name}.wgsl");
    }
}
