//! refrain's side: one linear layer, recorded as often as it is to run.

use refrain::backend::{Backend, DeviceChoice, DeviceOptions, Span};
use refrain::kernels::linear::{Columns, Into, linear};
use refrain::precision::Precision;
use refrain::tensor::Dtype;

use crate::{Run, Shape, check};

pub struct Own {
    options: DeviceOptions,
}

impl Own {
    pub fn new(name: &str) -> Self {
        Self { options: DeviceOptions { device: DeviceChoice::Name(name.to_string()), ..Default::default() } }
    }

    /// The product, and the bytes of the weights.
    pub fn product(&self, shape: Shape, precision: Precision, w: &[f32], x: &[f32]) -> (Run<'static>, usize) {
        let Shape { rows, outs, ins } = shape;
        let mut backend = pollster::block_on(Backend::open(&self.options)).expect("the adapter");
        let matrix = backend.matrix("w", precision, outs, ins, 1).expect("room");
        let (stride, scales) = (precision.words(ins), precision.scale_words(ins));
        match precision {
            Precision::F32 => backend.write_matrix(&matrix, 0, w, &[]),
            // Any bits will do for the time that it takes, but for infinities: packing millions of weights takes long.
            _ => {
                let word = |bits: &f32| f32::from_bits((bits.to_bits() << 9 ^ bits.to_bits()) & 0x3bff_3bff);
                let data: Vec<f32> = w.iter().cycle().take(outs * stride).map(word).collect();
                backend.write_matrix(&matrix, 0, &data, &vec![f32::from_bits(0x2c00_2c00); outs * scales])
            }
        }
        .expect("written");
        let (from, to) = (backend.tensor("x", Dtype::F32, rows, ins).expect("room"), backend.tensor("y", Dtype::F32, rows, outs).expect("room"));
        backend.write_rows(&from, 0, ins, x).expect("written");
        let mut pass = backend.pass();
        linear(&mut pass, &matrix, Columns::from(&from), Columns::from(&to), rows, Into::Set).expect("recorded");
        let plan = backend.plan(pass).expect("a plan");
        let span = Span::words(&to, 0, 4);
        if precision == Precision::F32 {
            pollster::block_on(backend.run(&plan)).expect("it runs");
            let y = pollster::block_on(backend.read(&[Span::rows(&to, 0, rows)])).expect("read").swap_remove(0);
            check("refrain", shape, w, x, &y);
        }
        let run = move |times| {
            for _ in 0..times {
                pollster::block_on(backend.run(&plan)).expect("it runs");
            }
            pollster::block_on(backend.read(&[span])).expect("read");
        };
        (Box::new(run), 4 * outs * (stride + scales))
    }
}
