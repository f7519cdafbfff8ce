#![no_main]
libfuzzer_sys::fuzz_target!(init: refrain_fuzz::seeds::write("twins"), |data: &[u8]| refrain_fuzz::doors::twins::enter(data));
