#![no_main]
libfuzzer_sys::fuzz_target!(init: refrain_fuzz::seeds::write("arguments"), |data: &[u8]| refrain_fuzz::doors::arguments::enter(data));
