#![no_main]
libfuzzer_sys::fuzz_target!(init: refrain_fuzz::seeds::write("config"), |data: &[u8]| refrain_fuzz::doors::config::enter(data));
