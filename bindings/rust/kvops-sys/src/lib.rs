//! Raw declarations of `libkvops.so`: the C types and functions, one to one.
//!
//! `ops.rs` is written by tools/bindgen.py from the library's own table; the rest mirrors
//! `kvcache_ops/{types,device,options}.h`. Every args struct implements `Default`: zeroed, with its
//! `struct_size` set.
#![allow(non_camel_case_types)]

use std::os::raw::{c_char, c_void};

#[rustfmt::skip]
mod ops;
pub use ops::*;

pub type kvops_status = i32;
pub type kvops_dtype = i32;

pub const KVOPS_MAX_RANK: usize = 6;
pub const KVOPS_CPU: i32 = 1;
pub const KVOPS_CUDA: i32 = 2;
pub const KVOPS_HIP: i32 = 10;

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct kvops_device {
    pub r#type: i32,
    pub index: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvops_tensor {
    pub data: *mut c_void,
    pub device: kvops_device,
    pub dtype: kvops_dtype,
    pub rank: i32,
    pub shape: [i64; KVOPS_MAX_RANK],
    pub stride: [i64; KVOPS_MAX_RANK],
    pub stream: *mut c_void,
}
const _: () = assert!(std::mem::size_of::<kvops_tensor>() == 128);

impl Default for kvops_tensor {
    fn default() -> Self {
        // SAFETY: all zero is the documented absent tensor.
        unsafe { std::mem::zeroed() }
    }
}

/// A dense row-major tensor in CPU memory.
pub fn cpu_tensor(data: *const c_void, dtype: kvops_dtype, shape: &[i64]) -> kvops_tensor {
    assert!(shape.len() <= KVOPS_MAX_RANK);
    let mut tensor = kvops_tensor {
        data: data as *mut c_void,
        device: kvops_device {
            r#type: KVOPS_CPU,
            index: 0,
        },
        dtype,
        rank: shape.len() as i32,
        ..Default::default()
    };
    let mut step = 1;
    for i in (0..shape.len()).rev() {
        tensor.shape[i] = shape[i];
        tensor.stride[i] = step;
        step *= shape[i];
    }
    tensor
}

/// `Default` and the size check of an args struct.
macro_rules! args {
    ($name:ident, $size:expr) => {
        const _: () = assert!(std::mem::size_of::<$name>() == $size);
        impl Default for $name {
            fn default() -> Self {
                // SAFETY: zeroed fields are the documented defaults.
                let mut args: Self = unsafe { std::mem::zeroed() };
                args.struct_size = $size;
                args
            }
        }
    };
}
pub(crate) use args;

#[repr(C)]
pub struct kvops_error {
    pub struct_size: usize,
    pub op: *const c_char,
    pub argument: *const c_char,
    pub message: *const c_char,
    pub element: i64,
    pub status: i64,
}

#[repr(C)]
pub struct kvops_query_result {
    pub struct_size: usize,
    pub bytes: i64,
    pub implementation: *const c_char,
    pub graph_safe: i64,
    pub deterministic: i64,
}

#[repr(C)]
pub struct kvops_device_info {
    pub struct_size: usize,
    pub name: [c_char; 128],
    pub arch: [c_char; 32],
    pub memory_bytes: i64,
    pub cache_bytes: i64,
    pub compute_units: i64,
    pub warp_size: i64,
    pub fp8_e4m3: i64,
}

extern "C" {
    pub fn kvops_version() -> i32;
    pub fn kvops_status_string(status: kvops_status) -> *const c_char;
    pub fn kvops_last_error() -> *const c_char;
    pub fn kvops_clear_error();
    pub fn kvops_get_error(error: *mut kvops_error) -> kvops_status;
    pub fn kvops_dtype_name(dtype: kvops_dtype) -> *const c_char;
    pub fn kvops_dtype_size(dtype: kvops_dtype) -> i64;
    pub fn kvops_query(
        op: *const c_char,
        args: *const c_void,
        result: *mut kvops_query_result,
    ) -> kvops_status;
    pub fn kvops_call(op: *const c_char, args: *const c_void) -> kvops_status;
    pub fn kvops_device_count(r#type: i32, count: *mut i32) -> kvops_status;
    pub fn kvops_get_device_info(d: kvops_device, info: *mut kvops_device_info) -> kvops_status;
    pub fn kvops_malloc(d: kvops_device, bytes: i64, data: *mut *mut c_void) -> kvops_status;
    pub fn kvops_free(d: kvops_device, data: *mut c_void) -> kvops_status;
    pub fn kvops_malloc_pinned(d: kvops_device, bytes: i64, data: *mut *mut c_void)
        -> kvops_status;
    pub fn kvops_free_pinned(d: kvops_device, data: *mut c_void) -> kvops_status;
    pub fn kvops_copy(
        d: kvops_device,
        stream: *mut c_void,
        dst: *mut c_void,
        src: *const c_void,
        bytes: i64,
    ) -> kvops_status;
    pub fn kvops_fill(
        d: kvops_device,
        stream: *mut c_void,
        dst: *mut c_void,
        byte: i32,
        bytes: i64,
    ) -> kvops_status;
    pub fn kvops_stream_create(d: kvops_device, stream: *mut *mut c_void) -> kvops_status;
    pub fn kvops_stream_destroy(d: kvops_device, stream: *mut c_void) -> kvops_status;
    pub fn kvops_stream_synchronize(d: kvops_device, stream: *mut c_void) -> kvops_status;
    pub fn kvops_set_num_threads(threads: i64) -> kvops_status;
    pub fn kvops_set_option(name: *const c_char, value: *const c_char) -> kvops_status;
}
