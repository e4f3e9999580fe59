// Command consolebuild bundles the console's TypeScript into web/console/dist, which the binary embeds.
//
//	go run ./internal/consolebuild          # rebuild
//	go run ./internal/consolebuild -check   # fail when dist does not match the sources
package main

import (
	"flag"
	"fmt"
	"os"
	"strings"

	"vitalwatch/internal/consolebuild/bundle"
)

func main() {
	check := flag.Bool("check", false, "write nothing; fail when web/console/dist is stale")
	flag.Parse()
	if err := run(*check); err != nil {
		fmt.Fprintln(os.Stderr, "consolebuild:", err)
		os.Exit(1)
	}
}

func run(check bool) error {
	root, err := bundle.Root()
	if err != nil {
		return err
	}
	files, err := bundle.Build(root)
	if err != nil {
		return err
	}
	if !check {
		return bundle.Write(root, files)
	}
	diff, err := bundle.Stale(root, files)
	if err != nil {
		return err
	}
	if len(diff) > 0 {
		return fmt.Errorf("web/console/dist is stale; run go run ./internal/consolebuild and commit it:\n  %s", strings.Join(diff, "\n  "))
	}
	return nil
}
