//! The target `country_files` for libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = tidegate_fuzz::country_files::run(bytes);
});
