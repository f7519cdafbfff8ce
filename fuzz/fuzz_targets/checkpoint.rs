#![no_main]
libfuzzer_sys::fuzz_target!(init: refrain_fuzz::seeds::write("checkpoint"), |data: &[u8]| refrain_fuzz::doors::checkpoint::enter(data));
