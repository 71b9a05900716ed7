//! The proxy-wasm 0.2.1 imports and the memory rules that come with them. A call
//! that returns bytes makes Envoy allocate them with our `proxy_on_memory_allocate`
//! (`adapter.rs`), a boxed slice, and they are ours afterwards.

use std::ptr::null_mut;

use crate::host::HostError;

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    fn proxy_log(level: u32, text: *const u8, text_len: usize) -> u32;
    fn proxy_get_current_time_nanoseconds(time: *mut u64) -> u32;
    fn proxy_set_tick_period_milliseconds(period: u32) -> u32;
    fn proxy_set_effective_context(context: u32) -> u32;
    fn proxy_continue_stream(stream: u32) -> u32;
    fn proxy_get_buffer_bytes(
        kind: u32,
        start: usize,
        max: usize,
        data: *mut *mut u8,
        len: *mut usize,
    ) -> u32;
    fn proxy_get_header_map_pairs(map: u32, data: *mut *mut u8, len: *mut usize) -> u32;
    fn proxy_get_header_map_value(
        map: u32,
        name: *const u8,
        name_len: usize,
        data: *mut *mut u8,
        len: *mut usize,
    ) -> u32;
    fn proxy_add_header_map_value(
        map: u32,
        name: *const u8,
        name_len: usize,
        value: *const u8,
        value_len: usize,
    ) -> u32;
    fn proxy_replace_header_map_value(
        map: u32,
        name: *const u8,
        name_len: usize,
        value: *const u8,
        value_len: usize,
    ) -> u32;
    fn proxy_remove_header_map_value(map: u32, name: *const u8, name_len: usize) -> u32;
    fn proxy_get_property(path: *const u8, path_len: usize, data: *mut *mut u8, len: *mut usize) -> u32;
    fn proxy_set_property(path: *const u8, path_len: usize, value: *const u8, value_len: usize) -> u32;
    fn proxy_get_shared_data(
        key: *const u8,
        key_len: usize,
        data: *mut *mut u8,
        len: *mut usize,
        cas: *mut u32,
    ) -> u32;
    fn proxy_set_shared_data(
        key: *const u8,
        key_len: usize,
        value: *const u8,
        value_len: usize,
        cas: u32,
    ) -> u32;
    fn proxy_register_shared_queue(name: *const u8, name_len: usize, queue: *mut u32) -> u32;
    fn proxy_resolve_shared_queue(
        vm_id: *const u8,
        vm_id_len: usize,
        name: *const u8,
        name_len: usize,
        queue: *mut u32,
    ) -> u32;
    fn proxy_dequeue_shared_queue(queue: u32, data: *mut *mut u8, len: *mut usize) -> u32;
    fn proxy_enqueue_shared_queue(queue: u32, value: *const u8, value_len: usize) -> u32;
    fn proxy_send_local_response(
        status: u32,
        details: *const u8,
        details_len: usize,
        body: *const u8,
        body_len: usize,
        headers: *const u8,
        headers_len: usize,
        grpc_status: i32,
    ) -> u32;
    fn proxy_http_call(
        cluster: *const u8,
        cluster_len: usize,
        headers: *const u8,
        headers_len: usize,
        body: *const u8,
        body_len: usize,
        trailers: *const u8,
        trailers_len: usize,
        timeout_ms: u32,
        token: *mut u32,
    ) -> u32;
    fn proxy_call_foreign_function(
        name: *const u8,
        name_len: usize,
        arguments: *const u8,
        arguments_len: usize,
        results: *mut *mut u8,
        results_len: *mut usize,
    ) -> u32;
    fn proxy_define_metric(kind: u32, name: *const u8, name_len: usize, metric: *mut u32) -> u32;
    fn proxy_increment_metric(metric: u32, by: i64) -> u32;
    fn proxy_record_metric(metric: u32, value: u64) -> u32;
    fn proxy_get_metric(metric: u32, value: *mut u64) -> u32;
}

#[link(wasm_import_module = "wasi_snapshot_preview1")]
unsafe extern "C" {
    fn clock_time_get(clock: u32, precision: u64, time: *mut u64) -> u16;
}

const WASI_MONOTONIC: u32 = 1;
/// No gRPC status: Envoy maps the HTTP status for gRPC requests.
const GRPC_UNSET: i32 = -1;

