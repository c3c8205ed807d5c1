package ingest

import (
	"encoding/base64"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"relay/series"
)

// A path names a group or is refused; a group has a job, and its labels can be
// written as a path again.
func FuzzGroupPath(f *testing.F) {
	for _, p := range []string{"job/a", "job@base64/YQ", "job@base64/=", "job/a/b/c", "job/a/U__a_2e_b/c", "job/a/U__", "job/a/b@base64/__8", "job/a/job/b", "job//a/b", "job/a/__name__/x", "job/a/b", "job/\xff"} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, path string) {
		packed, err := groupLabels(path)
		if err != nil {
			if len(err.Error()) > 2000 && len(path) < 1000 {
				t.Fatalf("an error of %d bytes", len(err.Error()))
			}
			return
		}
		labels := series.Labels(packed)
		if labels["job"] == "" {
			t.Fatalf("%q has no job", path)
		}
		again := "job@base64/" + base64.RawURLEncoding.EncodeToString([]byte(labels["job"]))
		for name, value := range labels {
			if strings.HasPrefix(name, "__") {
				t.Fatalf("%q has the label %q", path, name)
			}
			if name == "job" {
				continue
			}
			if !utf8.ValidString(name) || strings.ContainsAny(name, "/") || strings.HasPrefix(name, "U__") || strings.HasSuffix(name, "@base64") {
				return // not to be said in a path as it is
			}
			again += "/" + name + "@base64/" + base64.RawURLEncoding.EncodeToString([]byte(value))
		}
		if other, err := groupLabels(again); err != nil || string(other) != string(packed) {
			t.Fatalf("%q is %q, written %q it is %q, %v", path, packed, again, other, err)
		}
	})
}

// Whatever X-Forwarded-For says, an edge's address is an address, or unknown; and
// without a trusted proxy it is that of the connection.
func FuzzClientAddr(f *testing.F) {
	for _, s := range []string{"203.0.113.7", "203.0.113.7, 192.0.2.1", "2001:db8::1%eth0", "::ffff:203.0.113.7", "unknown", ",,", "192.0.2.1:80", strings.Repeat("192.0.2.1,", 100)} {
		f.Add("192.0.2.1:1234", s)
		f.Add("[2001:db8::1]:1", s)
	}
	f.Add("@", "")
	trusted := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	f.Fuzz(func(t *testing.T, remote, forwarded string) {
		r := &http.Request{RemoteAddr: remote, Header: http.Header{"X-Forwarded-For": {forwarded}}}
		alone := ClientAddr(r, nil)
		behind := ClientAddr(r, trusted)
		for _, addr := range []string{alone, behind} {
			if a, err := netip.ParseAddr(addr); addr != "unknown" && (err != nil || a.Zone() != "" || a.Is4In6()) {
				t.Fatalf("%q, %q: %q", remote, forwarded, addr)
			}
		}
		conn, err := netip.ParseAddrPort(remote)
		if err == nil && alone != conn.Addr().Unmap().WithZone("").String() {
			t.Fatalf("%q: %q", remote, alone)
		}
		if err == nil && !trusted[0].Contains(conn.Addr().Unmap()) && behind != alone {
			t.Fatalf("%q, which is no proxy, says %q: %q", remote, forwarded, behind)
		}
	})
}

// What a request says of itself is understood or refused, never more than that.
func FuzzNegotiate(f *testing.F) {
	for _, s := range []string{"", "application/x-protobuf", "application/x-protobuf;proto=io.prometheus.write.v2.Request", "application/x-protobuf; proto=\"prometheus.WriteRequest\"", ";", "a/b;c=d;c=e", "application/x-protobuf;proto*=utf-8''x"} {
		f.Add(s, "snappy", "90s")
	}
	f.Add("application/x-protobuf", "gzip", "inf")
	f.Fuzz(func(t *testing.T, media, encoding, ttl string) {
		r := &http.Request{Method: http.MethodPost, URL: &url.URL{Path: "/", RawQuery: "ttl=" + ttl}, Header: http.Header{"Content-Type": {media}, "Content-Encoding": {encoding}, "X-Relay-Ttl": {ttl}}}
		v, bad := negotiate(r)
		if bad == nil && v != v1 && v != v2 || bad != nil && bad.code != http.StatusUnsupportedMediaType {
			t.Fatalf("%q %q: %v %v", media, encoding, v, bad)
		}
		if bad != nil && len(bad.text) > maxAnswer {
			t.Fatalf("an answer of %d bytes", len(bad.text))
		}
		if got, bad := requestTTL(r); bad == nil && got < 0 || bad != nil && bad.code != http.StatusBadRequest {
			t.Fatalf("%q: %v %v", ttl, got, bad)
		}
		switch pushFormat(media) {
		case formatText, formatOpenMetrics, formatProtobuf:
		default:
			t.Fatalf("%q", media)
		}
	})
}
