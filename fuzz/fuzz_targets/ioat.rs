#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| uvfio_fuzz::ioat::run(data));
