// Normalises two rows, then shows what a refused call says.
package main

import (
	"fmt"
	"log"
	"math"

	"kvops/kvops"
)

func main() {
	input, weight := []float32{3, 4, 0, 0, 1, 1, 1, 1}, []float32{1, 2, 3, 4}
	out := make([]float32, 8)
	args := kvops.RmsNormArgs{Input: kvops.Float32s(input, 2, 4), Weight: kvops.Float32s(weight, 4),
		Out: kvops.Float32s(out, 2, 4), Epsilon: 1e-6}
	if err := kvops.RmsNorm(&args); err != nil {
		log.Fatal(err)
	}
	for i, want := range []float64{1.2, 3.2, 0, 0, 1, 2, 3, 4} {
		if math.Abs(float64(out[i])-want) > 1e-5 {
			log.Fatalf("out[%d] is %v, expected %v", i, out[i], want)
		}
	}
	args.Weight = kvops.Float32s(weight[:3], 3)
	err, refused := kvops.RmsNorm(&args).(*kvops.Error)
	if !refused || err.Argument != "weight" {
		log.Fatalf("a wrong weight gave %v", err)
	}
	fmt.Printf("%v\n%v\n", out, err)
}
