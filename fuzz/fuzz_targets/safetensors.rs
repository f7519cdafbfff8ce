#![no_main]
libfuzzer_sys::fuzz_target!(init: refrain_fuzz::seeds::write("safetensors"), |data: &[u8]| refrain_fuzz::doors::safetensors::enter(data));
