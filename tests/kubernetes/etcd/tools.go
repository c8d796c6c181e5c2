// Package etcd pins the store of the API server that the cluster suite and the demo run.
package etcd

import _ "go.etcd.io/etcd/server/v3"
