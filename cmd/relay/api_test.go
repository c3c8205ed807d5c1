package main

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
)

// The discovery lists each edge once, in order, with an address that works.
func TestDiscovery(t *testing.T) {
	url, _ := startRelay(t)
	list := func(path string) (groups []targetGroup) {
		t.Helper()
		res, err := http.Get(url + path)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if res.StatusCode != 200 || res.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %d %s", path, res.StatusCode, res.Header.Get("Content-Type"))
		}
		if err := json.NewDecoder(res.Body).Decode(&groups); err != nil {
			t.Fatal(err)
		}
		return groups
	}
	if got := list("/api/v1/sd"); got == nil || len(got) != 0 {
		t.Errorf("without edges: %v", got)
	}
	for _, edge := range []string{"ship-2", "shop-17"} {
		req, err := http.NewRequest(http.MethodPost, url+"/api/v1/write", strings.NewReader(string(pushBody(t, "a", 1))))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Relay-Edge", edge)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
	}
	for _, page := range []string{"", "up"} {
		groups := list("/api/v1/sd?page=" + page)
		if len(groups) != 2 || groups[0].Labels["edge"] != "ship-2" || groups[1].Labels["edge"] != "shop-17" {
			t.Fatalf("%+v", groups)
		}
		l := groups[1].Labels
		if l["__param_page"] != page || l["__metrics_path__"] != "/metrics" || l["__param_edge"] != "shop-17" || groups[1].Targets[0] != host(url) {
			t.Errorf("%+v", groups[1])
		}
		if got := status(l["__scheme__"] + "://" + groups[1].Targets[0] + l["__metrics_path__"] + "?edge=" + l["__param_edge"] + "&page=" + page); got != 200 {
			t.Errorf("the target answers %d", got)
		}
	}
	res, err := http.Get(url + "/api/v1/edges")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(res.Body)
	if !strings.Contains(string(text), `{"status":"success","data":[`) && !strings.Contains(string(text), `"name":"shop-17"`) {
		t.Errorf("%s", text)
	}
}
