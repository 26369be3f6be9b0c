// Command etcd is etcd's server: its own main package is not published as a module that builds alone.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
