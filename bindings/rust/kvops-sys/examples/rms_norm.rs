//! Normalises two rows, then shows what a refused call says.
use kvops_sys::*;
use std::ffi::CStr;

fn last_error() -> String {
    let text = unsafe { CStr::from_ptr(kvops_last_error()) };
    text.to_string_lossy().into_owned()
}

fn main() {
    let input = [3.0f32, 4.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0];
    let weight = [1.0f32, 2.0, 3.0, 4.0];
    let mut out = [0.0f32; 8];
    let mut args = kvops_rms_norm_args::default();
    args.input = cpu_tensor(input.as_ptr().cast(), KVOPS_F32, &[2, 4]);
    args.weight = cpu_tensor(weight.as_ptr().cast(), KVOPS_F32, &[4]);
    args.out = cpu_tensor(out.as_mut_ptr().cast(), KVOPS_F32, &[2, 4]);
    args.epsilon = 1e-6;
    // SAFETY: the tensors describe live arrays of these sizes.
    let status = unsafe { kvops_rms_norm(&args) };
    assert_eq!(status, KVOPS_OK, "{}", last_error());
    let want = [1.2, 3.2, 0.0, 0.0, 1.0, 2.0, 3.0, 4.0];
    assert!(out.iter().zip(want).all(|(x, w)| (x - w).abs() < 1e-5));

    args.weight.shape[0] = 3;
    let status = unsafe { kvops_rms_norm(&args) };
    assert_eq!(status, KVOPS_INVALID_ARGUMENT);
    assert!(last_error().starts_with("rms_norm: weight: shape[0] is 3, expected 4"));
    println!("{out:?}\n{}", last_error());
}