/// A status as an error.
pub(super) fn error(status: u32) -> HostError {
    match status {
        1 => HostError::NotFound,
        2 => HostError::BadArgument,
        8 => HostError::CasMismatch,
        10 => HostError::Refused,
        other => HostError::Other(other),
    }
}

/// `proxy_status_t` "Empty": a queue without messages.
const EMPTY: u32 = 7;

fn check(status: u32) -> Result<(), HostError> {
    if status == 0 { Ok(()) } else { Err(error(status)) }
}

/// Runs a call that returns bytes, and takes them over.
fn bytes(call: impl FnOnce(*mut *mut u8, *mut usize) -> u32) -> Result<Vec<u8>, HostError> {
    let (mut data, mut len) = (null_mut(), 0usize);
    check(call(&raw mut data, &raw mut len))?;
    if data.is_null() || len == 0 {
        return Ok(Vec::new());
    }
    // SAFETY: on success Envoy has written `len` bytes into memory that it got
    // from `proxy_on_memory_allocate(len)`, which leaks a `Box<[u8]>` of exactly
    // that length, and it keeps no pointer to it.
    Ok(unsafe { Vec::from_raw_parts(data, len, len) })
}

pub(super) fn log(level: u32, message: &str) {
    // SAFETY: Envoy reads the text during the call only. A line that could not
    // be logged has nowhere else to go.
    let _ = unsafe { proxy_log(level, message.as_ptr(), message.len()) };
}

pub(super) fn wall_ns() -> u64 {
    let mut time = 0;
    // SAFETY: Envoy writes the number during the call only.
    let _ = unsafe { proxy_get_current_time_nanoseconds(&raw mut time) };
    time
}

pub(super) fn monotonic_ns() -> u64 {
    let mut time = 0;
    // SAFETY: Envoy writes the number during the call only.
    let _ = unsafe { clock_time_get(WASI_MONOTONIC, 1, &raw mut time) };
    time
}

pub(super) fn set_tick(milliseconds: u32) -> Result<(), HostError> {
    // SAFETY: numbers only.
    check(unsafe { proxy_set_tick_period_milliseconds(milliseconds) })
}

pub(super) fn set_effective_context(context: u32) -> Result<(), HostError> {
    // SAFETY: numbers only.
    check(unsafe { proxy_set_effective_context(context) })
}

pub(super) fn resume(stream: u32) -> Result<(), HostError> {
    // SAFETY: numbers only.
    check(unsafe { proxy_continue_stream(stream) })
}

pub(super) fn buffer(kind: u32, max: usize) -> Result<Vec<u8>, HostError> {
    // SAFETY: see `bytes`.
    bytes(|data, len| unsafe { proxy_get_buffer_bytes(kind, 0, max, data, len) })
}

pub(super) fn header_map(map: u32) -> Result<Vec<u8>, HostError> {
    // SAFETY: see `bytes`.
    bytes(|data, len| unsafe { proxy_get_header_map_pairs(map, data, len) })
}

pub(super) fn header(map: u32, name: &str) -> Result<Vec<u8>, HostError> {
    // SAFETY: see `bytes`; the name is read during the call only.
    bytes(|data, len| unsafe { proxy_get_header_map_value(map, name.as_ptr(), name.len(), data, len) })
}

pub(super) fn add_header(map: u32, name: &str, value: &[u8]) -> Result<(), HostError> {
    // SAFETY: both slices are read during the call only.
    check(unsafe { proxy_add_header_map_value(map, name.as_ptr(), name.len(), value.as_ptr(), value.len()) })
}

pub(super) fn set_header(map: u32, name: &str, value: &[u8]) -> Result<(), HostError> {
    // SAFETY: both slices are read during the call only.
    check(unsafe {
        proxy_replace_header_map_value(map, name.as_ptr(), name.len(), value.as_ptr(), value.len())
    })
}

pub(super) fn remove_header(map: u32, name: &str) -> Result<(), HostError> {
    // SAFETY: the name is read during the call only.
    check(unsafe { proxy_remove_header_map_value(map, name.as_ptr(), name.len()) })
}

pub(super) fn property(path: &[u8]) -> Result<Vec<u8>, HostError> {
    // SAFETY: see `bytes`; the path is read during the call only.
    bytes(|data, len| unsafe { proxy_get_property(path.as_ptr(), path.len(), data, len) })
}

pub(super) fn set_property(path: &str, value: &[u8]) -> Result<(), HostError> {
    // SAFETY: both slices are read during the call only.
    check(unsafe { proxy_set_property(path.as_ptr(), path.len(), value.as_ptr(), value.len()) })
}

