//! Faults put in on purpose, at every place where one can happen: reads, writes, allocations, a device that goes away, numbers that are
//! none. Each ends in a typed error, and what comes after it works.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

pub mod full;
#[cfg(feature = "wgpu-interop")]
mod lost;
#[cfg(feature = "wgpu-interop")]
mod memory;
mod numbers;
mod reads;

use std::borrow::Cow;
use std::io::{Error, ErrorKind, Result};
use std::sync::Arc;
use std::sync::Mutex;

use pollster::block_on;
#[cfg(feature = "wgpu-interop")]
use refrain::backend::{Backend, OwnDevice};
use refrain::backend::{DeviceChoice, DeviceOptions};
use refrain::model::Options;
use refrain::model::files::{Reader, Source};
#[cfg(feature = "wgpu-interop")]
use refrain::wgpu;
use refrain::{Model, shipped};

/// A shipped model of either kind of attention.
const MODELS: [&str; 2] = ["follow", "cups"];

/// Options that take little time and memory.
fn small(device: DeviceOptions) -> Options {
    Options { device, context: Some(32), loops: Some(4), chunk: Some(8), ..Options::default() }
}

fn on_cpu() -> Options {
    small(DeviceOptions { device: DeviceChoice::Cpu, ..DeviceOptions::default() })
}

fn open(source: &Source, options: &Options) -> refrain::Result<Model> {
    block_on(Model::open(source, options, &mut |_| {}))
}

/// A device of the tests' own on a software GPU, of which they see what is left behind, and which they can take away.
#[cfg(feature = "wgpu-interop")]
struct Own {
    instance: wgpu::Instance,
    adapter: wgpu::Adapter,
    device: wgpu::Device,
    queue: wgpu::Queue,
}

#[cfg(feature = "wgpu-interop")]
impl Own {
    /// On the software GPU of this name, if it is there.
    fn open(name: &'static str) -> Option<Self> {
        crate::devices::adapter(name)?;
        let backends = wgpu::Backends::VULKAN;
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor { backends, ..wgpu::InstanceDescriptor::new_without_display_handle() });
        let adapters = block_on(instance.enumerate_adapters(backends));
        let adapter = adapters.into_iter().find(|adapter| adapter.get_info().name.contains(name)).unwrap();
        let required_features = adapter.features() & wgpu::Features::SUBGROUP;
        let required_limits = wgpu::Limits { max_buffer_size: adapter.limits().max_buffer_size, ..wgpu::Limits::default() };
        let descriptor = wgpu::DeviceDescriptor { required_features, required_limits, ..wgpu::DeviceDescriptor::default() };
        let (device, queue) = block_on(adapter.request_device(&descriptor)).unwrap();
        Some(Self { instance, adapter, device, queue })
    }

    fn backend(&self, options: &DeviceOptions) -> refrain::Result<Backend> {
        let Self { adapter, device, queue, .. } = self;
        Backend::from_wgpu(OwnDevice { adapter: adapter.clone(), device: device.clone(), queue: queue.clone() }, options)
    }

    /// Buffers that are alive.
    fn buffers(&self) -> usize {
        self.instance.generate_report().unwrap().hub.buffers.num_allocated
    }
}

/// The files of a shipped model.
fn files(model: &str) -> Vec<(String, Cow<'static, [u8]>)> {
    let Some(Source::Memory { files, .. }) = shipped::source(model) else { panic!("{model} is shipped") };
    files
}

/// What goes wrong with one of the reads, counted from 0.
#[derive(Clone, Debug, Default)]
enum Fault {
    #[default]
    None,
    /// It fails.
    Refused(usize),
    /// It ends before all is there.
    Short(usize),
    /// Any read gives these bytes of the weights, from this one on.
    Bytes(usize, Vec<u8>),
}

/// Files that count their reads and spoil one.
#[derive(Debug)]
struct Spoiled {
    files: Vec<(String, Cow<'static, [u8]>)>,
    fault: Mutex<Fault>,
    /// Which file each read was of.
    reads: Mutex<Vec<String>>,
}

impl Spoiled {
    fn new(files: Vec<(String, Cow<'static, [u8]>)>) -> Arc<Self> {
        Arc::new(Self { files, fault: Mutex::default(), reads: Mutex::default() })
    }

    fn source(self: &Arc<Self>) -> Source {
        Source::Reader { name: "spoiled".into(), files: self.clone() }
    }

    /// From here on this goes wrong; reads are counted anew.
    fn spoil(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
        self.reads.lock().unwrap().clear();
    }

    /// The files of the reads since.
    fn reads(&self) -> Vec<String> {
        self.reads.lock().unwrap().clone()
    }

    fn bytes(&self, file: &str) -> Option<&[u8]> {
        self.files.iter().find(|(name, _)| name == file).map(|(_, bytes)| bytes.as_ref())
    }
}

impl Reader for Spoiled {
    fn names(&self) -> Vec<String> {
        self.files.iter().map(|(name, _)| name.clone()).collect()
    }

    fn length(&self, file: &str) -> Option<u64> {
        self.bytes(file).map(|bytes| bytes.len() as u64)
    }

    fn read(&self, file: &str, offset: u64, into: &mut [u8]) -> Result<()> {
        let mut reads = self.reads.lock().unwrap();
        let number = reads.len();
        reads.push(file.into());
        let start = offset as usize;
        let part = self.bytes(file).and_then(|bytes| bytes.get(start..start + into.len())).ok_or(ErrorKind::UnexpectedEof)?;
        match &*self.fault.lock().unwrap() {
            Fault::Refused(at) if *at == number => return Err(Error::other("the disk is gone")),
            Fault::Short(at) if *at == number => {
                let half = part.len() / 2;
                into[..half].copy_from_slice(&part[..half]);
                return Err(ErrorKind::UnexpectedEof.into());
            }
            Fault::Bytes(at, bytes) if file.ends_with(".safetensors") => {
                into.copy_from_slice(part);
                for (i, byte) in bytes.iter().enumerate() {
                    if let Some(to) = (at + i).checked_sub(start).and_then(|at| into.get_mut(at)) {
                        *to = *byte;
                    }
                }
            }
            _ => into.copy_from_slice(part),
        }
        Ok(())
    }
}
