// Command runtime-default adds to a container's configuration (config.json of an OCI bundle, on standard
// input) what the seccomp profile RuntimeDefault is with containerd, and writes it to standard output.
package main

import (
	"encoding/json"
	"log"
	"os"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

func main() {
	var spec specs.Spec
	if err := json.NewDecoder(os.Stdin).Decode(&spec); err != nil {
		log.Fatalf("no configuration of a container: %v", err)
	}
	spec.Linux.Seccomp = seccomp.DefaultProfile(&spec)
	if err := json.NewEncoder(os.Stdout).Encode(&spec); err != nil {
		log.Fatal(err)
	}
}
