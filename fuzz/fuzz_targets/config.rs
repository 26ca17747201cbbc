#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| uvfio_fuzz::config::run(data));
