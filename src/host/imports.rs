//! Imports of our own, for what proxy-wasm's `hostcalls` do not do:
//!
//! * the local response: the crate passes no details, and no header value that is not text;
//! * changes of headers: the crate panics on `BadArgument`, Envoy's answer outside a map's
//!   phase, and which phase a request is in when a callout ends is for Envoy to say;
//! * all headers of a map: the crate makes two allocations of each, and panics on a name that is not text;
//! * attributes: the crate panics on `BadArgument`, Envoy's answer when another filter of
//!   the chain, or another plugin configuration of this one, has set the attribute;
//! * the monotonic clock: WASI's, whose number `std::time::Instant` keeps to itself. All
//!   VMs of a process read the same one, and leases in shared data are compared by it.

use proxy_wasm::types::MapType;

use super::{HeaderMap, HostError};

type Bytes = *const u8;

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    fn proxy_get_header_map_pairs(map: u32, bytes: *mut *mut u8, len: *mut usize) -> u32;
    fn proxy_get_property(path: Bytes, len: usize, bytes: *mut *mut u8, bytes_len: *mut usize) -> u32;
    fn proxy_add_header_map_value(map: u32, name: Bytes, len: usize, value: Bytes, value_len: usize) -> u32;
    fn proxy_replace_header_map_value(
        map: u32,
        name: Bytes,
        len: usize,
        value: Bytes,
        value_len: usize,
    ) -> u32;
    fn proxy_remove_header_map_value(map: u32, name: Bytes, len: usize) -> u32;
    fn proxy_set_property(path: Bytes, len: usize, value: Bytes, value_len: usize) -> u32;
    fn proxy_send_local_response(
        status: u32,
        details: Bytes,
        details_len: usize,
        body: Bytes,
        body_len: usize,
        headers: Bytes,
        headers_len: usize,
        grpc_status: i32,
    ) -> u32;
}

#[link(wasm_import_module = "wasi_snapshot_preview1")]
unsafe extern "C" {
    fn clock_time_get(clock: u32, precision: u64, time: *mut u64) -> u16;
}

const WASI_MONOTONIC: u32 = 1;
/// No gRPC status: Envoy derives one from the HTTP status for gRPC requests.
const GRPC_UNSET: i32 = -1;

/// `proxy_status_t` as an error.
pub(super) fn error(status: u32) -> HostError {
    match status {
        1 => HostError::NotFound,
        2 => HostError::BadArgument,
        8 => HostError::CasMismatch,
        10 => HostError::Refused,
        other => HostError::Other(other),
    }
}

fn check(status: u32) -> Result<(), HostError> {
    if status == 0 { Ok(()) } else { Err(error(status)) }
}

/// What Envoy returned by `call`, which takes the places for pointer and length of what it allocated.
fn returned(call: impl FnOnce(*mut *mut u8, *mut usize) -> u32) -> Result<Vec<u8>, HostError> {
    let (mut bytes, mut len) = (std::ptr::null_mut(), 0);
    check(call(&raw mut bytes, &raw mut len))?;
    // SAFETY: Envoy has so many bytes from `proxy_on_memory_allocate`, the crate's, which makes them out of
    // a vector of this length and capacity, and leaves them to whoever asked.
    Ok(if bytes.is_null() { Vec::new() } else { unsafe { Vec::from_raw_parts(bytes, len, len) } })
}

/// All lines of a map; none where Envoy has no such map now.
pub(super) fn header_map(map: MapType) -> HeaderMap {
    // SAFETY: Envoy writes both numbers, and only during the call.
    let bytes = returned(|bytes, len| unsafe { proxy_get_header_map_pairs(map as u32, bytes, len) });
    HeaderMap::from_bytes(bytes.unwrap_or_default())
}

/// An attribute. One that is empty is absent, as the crate has it.
pub(super) fn property(path: &str) -> Result<Option<Vec<u8>>, HostError> {
    // SAFETY: Envoy reads the slice and writes both numbers, and only during the call.
    let found = returned(|bytes, len| unsafe { proxy_get_property(path.as_ptr(), path.len(), bytes, len) });
    match found {
        Ok(value) => Ok(Some(value).filter(|value| !value.is_empty())),
        Err(HostError::NotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn add_header(map: MapType, name: &str, value: &[u8]) -> Result<(), HostError> {
    let (map, len) = (map as u32, name.len());
    // SAFETY: Envoy reads both slices, and only during the call.
    check(unsafe { proxy_add_header_map_value(map, name.as_ptr(), len, value.as_ptr(), value.len()) })
}

pub(super) fn set_header(map: MapType, name: &str, value: &[u8]) -> Result<(), HostError> {
    let (map, len) = (map as u32, name.len());
    // SAFETY: Envoy reads both slices, and only during the call.
    check(unsafe { proxy_replace_header_map_value(map, name.as_ptr(), len, value.as_ptr(), value.len()) })
}

pub(super) fn remove_header(map: MapType, name: &str) -> Result<(), HostError> {
    // SAFETY: Envoy reads the slice, and only during the call.
    check(unsafe { proxy_remove_header_map_value(map as u32, name.as_ptr(), name.len()) })
}

pub(super) fn set_property(path: &str, value: &[u8]) -> Result<(), HostError> {
    // SAFETY: Envoy reads both slices, and only during the call.
    check(unsafe { proxy_set_property(path.as_ptr(), path.len(), value.as_ptr(), value.len()) })
}

/// `headers`: in the form of [`super::map_bytes`].
pub(super) fn reply(status: u16, details: &str, body: &[u8], headers: &[u8]) -> Result<(), HostError> {
    // SAFETY: Envoy reads all slices, and only during the call.
    check(unsafe {
        proxy_send_local_response(
            status.into(),
            details.as_ptr(),
            details.len(),
            body.as_ptr(),
            body.len(),
            headers.as_ptr(),
            headers.len(),
            GRPC_UNSET,
        )
    })
}

pub(super) fn monotonic_ns() -> u64 {
    let mut time = 0;
    // SAFETY: Envoy writes the number during the call. It answers this clock always.
    let _ = unsafe { clock_time_get(WASI_MONOTONIC, 1, &raw mut time) };
    time
}
