//! The target `callbacks` for libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = tidegate_fuzz::callbacks::run(bytes);
});
