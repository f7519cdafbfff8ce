//! Run a model on a wgpu device that the program made itself, beside its own work:
//! `cargo run --release --features wgpu-interop --example bring_your_own_device`

#![allow(clippy::print_stdout, clippy::expect_used)] // an example prints, and knows the shipped models

use refrain::backend::{Backend, DeviceOptions, OwnDevice};
use refrain::generate::{Model, Params};
use refrain::{Error, Options, Result, shipped, wgpu};

fn main() -> Result<()> {
    pollster::block_on(async {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
        let adapter = instance
            .request_adapter(&wgpu::RequestAdapterOptions::default())
            .await
            .map_err(|e| Error::NoAdapter { reason: e.to_string() })?;
        let (device, queue) = adapter
            .request_device(&wgpu::DeviceDescriptor::default())
            .await
            .map_err(|e| Error::Gpu { doing: "opening the device".into(), reason: e.to_string() })?;

        let backend = Backend::from_wgpu(OwnDevice { adapter, device, queue }, &DeviceOptions::default())?;
        let source = shipped::source("follow").expect("a shipped model");
        let mut model = Model::open_on(backend, &source, &Options::default(), &mut |_| {})?;
        let steps = model.answer("a >b b >b ?a", Params::default()).await?;
        if let Some(query) = steps.last() {
            println!("{} answers {} after {} loops", model.engine().device().name, query.next.text, query.loops);
        }
        Ok(())
    })
}
