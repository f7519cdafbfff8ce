#![no_main]
libfuzzer_sys::fuzz_target!(init: refrain_fuzz::seeds::write("tokenizer"), |data: &[u8]| refrain_fuzz::doors::tokenizer::enter(data));
