package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
	"golang.org/x/sys/unix"
)

// Faults of the disk, against the relay's binary on file systems of its own:
// RELAY_FAULTS=1 runs them. That takes the right to mount, which
// `unshare --map-root-user --mount` gives to anybody, strace and fsfreeze; see
// scripts/test-faults.

func wantsFaults(t *testing.T) {
	t.Helper()
	if os.Getenv("RELAY_FAULTS") == "" {
		t.Skip("set RELAY_FAULTS=1, and have the right to mount")
	}
}

// mounted mounts a file system for the test.
func mounted(t *testing.T, source, kind, options string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := syscall.Mount(source, dir, kind, 0, options); err != nil {
		t.Fatalf("mount %s: %v", kind, err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// A diskClient pushes to a relay whose disk fails, and knows what must be shown.
type diskClient struct {
	t    *testing.T
	base string
	n    int
	sure map[string]float64 // acknowledged
}

// push sends one series of its own and padding that does not compress, and returns
// the answer's code: 2xx or 503 with Retry-After.
func (c *diskClient) push(padding int) int {
	c.t.Helper()
	code, err := c.try(padding)
	if err != nil {
		c.t.Fatal(err)
	}
	return code
}

// try is push in any goroutine; without an answer the code is 0.
func (c *diskClient) try(padding int) (code int, err error) {
	name := fmt.Sprintf("disk_%d", c.n)
	req := &prompb.WriteRequest{Timeseries: []prompb.TimeSeries{{
		Labels:  []prompb.Label{{Name: "__name__", Value: name}},
		Samples: []prompb.Sample{{Value: float64(c.n), Timestamp: time.Now().UnixMilli()}},
	}}}
	var noise []byte
	for len(noise) < padding {
		noise = binary.LittleEndian.AppendUint64(noise, rand.Uint64())
	}
	// A field that no version knows: kept as it came, and not read.
	req.XXX_unrecognized = append(binary.AppendUvarint([]byte{0x7a}, uint64(len(noise))), noise...)
	raw, err := req.Marshal()
	if err != nil {
		return 0, err
	}
	begun := time.Now()
	client := http.Client{Timeout: time.Minute}
	res, err := client.Post(c.base+"/api/v1/write", "application/x-protobuf", bytes.NewReader(snappy.Encode(nil, raw)))
	if err != nil {
		return 0, err
	}
	body, _ := io.ReadAll(res.Body)
	res.Body.Close()
	switch {
	case res.StatusCode == 204:
		c.sure[name] = float64(c.n)
	case res.StatusCode != 503 || res.Header.Get("Retry-After") == "" || !strings.Contains(string(body), "journal"):
		err = fmt.Errorf("push %d is answered %d %q, Retry-After %q", c.n, res.StatusCode, body, res.Header.Get("Retry-After"))
	}
	if took := time.Since(begun); took > 20*time.Second {
		err = errors.Join(err, fmt.Errorf("push %d was answered after %s", c.n, took))
	}
	c.n++
	return res.StatusCode, err
}

// check looks for everything that was acknowledged.
func (c *diskClient) check(when string) {
	c.t.Helper()
	page := getPage(c.t, c.base+"/metrics")
	for name, v := range c.sure {
		if !strings.Contains(page, fmt.Sprintf("%s{instance=\"\"} %v ", name, v)) {
			c.t.Fatalf("%s: %s was acknowledged and is not shown; the page has %d lines, %d were acknowledged", when, name, strings.Count(page, "\n"), len(c.sure))
		}
	}
}

// fails pushes until the disk fails, and then some: none is taken any more, and
// scrapes go on.
func (c *diskClient) fails(padding int) {
	c.t.Helper()
	for deadline := time.Now().Add(time.Minute); c.push(padding) == 204; {
		if time.Now().After(deadline) {
			c.t.Fatal("the disk does not fail")
		}
	}
	for until := time.Now().Add(3 * time.Second); time.Now().Before(until); time.Sleep(100 * time.Millisecond) {
		// One that still fits into what is left is taken. It is held to it like the others.
		c.push(padding)
		c.check("while the disk fails")
	}
	if c.push(padding) == 204 {
		c.t.Error("the disk fails, and a push is acknowledged")
	}
}

// recovers pushes until one is taken again, which nobody helps with.
func (c *diskClient) recovers(padding int) {
	c.t.Helper()
	waitFor(c.t, "a push that is taken again", func() bool { return c.push(padding) == 204 })
	c.check("when the disk works again")
	for range 20 {
		if code := c.push(100); code != 204 {
			c.t.Errorf("after it works again a push is answered %d", code)
		}
	}
}

// startOn starts a relay with its journal in dir. Calling restart ends it with a
// signal and starts it anew.
func startOn(t *testing.T, dir string, flags ...string) (c *diskClient, p **process, restart func(syscall.Signal)) {
	t.Helper()
	address := freeAddress(t)
	p = new(*process)
	run := func() {
		*p = start(t, relayBinary(t), append([]string{"--web.listen-address=" + address, "--journal.path=" + dir, "--series.ttl=4m", "--log.level=warn"}, flags...)...)
		waitFor(t, "the relay ready", func() bool { return status("http://"+address+"/-/ready") == 200 })
	}
	run()
	return &diskClient{t: t, base: "http://" + address, sure: map[string]float64{}}, p, func(sig syscall.Signal) {
		t.Helper()
		(*p).Signal(sig)
		(*p).wait(t)
		run()
	}
}

// The disk is full: pushes are answered 503, scrapes go on. Space returns: so do
// pushes, by themselves. What was acknowledged before and after outlives kill -9.
func TestDiskFull(t *testing.T) {
	wantsFaults(t)
	for _, flags := range [][]string{{"--journal.window=1h"}, {"--journal.window=4s"}, {"--journal.window=1h", "--journal.sync=always"}} {
		t.Run(strings.Join(flags, " "), func(t *testing.T) {
			disk := mounted(t, "relay-test", "tmpfs", "size=24m")
			filler := filepath.Join(disk, "filler")
			c, _, restart := startOn(t, filepath.Join(disk, "data"), flags...)
			for range 10 {
				c.push(10_000)
			}
			fill(t, filler)
			c.fails(60_000)
			if metric := own(t, c.base, "relay_journal_failures_total"); metric < 1 {
				t.Errorf("relay_journal_failures_total is %v", metric)
			}
			if err := os.Remove(filler); err != nil {
				t.Fatal(err)
			}
			c.recovers(60_000)
			if up, again := own(t, c.base, "relay_journal_up"), own(t, c.base, "relay_journal_reopened_total"); up != 1 || again < 1 {
				t.Errorf("relay_journal_up is %v, reopened %v times", up, again)
			}
			restart(syscall.SIGKILL)
			c.check("after kill -9")
			if damaged, lost := own(t, c.base, "relay_journal_damaged_records_total"), own(t, c.base, "relay_journal_lost_records_total"); damaged+lost != 0 {
				t.Errorf("%v records are damaged and %v lost", damaged, lost)
			}
			// Killed while it is full, it starts on the full disk and has everything; and
			// again when there is room.
			fill(t, filler)
			c.fails(60_000)
			restart(syscall.SIGKILL)
			c.check("after kill -9 on a full disk")
			if err := os.Remove(filler); err != nil {
				t.Fatal(err)
			}
			c.recovers(60_000)
			restart(syscall.SIGTERM)
			c.check("after SIGTERM")
		})
	}
}

// The disk is full and the journal is damaged: what is left of it is shown, and pushes
// are answered 503 until it can be saved, which nobody helps with.
func TestDiskFullAndDamaged(t *testing.T) {
	wantsFaults(t)
	disk := mounted(t, "relay-test", "tmpfs", "size=24m")
	data, filler := filepath.Join(disk, "data"), filepath.Join(disk, "filler")
	c, p, _ := startOn(t, data, "--journal.window=1h")
	for range 10 {
		c.push(10_000)
	}
	// So much that a checkpoint does not fit into what a start frees.
	var many prompb.WriteRequest
	for range 3000 {
		many.Timeseries = append(many.Timeseries, prompb.TimeSeries{
			Labels:  []prompb.Label{{Name: "__name__", Value: "many"}, {Name: "id", Value: fmt.Sprintf("%016x%016x%016x", rand.Uint64(), rand.Uint64(), rand.Uint64())}},
			Samples: []prompb.Sample{{Value: 1, Timestamp: time.Now().UnixMilli()}},
		})
	}
	body, err := many.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.Post(c.base+"/api/v1/write", "application/x-protobuf", bytes.NewReader(snappy.Encode(nil, body)))
	if err != nil || res.StatusCode != 204 {
		t.Fatal(res, err)
	}
	res.Body.Close()
	(*p).Signal(syscall.SIGTERM)
	(*p).wait(t)
	blocks, _ := filepath.Glob(filepath.Join(data, "jetstream/*/streams/RELAY/msgs/*.blk"))
	if len(blocks) != 1 {
		t.Fatal(blocks)
	}
	raw, err := os.ReadFile(blocks[0])
	if err != nil {
		t.Fatal(err)
	}
	raw[25_000] ^= 1 // in the body of the third
	if err := os.WriteFile(blocks[0], raw, 0o666); err != nil {
		t.Fatal(err)
	}
	fill(t, filler)
	relay := start(t, relayBinary(t), "--web.listen-address="+strings.TrimPrefix(c.base, "http://"), "--journal.path="+data, "--series.ttl=4m", "--journal.window=1h")
	defer relay.Signal(syscall.SIGKILL)
	shown := func() int { return strings.Count(getPage(t, c.base+"/metrics"), "\ndisk_") }
	waitFor(t, "the relay", func() bool { return status(c.base+"/-/healthy") == 200 })
	waitFor(t, "what is left", func() bool { return shown() >= 9 })
	for until := time.Now().Add(7 * time.Second); time.Now().Before(until); time.Sleep(100 * time.Millisecond) {
		if code := c.push(100); code != 503 {
			t.Fatalf("a push is answered %d", code)
		}
		if n, code := shown(), status(c.base+"/-/ready"); n != 9 || code != 503 {
			t.Fatalf("%d series are shown, /-/ready is %d", n, code)
		}
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	clear(c.sure)
	c.recovers(100)
	if n := shown(); n < 9 || status(c.base+"/-/ready") != 200 {
		t.Errorf("%d series are shown", n)
	}
}

// fill takes the rest of a file system.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for zeros := make([]byte, 64<<10); len(zeros) > 0; {
		if _, err := f.Write(zeros); err != nil {
			zeros = zeros[:len(zeros)/2]
		}
	}
}

// own is one of the relay's own metrics.
func own(t *testing.T, base, name string) float64 {
	t.Helper()
	m := regexp.MustCompile(`(?m)^` + name + ` (\S+)$`).FindStringSubmatch(getPage(t, base+"/-/metrics"))
	if m == nil {
		t.Fatalf("no %s", name)
	}
	var v float64
	if _, err := fmt.Sscan(m[1], &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// loopDevice is a disk of 64 MiB in memory, with ext4 on it, and the file it is in.
// What is on its way to it is not yet in it: only what the file system has written.
func loopDevice(t *testing.T, mkfs ...string) (device, image string) {
	t.Helper()
	image = filepath.Join(mounted(t, "relay-test", "tmpfs", "size=80m"), "image")
	if err := os.WriteFile(image, make([]byte, 64<<20), 0o666); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.ext4", append(append([]string{"-q"}, mkfs...), image)...).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v, %s", err, out)
	}
	return attached(t, image), image
}

// attached is a loop device on an image.
func attached(t *testing.T, image string) (device string) {
	t.Helper()
	loop, err := exec.Command("losetup", "--find", "--show", image).CombinedOutput()
	if err != nil {
		t.Skipf("not shown here, there is no loop device: %v, %s", err, loop)
	}
	device = strings.TrimSpace(string(loop))
	t.Cleanup(func() { exec.Command("losetup", "--detach", device).Run() })
	return device
}

// The disk answers EIO: a file system on a loop device that has become too short, so
// that writes and reads beyond its end fail. With --journal.sync=always that is known
// before the answer. It recovers when the device has its length again.
func TestDiskError(t *testing.T) {
	wantsFaults(t)
	// Without a journal of its own, or that would have it read-only for good.
	// Directories lie in their inodes, at the front of the device: the kernel goes on for
	// minutes trying to read one that is behind its end.
	device, _ := loopDevice(t, "-b", "4096", "-O", "^has_journal,inline_data", "-I", "1024", "-N", "2048")
	disk := mounted(t, device, "ext4", "errors=continue")
	limit := func(bytes uint64) {
		t.Helper()
		f, err := os.OpenFile(device, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		info, err := unix.IoctlLoopGetStatus64(int(f.Fd()))
		if err != nil {
			t.Fatal(err)
		}
		info.Sizelimit = bytes
		for range 50 { // EAGAIN while the device is being written
			if err = unix.IoctlLoopSetStatus64(int(f.Fd()), info); err == nil {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
		t.Fatal(err)
	}
	c, p, restart := startOn(t, filepath.Join(disk, "data"), "--journal.sync=always")
	for range 10 {
		c.push(10_000)
	}
	limit(4 << 20)
	t.Cleanup(func() { limit(0) }) // or a call that hangs would do so for ever
	c.fails(60_000)
	// Where the file system has to read what is behind its new end, the kernel goes on
	// trying.
	if logs := (*p).logs.String(); !strings.Contains(logs, "input/output error") && !strings.Contains(logs, "hangs") {
		t.Errorf("nothing says input/output error:\n%s", logs)
	}
	limit(0)
	c.recovers(60_000)
	restart(syscall.SIGKILL)
	c.check("after kill -9")
}

// The file system finds an error in itself and turns read-only under way, as ext4 does
// by default: every write is answered EROFS, and that does not end until it is checked
// and mounted anew. That is done under the relay, which recovers by itself; what was
// acknowledged meanwhile and before is there after kill -9.
func TestDiskTurnsReadOnly(t *testing.T) {
	wantsFaults(t)
	for _, sync := range []string{"os", "always"} {
		t.Run(sync, func(t *testing.T) {
			device, image := loopDevice(t)
			disk := mounted(t, device, "ext4", "errors=remount-ro")
			c, p, restart := startOn(t, filepath.Join(disk, "data"), "--journal.sync="+sync)
			for range 10 {
				c.push(10_000)
			}
			trigger := filepath.Join("/sys/fs/ext4", filepath.Base(device), "trigger_fs_error")
			if err := os.WriteFile(trigger, []byte("relay-test"), 0); err != nil {
				t.Skipf("not shown here, no file system can be given an error: %v", err)
			}
			if err := os.Mkdir(filepath.Join(disk, "other"), 0o777); !errors.Is(err, syscall.EROFS) {
				t.Fatalf("the disk has not turned read-only: %v", err)
			}
			c.fails(10_000)
			if n := len(c.sure); n != 10 {
				t.Errorf("%d pushes are acknowledged on a disk that is read-only", n-10)
			}
			if logs := (*p).logs.String(); !strings.Contains(logs, "read-only file system") {
				t.Errorf("nothing says read-only file system:\n%s", logs)
			}
			if up := own(t, c.base, "relay_journal_up"); up != 0 {
				t.Errorf("relay_journal_up is %v", up)
			}
			// By another device, since the relay has files open on this one.
			again := attached(t, image)
			if out, err := exec.Command("e2fsck", "-p", again).CombinedOutput(); err != nil && !strings.Contains(string(out), "clean") {
				t.Logf("e2fsck: %v, %s", err, out) // it says so when it has mended something
			}
			if err := syscall.Mount(again, disk, "ext4", 0, ""); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := syscall.Unmount(disk, syscall.MNT_DETACH); err != nil {
					t.Error(err)
				}
			})
			c.recovers(10_000)
			if up := own(t, c.base, "relay_journal_up"); up != 1 {
				t.Errorf("relay_journal_up is %v", up)
			}
			if sync == "always" { // or the first ones never came to the device
				restart(syscall.SIGKILL)
				c.check("after kill -9")
			}
		})
	}
}

// frozen freezes a file system: whoever writes to it waits in a system call that
// nothing interrupts, as on a disk that hangs. Calling thaw ends that; so does the end of
// the test, and of its process.
func frozen(t *testing.T, dir string) (thaw func()) {
	t.Helper()
	cmd := exec.Command("sh", "-c", `trap '' INT TERM; fsfreeze --freeze "$1" && echo frozen && read -r _; fsfreeze --unfreeze "$1"`, "sh", dir)
	var said lockedBuffer
	cmd.Stdout, cmd.Stderr = &said, &said
	hold, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	thaw = sync.OnceFunc(func() {
		hold.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("thaw: %v, %s", err, said.String())
		}
	})
	t.Cleanup(thaw)
	waitFor(t, "a file system that is frozen", func() bool { return strings.Contains(said.String(), "frozen") })
	return thaw
}

// The disk hangs: no call that writes to it returns. Pushes are answered 503 all the
// same, and all pages go on. When the disk goes on, pushes are taken again, by
// themselves. What was acknowledged before and after outlives kill -9. While the disk
// hangs the relay can be stopped, too.
func TestDiskHangs(t *testing.T) {
	wantsFaults(t)
	for _, flags := range [][]string{{"--journal.window=4s"}, {"--journal.window=1h", "--journal.sync=always"}} {
		t.Run(strings.Join(flags, " "), func(t *testing.T) {
			device, _ := loopDevice(t)
			disk := mounted(t, device, "ext4", "")
			c, p, restart := startOn(t, filepath.Join(disk, "data"), append(flags, "--web.enable-lifecycle")...)
			for range 10 {
				c.push(10_000)
			}
			clients := []*diskClient{c}
			check := func(when string) {
				t.Helper()
				for _, c := range clients {
					c.check(when)
				}
			}
			waitFor(t, "a journal whose size is known", func() bool { return own(t, c.base, "relay_journal_bytes") > 0 })
			thaw := frozen(t, disk)
			var pushers sync.WaitGroup
			var refused, acknowledged atomic.Int64
			stop := make(chan struct{})
			for i := range 8 {
				c := &diskClient{t: t, base: c.base, sure: map[string]float64{}, n: 10_000 * (i + 1)}
				clients = append(clients, c)
				pushers.Go(func() {
					for {
						code, err := c.try(5_000)
						if err != nil {
							t.Error(err)
							return
						}
						if code == 204 {
							acknowledged.Add(1)
						} else {
							refused.Add(1)
						}
						select {
						case <-stop:
							return
						case <-time.After(20 * time.Millisecond):
						}
					}
				})
			}
			end := sync.OnceFunc(func() { close(stop); pushers.Wait() })
			defer end()
			// Nobody helps the disk before all of these are answered.
			client := http.Client{Timeout: 20 * time.Second}
			ask := func(method, path string, want int) {
				t.Helper()
				req, err := http.NewRequest(method, c.base+path, strings.NewReader("pushed 1\n"))
				if err != nil {
					t.Fatal(err)
				}
				res, err := client.Do(req)
				if err != nil {
					t.Fatalf("while the disk hangs: %v", err)
				}
				io.Copy(io.Discard, res.Body)
				res.Body.Close()
				if res.StatusCode != want || want == 503 && res.Header.Get("Retry-After") == "" {
					t.Errorf("while the disk hangs %s %s is answered %d, Retry-After %q", method, path, res.StatusCode, res.Header.Get("Retry-After"))
				}
			}
			for deadline := time.Now().Add(time.Minute); refused.Load() < 100 || own(t, c.base, "relay_journal_up") != 0; {
				if time.Now().After(deadline) {
					t.Fatalf("%d pushes are refused, relay_journal_up is %v", refused.Load(), own(t, c.base, "relay_journal_up"))
				}
				for _, path := range []string{"/metrics", "/-/metrics", "/", "/api/v1/status", "/api/v1/edges", "/api/v1/sd", "/api/v1/series?match[]=disk_1", "/-/healthy", "/-/ready"} {
					ask("GET", path, 200)
				}
				c.check("while the disk hangs")
			}
			ask("PUT", "/metrics/job/batch", 503)
			ask("DELETE", "/metrics/job/batch", 503)
			ask("POST", "/-/reload", 200)
			if bytes := own(t, c.base, "relay_journal_bytes"); bytes == 0 {
				t.Error("relay_journal_bytes is 0 while the disk hangs")
			}
			if logs := (*p).logs.String(); !strings.Contains(logs, "hangs") {
				t.Errorf("nothing says that the disk hangs:\n%s", logs)
			}
			if n := acknowledged.Load(); n != 0 {
				t.Errorf("%d pushes are acknowledged while the disk hangs", n)
			}
			thaw()
			waitFor(t, "pushes that are taken again", func() bool { return acknowledged.Load() > 100 })
			end()
			check("when the disk goes on")
			if up, lost := own(t, c.base, "relay_journal_up"), own(t, c.base, "relay_journal_lost_records_total"); up != 1 || lost != 0 {
				t.Errorf("relay_journal_up is %v, %v records are lost", up, lost)
			}
			restart(syscall.SIGKILL)
			check("after kill -9")

			// It is killed while the disk hangs.
			thaw = frozen(t, disk)
			if c.push(5_000) != 503 {
				t.Error("a push is acknowledged while the disk hangs")
			}
			(*p).Signal(syscall.SIGKILL)
			thaw()
			restart(0)
			check("after kill -9 while the disk hung")

			// It is stopped while the disk hangs. The kernel lets no process end that is in a
			// call, but it has nobody wait any more.
			thaw = frozen(t, disk)
			if c.push(5_000) != 503 {
				t.Error("a push is acknowledged while the disk hangs")
			}
			(*p).Signal(syscall.SIGTERM)
			waitFor(t, "a relay that has given up its journal", func() bool { return strings.Contains((*p).logs.String(), "did not close within") })
			if code := status(c.base + "/-/healthy"); code != 0 {
				t.Errorf("a relay that was stopped answers %d", code)
			}
			thaw()
			if code := (*p).wait(t); code != 0 {
				t.Errorf("after SIGTERM while the disk hung: exit %d", code)
			}
			restart(0)
			check("after SIGTERM while the disk hung")
			c.recovers(5_000)
			if damaged, lost := own(t, c.base, "relay_journal_damaged_records_total"), own(t, c.base, "relay_journal_lost_records_total"); damaged+lost != 0 {
				t.Errorf("%v records are damaged and %v lost", damaged, lost)
			}
		})
	}
}

// A directory that cannot be written is said at once.
func TestReadOnlyDirectory(t *testing.T) {
	wantsFaults(t)
	disk := mounted(t, "relay-test", "tmpfs", "size=8m")
	data := filepath.Join(disk, "data")
	c, p, _ := startOn(t, data)
	c.push(100)
	(*p).Signal(syscall.SIGTERM)
	if code := (*p).wait(t); code != 0 {
		t.Errorf("after SIGTERM: exit %d", code)
	}
	if err := syscall.Mount("", disk, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{data, filepath.Join(disk, "new")} {
		_, stderr, code := runBinary(t, "--web.listen-address="+freeAddress(t), "--journal.path="+path)
		if code != 1 || !strings.Contains(stderr, "read-only file system") || !strings.Contains(stderr, path) || strings.Contains(stderr, "in use") {
			t.Errorf("exit %d, stderr:\n%s", code, stderr)
		}
	}
}

// With --journal.sync=always each answer follows an fsync that follows the write of
// its record; with os none need be. Seen from outside, by strace.
func TestSyncBeforeTheAnswer(t *testing.T) {
	wantsFaults(t)
	trace := filepath.Join(t.TempDir(), "trace")
	if out, err := exec.Command("strace", "-o", trace, "true").CombinedOutput(); err != nil {
		t.Fatalf("strace: %v, %s", err, out)
	}
	address := freeAddress(t)
	start(t, "strace", "-D", "-f", "-y", "-s", "24", "-e", "trace=fsync,fdatasync,write,pwrite64", "-o", trace,
		relayBinary(t), "--web.listen-address="+address, "--journal.path="+t.TempDir(), "--journal.sync=always", "--log.level=warn")
	base := "http://" + address
	waitFor(t, "the relay ready", func() bool { return status(base+"/-/ready") == 200 })
	const pushes = 50
	for i := range pushes {
		pushOne(t, base, "counted_total", float64(i))
	}
	answer := regexp.MustCompile(`write\(\d+<(TCP|socket).*"HTTP/1\.1 204`)
	block := regexp.MustCompile(`/streams/RELAY/msgs/\d+\.blk`)
	var answers int
	waitFor(t, "all answers in the trace", func() bool {
		text, err := os.ReadFile(trace)
		if err != nil {
			t.Fatal(err)
		}
		answers = 0
		written, synced := false, false
		for line := range strings.Lines(string(text)) {
			switch {
			case strings.Contains(line, "pwrite64(") && block.MatchString(line):
				written, synced = true, false
			case strings.Contains(line, "sync(") && block.MatchString(line) && strings.Contains(line, "= 0"),
				strings.Contains(line, "sync resumed") && strings.Contains(line, "= 0"):
				synced = written
			case answer.MatchString(line):
				if answers++; !synced {
					t.Fatalf("answer %d went out before its record was synced", answers)
				}
				written, synced = false, false
			}
		}
		return answers == pushes
	})
}
