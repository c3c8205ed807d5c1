package ingest

import (
	"bufio"
	"bytes"
	"net/textproto"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/golang/snappy"
)

// What real senders have sent is taken, every sample of it, and read as the
// oracles read it. testdata/requests says what sent it.
func TestCapturedRequests(t *testing.T) {
	files, err := filepath.Glob("../testdata/requests/*.snappy")
	if err != nil || len(files) < 5 {
		t.Fatalf("%d requests, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".snappy"), func(t *testing.T) {
			body, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			head, err := os.ReadFile(strings.TrimSuffix(file, ".snappy") + ".headers")
			if err != nil {
				t.Fatal(err)
			}
			header, err := textproto.NewReader(bufio.NewReader(bytes.NewReader(append(head, "\r\n"...)))).ReadMIMEHeader()
			if err != nil {
				t.Fatal(err)
			}
			var headers []string
			for _, name := range []string{"Content-Type", "Content-Encoding", "User-Agent"} {
				headers = append(headers, name, header.Get(name))
			}
			got := newRelay(t, Options{}).send(bytes.NewReader(body), headers...)
			if got.code != 204 {
				t.Errorf("answered %d: %s", got.code, got.body)
			}
			raw, err := snappy.Decode(nil, body)
			if err != nil {
				t.Fatal(err)
			}
			v := v1
			if strings.Contains(header.Get("Content-Type"), "v2.Request") {
				v = v2
				written := 0
				for _, kind := range []string{"Samples", "Histograms", "Exemplars"} {
					n, _ := strconv.Atoi(got.header.Get("X-Prometheus-Remote-Write-" + kind + "-Written"))
					written += n
				}
				if written == 0 {
					t.Error("nothing was written")
				}
			}
			agree(t, v, raw)
		})
	}
}
