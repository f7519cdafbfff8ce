//! cubecl's side: the matrix products of cubek-matmul, on a device that its runtime adopts. Every routine that needs no matrix cores is
//! tried, and the fastest taken.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use cubecl::Device;
use cubecl::client::Client;
use cubecl::prelude::*;
use cubecl::std::tensor::TensorHandle;
use cubecl::wgpu::{RuntimeOptions, WgpuSetup, init_device};
use cubek_matmul::definition::MatmulElems;
use cubek_matmul::launch::launch_ref;
use cubek_matmul::multi_level::Strategy as MultiLevel;
use cubek_matmul::strategy::Strategy;
use cubek_matmul::tiled::Strategy as Tiled;
use cubek_std::InputBinding;
use refrain::wgpu;

use crate::{Run, Shape, check};

pub struct Cube {
    client: Client,
}

impl Cube {
    /// A device of the adapter with all that it can do.
    pub fn new(instance: &wgpu::Instance, adapter: &wgpu::Adapter) -> Self {
        let descriptor = wgpu::DeviceDescriptor {
            required_features: adapter.features() - wgpu::Features::all_experimental_mask() - wgpu::Features::MAPPABLE_PRIMARY_BUFFERS,
            required_limits: adapter.limits(),
            ..Default::default()
        };
        let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).expect("a device");
        let backend = adapter.get_info().backend;
        let setup = WgpuSetup { instance: instance.clone(), adapter: adapter.clone(), device, queue, backend };
        Self { client: Device::Wgpu(init_device(setup, RuntimeOptions::default())).client() }
    }

    /// Their fastest routine for a product in f32, by name.
    pub fn best(&self, shape: Shape, w: &[f32], x: &[f32]) -> Option<(&'static str, Run<'_>)> {
        let routines: [(&'static str, Strategy); 8] = [
            ("auto", Strategy::Auto),
            ("unit", MultiLevel::SimpleUnit(Default::default()).into()),
            ("2 unit", MultiLevel::DoubleUnit(Default::default()).into()),
            ("vecmat", MultiLevel::SimpleVecMat(Default::default()).into()),
            ("2 vecmat", MultiLevel::DoubleVecMat(Default::default()).into()),
            ("gemv", MultiLevel::GemvUnitPerpendicular(Default::default()).into()),
            ("naive", MultiLevel::Naive.into()),
            ("cpu gemm", Tiled::CpuGemm(Default::default()).into()),
        ];
        let mut found: Vec<(f64, &str, Run)> = Vec::new();
        for (name, routine) in routines {
            // A routine that a device or a shape does not suit says so by an error, or by a panic.
            let tried = catch_unwind(AssertUnwindSafe(|| {
                let mut run = self.product(shape, routine, w, x)?;
                run(1);
                let started = Instant::now();
                run(2);
                Some((started.elapsed().as_secs_f64(), name, run))
            }));
            found.extend(tried.ok().flatten());
        }
        found.sort_by(|a, b| a.0.total_cmp(&b.0));
        found.into_iter().next().map(|(_, name, run)| (name, run))
    }

    fn product(&self, shape: Shape, routine: Strategy, w: &[f32], x: &[f32]) -> Option<Run<'_>> {
        let Shape { rows, outs, ins } = shape;
        let dtype = f32::elem_type_native();
        let tensor = |numbers: &[f32], shape: [usize; 2]| {
            TensorHandle::new_contiguous(shape.to_vec(), self.client.create_from_slice(bytemuck::cast_slice(numbers)), dtype)
        };
        let x_tensor = tensor(x, [rows, ins]);
        // (ins, outs), and as it lies in memory (outs, ins): the layout that inference has.
        let mut w_tensor = tensor(w, [outs, ins]);
        w_tensor.metadata.shape_mut().swap(0, 1);
        w_tensor.metadata.strides_mut().swap(0, 1);
        let y = tensor(&vec![0.0; rows * outs], [rows, outs]);
        let launch = move || {
            let (x, w) = (InputBinding::Normal(x_tensor.clone().binding(), dtype), InputBinding::Normal(w_tensor.clone().binding(), dtype));
            let mut elems = MatmulElems::from_single_dtype(dtype);
            launch_ref(&routine, &self.client, x, w, y.clone().binding(), &mut elems).map(|()| y.handle.clone())
        };
        let y = launch().ok()?;
        let result = self.client.read_one(y).ok()?;
        check("cubecl", shape, w, x, bytemuck::cast_slice(&result));
        Some(Box::new(move |times| {
            for _ in 0..times {
                launch().expect("launched before");
            }
            pollster::block_on(self.client.sync()).expect("done");
        }))
    }
}