pub(super) fn shared_get(key: &str) -> Result<(Vec<u8>, u32), HostError> {
    let mut cas = 0;
    // SAFETY: see `bytes`; the key is read and the token written during the call only.
    let value = bytes(|data, len| unsafe {
        proxy_get_shared_data(key.as_ptr(), key.len(), data, len, &raw mut cas)
    })?;
    Ok((value, cas))
}

pub(super) fn shared_set(key: &str, value: &[u8], cas: u32) -> Result<(), HostError> {
    // SAFETY: both slices are read during the call only.
    check(unsafe { proxy_set_shared_data(key.as_ptr(), key.len(), value.as_ptr(), value.len(), cas) })
}

pub(super) fn queue_register(name: &str) -> Result<u32, HostError> {
    let mut queue = 0;
    // SAFETY: the name is read and the number written during the call only.
    check(unsafe { proxy_register_shared_queue(name.as_ptr(), name.len(), &raw mut queue) })?;
    Ok(queue)
}

pub(super) fn queue_resolve(name: &str) -> Result<u32, HostError> {
    let (own_vm_id, mut queue) = ("", 0);
    // SAFETY: the texts are read and the number written during the call only.
    check(unsafe {
        proxy_resolve_shared_queue(
            own_vm_id.as_ptr(),
            own_vm_id.len(),
            name.as_ptr(),
            name.len(),
            &raw mut queue,
        )
    })?;
    Ok(queue)
}

pub(super) fn enqueue(queue: u32, message: &[u8]) -> Result<(), HostError> {
    // SAFETY: the message is read during the call only.
    check(unsafe { proxy_enqueue_shared_queue(queue, message.as_ptr(), message.len()) })
}

pub(super) fn dequeue(queue: u32) -> Result<Option<Vec<u8>>, HostError> {
    // SAFETY: see `bytes`.
    match bytes(|data, len| unsafe { proxy_dequeue_shared_queue(queue, data, len) }) {
        Ok(message) => Ok(Some(message)),
        Err(HostError::Other(EMPTY)) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn reply(status: u32, details: &str, body: &[u8], headers: &[u8]) -> Result<(), HostError> {
    // SAFETY: all slices are read during the call only.
    check(unsafe {
        proxy_send_local_response(
            status,
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

/// Starts a call without trailers.
pub(super) fn http_call(
    cluster: &str,
    headers: &[u8],
    body: &[u8],
    timeout_ms: u32,
) -> Result<u32, HostError> {
    // A header map of no lines.
    let (trailers, mut token) = ([0u8; 4], 0);
    // SAFETY: all slices are read and the number written during the call only.
    check(unsafe {
        proxy_http_call(
            cluster.as_ptr(),
            cluster.len(),
            headers.as_ptr(),
            headers.len(),
            body.as_ptr(),
            body.len(),
            trailers.as_ptr(),
            trailers.len(),
            timeout_ms,
            &raw mut token,
        )
    })?;
    Ok(token)
}

/// Calls a function of Envoy's own; what it returns is thrown away.
pub(super) fn foreign(name: &str, arguments: &[u8]) -> Result<(), HostError> {
    // SAFETY: see `bytes`; name and arguments are read during the call only.
    bytes(|data, len| unsafe {
        proxy_call_foreign_function(name.as_ptr(), name.len(), arguments.as_ptr(), arguments.len(), data, len)
    })
    .map(drop)
}

pub(super) fn define_metric(kind: u32, name: &str) -> Result<u32, HostError> {
    let mut metric = 0;
    // SAFETY: the name is read and the number written during the call only.
    check(unsafe { proxy_define_metric(kind, name.as_ptr(), name.len(), &raw mut metric) })?;
    Ok(metric)
}

pub(super) fn add_metric(metric: u32, by: i64) -> Result<(), HostError> {
    // SAFETY: numbers only.
    check(unsafe { proxy_increment_metric(metric, by) })
}

pub(super) fn set_metric(metric: u32, value: u64) -> Result<(), HostError> {
    // SAFETY: numbers only.
    check(unsafe { proxy_record_metric(metric, value) })
}

pub(super) fn metric(metric: u32) -> Result<u64, HostError> {
    let mut value = 0;
    // SAFETY: the number is written during the call only.
    check(unsafe { proxy_get_metric(metric, &raw mut value) })?;
    Ok(value)
}
