//! The target `wire` for libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = tidegate_fuzz::wire::run(bytes);
});
