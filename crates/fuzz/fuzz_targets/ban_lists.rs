//! The target `ban_lists` for libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = tidegate_fuzz::ban_lists::run(bytes);
});
