package storagetest_test

import (
	"testing"

	"vitalwatch/storage"
	"vitalwatch/storage/storagetest"
)

func TestMemory_conforms(t *testing.T) {
	storagetest.Run(t, func(*testing.T) storage.Readings { return storagetest.NewMemory() })
}
