// Reads CDI spec files with the library that container runtimes use, and says of each whether it takes it.
package main

import (
	"fmt"
	"os"

	"github.com/container-orchestrated-devices/container-device-interface/pkg/cdi"
)

func main() {
	status := 0
	for _, path := range os.Args[1:] {
		spec, err := cdi.ReadSpec(path, 0)
		if err != nil {
			fmt.Printf("%s: %v\n", path, err)
			status = 1
			continue
		}
		fmt.Printf("%s: version %s, %d devices\n", path, spec.Version, len(spec.Devices))
	}
	os.Exit(status)
}
