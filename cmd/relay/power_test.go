package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A powered disk is an ext4 file system on a loop device, of which the power can be
// cut.
type poweredDisk struct {
	t           *testing.T
	device, dir string
}

func newPoweredDisk(t *testing.T) *poweredDisk {
	t.Helper()
	device, _ := loopDevice(t)
	d := &poweredDisk{t: t, device: device, dir: t.TempDir()}
	t.Cleanup(func() { syscall.Unmount(d.dir, syscall.MNT_DETACH) }) // before the device goes
	return d
}

func (d *poweredDisk) mount(options string) {
	d.t.Helper()
	if err := syscall.Mount(d.device, d.dir, "ext4", 0, options); err != nil {
		d.t.Fatalf("mount %s: %v", options, err)
	}
}

// unmount waits until nobody has a file of it open.
func (d *poweredDisk) unmount() {
	d.t.Helper()
	var err error
	for range 100 {
		if err = syscall.Unmount(d.dir, 0); err == nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	d.t.Fatal(err)
}

// Of linux/ext4.h and fs/ext4/ext4.h.
const (
	ext4Shutdown   = 0x8004587d // EXT4_IOC_SHUTDOWN
	ext4NoLogFlush = 2          // EXT4_GOING_FLAGS_NOLOGFLUSH
)

// cut is a loss of power: from now on nothing reaches the device any more, neither
// what was written and is only in memory nor what the file system has in its own
// journal to commit. Whoever still runs gets EIO, and the next mount finds what the
// device has. In one thing it is kinder than a loss of power: an fsync that is on its
// way at that moment can return success for what is lost, since somebody is there to
// hear it. So what is answered while the power is cut is not known.
func (d *poweredDisk) cut() {
	f, err := os.Open(d.dir)
	if err != nil {
		d.t.Error(err)
		return
	}
	defer f.Close()
	flags := uint32(ext4NoLogFlush)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), ext4Shutdown, uintptr(unsafe.Pointer(&flags))); errno != 0 {
		d.t.Errorf("the file system cannot be shut down: %v", errno)
	}
}

// Mounts of which each loses something else of what was not synced: data=writeback
// leaves sizes without contents, noauto_da_alloc names without them.
var powerMounts = []string{"", "data=writeback,noauto_da_alloc,commit=1", "nodelalloc,commit=1", "noauto_da_alloc,commit=300"}

const powerCuts = 6 // of a disk: its journal is young at first, then older

// TestPowerLoss cuts the power of the disk at random moments while edges push by
// remote write and to groups, and holds every page after it against the history, as
// TestCrash does: with --journal.sync=always whatever was acknowledged is there, and
// nothing is that nobody sent. Without it the same cut loses what was acknowledged:
// it is one.
func TestPowerLoss(t *testing.T) {
	wantsFaults(t)
	seed := seedOf(t)
	t.Run("os", func(t *testing.T) {
		disk := newPoweredDisk(t)
		disk.mount("")
		c, p, _ := startOn(t, filepath.Join(disk.dir, "data"), "--journal.sync=os")
		for range 200 {
			c.push(1000)
		}
		c.check("before the cut")
		if len(c.sure) != 200 {
			t.Fatalf("%d pushes of 200 are acknowledged", len(c.sure))
		}
		disk.cut()
		(*p).Signal(syscall.SIGKILL)
		(*p).wait(t)
		disk.unmount()
		disk.mount("")
		base := startBinary(t, "--journal.path="+filepath.Join(disk.dir, "data"))
		page, kept := getPage(t, base+"/metrics"), 0
		for name, v := range c.sure {
			if strings.Contains(page, fmt.Sprintf("%s{instance=\"\"} %v ", name, v)) {
				kept++
			}
		}
		if kept == len(c.sure) {
			t.Error("nothing is lost: what is shown of --journal.sync=always here proves nothing")
		}
		if shown := strings.Count(page, "disk_") - strings.Count(page, "# TYPE disk_"); shown != kept {
			t.Errorf("%d series are shown, %d of them were sent", shown, kept)
		}
		t.Logf("%d of %d acknowledged pushes are there after the cut", kept, len(c.sure))
	})
	rng := rand.New(rand.NewPCG(seed, 1))
	var refused, pages int64
	for d := range envNumber(t, "RELAY_POWER_DISKS", 2) {
		t.Run(fmt.Sprint("always ", d), func(t *testing.T) {
			disk, h := newPoweredDisk(t), newHistory(t, seed+uint64(d))
			for round := range powerCuts + 1 {
				options := powerMounts[rng.IntN(len(powerMounts))]
				disk.mount(options)
				h.note("round", map[string]any{"round": round, "mount": options})
				runFor := time.Duration(50+rng.IntN(2500)) * time.Millisecond
				after := time.Duration(rng.IntN(1500)) * time.Millisecond
				end := func(c *crashClient) {
					c.cutting.Store(true)
					disk.cut()
					c.cut.Store(time.Now().UnixNano())
					time.Sleep(after)
					refused += c.refused.Load()
					pages += c.pages.Load()
				}
				if round == powerCuts { // to look at what the last one has left
					runFor, end = 0, nil
				}
				crashRound(t, relayBinary(t), filepath.Join(disk.dir, "data"), h, rng.Uint64(), runFor, syscall.SIGKILL, end, "--journal.sync=always")
				if t.Failed() {
					t.Fatalf("round %d, mounted with %q, with RELAY_SEED=%d", round, options, seed)
				}
				disk.unmount()
			}
		})
	}
	if t.Failed() {
		return
	}
	if refused == 0 || pages == 0 {
		t.Errorf("%d requests are refused without power, and %d pages shown", refused, pages)
	}
	t.Logf("%d requests are refused without power, %d pages shown", refused, pages)
}
