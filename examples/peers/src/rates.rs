//! What the adapter can do at best: how fast plain kernels read a buffer that no cache holds, and how fast they multiply and add in
//! registers. Several shapes of each are tried, and the fastest taken: which one it is differs from device to device.

use std::time::Instant;

use refrain::wgpu;
use wgpu::util::DeviceExt;

/// Words of the buffer: 128 MiB.
const WORDS: u32 = 32 << 20;

/// The fastest of a kind.
pub struct Rate {
    pub name: String,
    /// Bytes, or operations, of one run.
    pub count: f64,
    pub run: Box<dyn Fn(usize)>,
}

pub struct Rates {
    device: wgpu::Device,
    queue: wgpu::Queue,
    buffers: [wgpu::Buffer; 3],
}

impl Rates {
    pub fn new(adapter: &wgpu::Adapter) -> Self {
        let required_limits = wgpu::Limits {
            max_storage_buffer_binding_size: adapter.limits().max_storage_buffer_binding_size,
            ..wgpu::Limits::default()
        };
        let descriptor = wgpu::DeviceDescriptor { required_limits, ..Default::default() };
        let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).expect("a device");
        let buffer = |size, usage| device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false });
        let contents = &[2u32, 0, 0, 0].map(u32::to_le_bytes).concat();
        let params = wgpu::util::BufferInitDescriptor { label: None, contents, usage: wgpu::BufferUsages::UNIFORM };
        let params = device.create_buffer_init(&params);
        let buffers = [params, buffer(4 * u64::from(WORDS), wgpu::BufferUsages::STORAGE), buffer(1 << 24, wgpu::BufferUsages::STORAGE)];
        Self { device, queue, buffers }
    }

    /// The best of several ways to read: each thread a row of its own, or neighbouring threads neighbouring memory.
    pub fn read(&self) -> Rate {
        let mut found = Vec::new();
        for workgroup in [8, 64, 256] {
            for (way, threads, step) in [("a row a thread", WORDS / 4096, "1u"), ("neighbours", 1 << 16, "threads")] {
                let vectors = WORDS / 4 / threads;
                let start = if step == "1u" { format!("thread * {vectors}u") } else { "thread".into() };
                let reads: String = (0..4).map(|u| format!("sum += w[at + {u}u * {step}]; ")).collect();
                let body = format!(
                    "let threads = {threads}u;
                    var sum = vec4<f32>();
                    var at = {start};
                    for (var i = 0u; i < {}u; i++) {{ {reads} at += 4u * {step}; }}
                    y[thread] = dot(sum, vec4<f32>(1.0));",
                    vectors / 4
                );
                found.push((format!("{way}, workgroups of {workgroup}"), 4.0 * f64::from(WORDS), workgroup, threads, body));
            }
        }
        self.best(found)
    }

    /// The best of several numbers of sums that a thread keeps in registers.
    pub fn fma(&self) -> Rate {
        let (threads, rounds, unrolled) = (1 << 14, 256, 8);
        let mut found = Vec::new();
        for workgroup in [8, 64, 256] {
            for sums in [4, 8, 12, 16] {
                let declare: String = (0..sums).map(|i| format!("var a{i} = f32(thread + {i}u); ")).collect();
                let steps: String = (0..sums).map(|i| format!("a{i} = fma(a{i}, b, c); ")).collect::<String>().repeat(unrolled);
                let total = (0..sums).map(|i| format!("a{i}")).collect::<Vec<_>>().join(" + ");
                let body = format!(
                    "{declare} let b = f32(p.x); let c = f32(p.y);
                    for (var i = 0u; i < {rounds}u; i++) {{ {steps} }} y[thread] = {total};"
                );
                let count = 2.0 * f64::from(threads * rounds * sums) * unrolled as f64;
                found.push((format!("{sums} sums, workgroups of {workgroup}"), count, workgroup, threads, body));
            }
        }
        self.best(found)
    }

    fn best(&self, kernels: Vec<(String, f64, u32, u32, String)>) -> Rate {
        let mut best: Option<(f64, Rate)> = None;
        for (name, count, workgroup, threads, body) in kernels {
            let run = self.kernel(&body, workgroup, threads);
            run(1);
            let second = |_| {
                let started = Instant::now();
                run(1);
                started.elapsed().as_secs_f64()
            };
            let rate = count / (0..5).map(second).fold(f64::INFINITY, f64::min);
            if best.as_ref().is_none_or(|(other, _)| rate > *other) {
                best = Some((rate, Rate { name, count, run }));
            }
        }
        best.expect("several kernels").1
    }

    fn kernel(&self, body: &str, workgroup: u32, threads: u32) -> Box<dyn Fn(usize)> {
        let text = format!(
            "@group(0) @binding(0) var<uniform> p: vec4<u32>;
            @group(0) @binding(1) var<storage, read> w: array<vec4<f32>>;
            @group(0) @binding(2) var<storage, read_write> y: array<f32>;
            @compute @workgroup_size({workgroup})
            fn main(@builtin(global_invocation_id) id: vec3<u32>) {{
                let thread = id.x;
                {body}
            }}"
        );
        let (device, queue) = (self.device.clone(), self.queue.clone());
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor { label: None, source: wgpu::ShaderSource::Wgsl(text.into()) });
        let entry = |binding, ty| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
            count: None,
        };
        let storage = |read_only| wgpu::BufferBindingType::Storage { read_only };
        let entries = [entry(0, wgpu::BufferBindingType::Uniform), entry(1, storage(true)), entry(2, storage(false))];
        let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries });
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: None,
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: None,
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: Default::default(),
            cache: None,
        });
        let resources = self.buffers.iter().map(wgpu::Buffer::as_entire_binding);
        let entries: Vec<_> = resources.zip(0..).map(|(resource, binding)| wgpu::BindGroupEntry { binding, resource }).collect();
        let group = device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout: &layout, entries: &entries });
        Box::new(move |times| {
            let mut encoder = device.create_command_encoder(&Default::default());
            let mut pass = encoder.begin_compute_pass(&Default::default());
            pass.set_pipeline(&pipeline);
            pass.set_bind_group(0, &group, &[]);
            for _ in 0..times {
                pass.dispatch_workgroups(threads / workgroup, 1, 1);
            }
            drop(pass);
            queue.submit([encoder.finish()]);
            device.poll(wgpu::PollType::wait_indefinitely()).expect("done");
        })
    }
}
