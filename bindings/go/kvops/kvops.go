// Package kvops calls libkvops.so: KV-cache, paged-attention, norm, RoPE and activation operators.
//
//	err := kvops.RmsNorm(&kvops.RmsNormArgs{Input: x, Weight: w, Out: y, Epsilon: 1e-6})
//
// One function and one struct per operator, written by tools/bindgen.py from the library's table.
// A Tensor may point to Go or C memory: structs reach C by value, so cgo's pointer rules hold.
package kvops

// #cgo pkg-config: kvops
// #include <kvcache_ops.h>
import "C"

import (
	"fmt"
	"unsafe"
)

// Dtype is kvops_dtype; Status is kvops_status.
type (
	Dtype  int32
	Status int32
)

// MaxRank of a Tensor.
const MaxRank = 6

// Types of a Device.
const (
	CPU  = 1
	CUDA = 2
	HIP  = 10
)

// Device is kvops_device.
type Device struct {
	Type, Index int32
}

// Tensor is kvops_tensor; the zero value is an absent tensor.
type Tensor struct {
	Data   unsafe.Pointer
	Device Device
	Dtype  Dtype
	Rank   int32
	Shape  [MaxRank]int64
	Stride [MaxRank]int64
	Stream unsafe.Pointer
}

var _ = [1]byte{}[unsafe.Sizeof(Tensor{})-128]

// Dense describes a row-major tensor in CPU memory.
func Dense(data unsafe.Pointer, dtype Dtype, shape ...int64) Tensor {
	t := Tensor{Data: data, Device: Device{Type: CPU}, Dtype: dtype, Rank: int32(len(shape))}
	step := int64(1)
	for i := len(shape) - 1; i >= 0; i-- {
		t.Shape[i], t.Stride[i] = shape[i], step
		step *= shape[i]
	}
	return t
}

// Float32s describes a slice as a dense tensor of this shape.
func Float32s(data []float32, shape ...int64) Tensor {
	if len(data) == 0 {
		return Dense(nil, F32, shape...)
	}
	return Dense(unsafe.Pointer(&data[0]), F32, shape...)
}

// Error is a refused or failed call; Element is -1 when no element is at fault.
type Error struct {
	Status                Status
	Op, Argument, Message string
	Element               int64
}

// Error is the library's sentence.
func (e *Error) Error() string { return e.Message }

func (s Status) String() string { return C.GoString(C.kvops_status_string(C.kvops_status(s))) }

// Version of the loaded library.
func Version() string {
	v := int(C.kvops_version())
	return fmt.Sprintf("%d.%d.%d", v/10000, v/100%100, v%100)
}

// check makes an error of a status; the caller has locked the thread, which has the text.
func check(status C.kvops_status) error {
	if status == C.KVOPS_OK {
		return nil
	}
	var e C.kvops_error
	e.struct_size = C.sizeof_kvops_error
	C.kvops_get_error(&e)
	return &Error{Status(status), C.GoString(e.op), C.GoString(e.argument),
		C.GoString(e.message), int64(e.element)}
}
