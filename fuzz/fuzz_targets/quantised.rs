#![no_main]
libfuzzer_sys::fuzz_target!(init: refrain_fuzz::seeds::write("quantised"), |data: &[u8]| refrain_fuzz::doors::quantised::enter(data));
