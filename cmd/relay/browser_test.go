package main

import (
	"bytes"
	"context"
	"fmt"
	"html"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
)

// TestProcessPage looks at the status page with a real browser. What it saw is left in
// $RELAY_ARTIFACTS where that is set.
func TestProcessPage(t *testing.T) {
	if os.Getenv("RELAY_E2E") == "" {
		t.Skip("set RELAY_E2E=1, with the programs that CONTRIBUTING.md names in $RELAY_TOOLS")
	}
	t.Run("FirstRun", pageFirstRun)
	t.Run("Refused", pageRefused)
	t.Run("Series", pageSeries)
	t.Run("Hostile", pageHostile)
	t.Run("Hidden", pageHidden)
	t.Run("Restart", pageRestart)
	t.Run("Many", pageMany)
	t.Run("Phone", pagePhone)
	t.Run("Prefix", pagePrefix)
	t.Run("WithoutScripts", pageWithoutScripts)
}

// A browser has one page open. Whatever the page writes to the console is a fault.
type browser struct {
	t     *testing.T
	ctx   context.Context
	fault string // what the console may say
}

func openBrowser(t *testing.T) *browser {
	t.Helper()
	bin, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatalf("%v: apt-get install chromium", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	ctx, _ = chromedp.NewExecAllocator(ctx, append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(bin), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.UserDataDir(t.TempDir()), chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true))...)
	ctx, closed := chromedp.NewContext(ctx)
	b := &browser{t: t, ctx: ctx}
	var mu sync.Mutex
	var said []string
	heard := make(chan struct{})
	messages := chromedp.Console(ctx)
	go func() {
		defer close(heard)
		for m, err := range messages {
			if err != nil {
				return
			}
			mu.Lock()
			said = append(said, fmt.Sprintf("%s: %s", m.Type, m.Text))
			mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		if t.Failed() {
			b.picture("failed")
		}
		if err := chromedp.Cancel(ctx); err != nil {
			t.Errorf("the browser does not end: %v", err)
		}
		closed()
		cancel()
		<-heard
		mu.Lock()
		defer mu.Unlock()
		said = slices.DeleteFunc(said, func(s string) bool { return b.fault != "" && strings.Contains(s, b.fault) })
		if len(said) > 0 {
			t.Errorf("the browser's console says:\n%s", strings.Join(said, "\n"))
		}
	})
	return b
}

// everywhere runs a script at the beginning of each page that is opened.
func (b *browser) everywhere(script string) {
	b.t.Helper()
	_, err := chromedp.Call(b.ctx, page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{Source: script})
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *browser) do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	if err := chromedp.Do(b.ctx, steps...); err != nil {
		b.t.Fatal(err)
	}
}

// open goes to a page and waits until it has heard from the relay.
func (b *browser) open(url string) {
	b.t.Helper()
	b.do(chromedp.Navigate(url))
	b.until("an answer of the relay", `document.querySelector("#pulse:not([hidden]):not(.lost)")`)
}

// write types a text into an input, in place of what is there.
func (b *browser) write(input, text string) {
	b.t.Helper()
	eval[chromedp.Void](b, fmt.Sprintf("document.querySelector(%q).select()", input))
	b.do(chromedp.SendKeys(chromedp.CSS(input), text))
}

// size sets the window's size in pixels of a page, and whether it is a phone's.
func (b *browser) size(width, height int64) {
	b.t.Helper()
	if width < 600 {
		b.do(chromedp.EmulateViewport(width, height, chromedp.EmulateMobile, chromedp.EmulateTouch))
	} else {
		b.do(chromedp.EmulateViewport(width, height))
	}
}

// scheme is light or dark.
func (b *browser) scheme(scheme string) {
	b.t.Helper()
	_, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
	if err != nil {
		b.t.Fatal(err)
	}
}

// eval is the value of an expression in the page.
func eval[T any](b *browser, expression string) T {
	b.t.Helper()
	v, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		b.t.Fatalf("%s: %v", expression, err)
	}
	return v
}

// until waits until an expression holds in the page.
func (b *browser) until(what, expression string) {
	b.t.Helper()
	waitFor(b.t, what, func() bool { return eval[bool](b, "Boolean("+expression+")") })
}

// picture keeps what the whole page looks like.
func (b *browser) picture(name string) {
	dir := os.Getenv("RELAY_ARTIFACTS")
	if dir == "" {
		return
	}
	png, err := chromedp.Run(b.ctx, chromedp.FullScreenshot(100))
	if err == nil {
		err = os.MkdirAll(dir, 0o777)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, strings.NewReplacer("/", "-", "#", "").Replace(b.t.Name()+"-"+name+".png")), png, 0o666)
	}
	if err != nil {
		b.t.Errorf("no picture %s: %v", name, err)
	}
}

// pageRow is an expression for the part of the table that is an edge's.
func pageRow(edge string) string {
	return fmt.Sprintf(`[...document.querySelectorAll("table.edges tbody")].find((r) => r.querySelector(".opener").textContent === %q)`, edge)
}

// The page of a relay that nobody has pushed to says how to, and turns to life when
// a real Prometheus does; when that is killed, its row says so within its TTL, without
// the page being loaded again.
func pageFirstRun(t *testing.T) {
	const ttl = 8 * time.Second
	base := startBinary(t)
	b := openBrowser(t)
	b.size(1280, 800)
	b.open(base + "/")
	b.until("the notice that it waits", `document.querySelector("#waiting").offsetHeight > 0`)
	b.picture("waiting")
	for _, tab := range []string{"Prometheus", "Grafana Agent, static", "Grafana Agent, flow", "Alloy", "vmagent", "OpenTelemetry Collector", "Telegraf", "curl, scripts", "Pushgateway clients"} {
		b.until("the tab "+tab, fmt.Sprintf(`[...document.querySelectorAll("[role=tab]")].some((b) => b.textContent === %q && (b.click(), true))`, tab))
		text := eval[string](b, `document.querySelector(".snippet:not([hidden]) pre").innerText`)
		if !strings.Contains(text, base) {
			t.Errorf("what to put into %s lacks %s:\n%s", tab, base, text)
		}
	}
	eval[chromedp.Void](b, `document.querySelector("[role=tab]").click(), document.querySelector("[role=tab]").focus()`)
	b.do(chromedp.KeyEvent(kb.ArrowLeft), chromedp.KeyEvent(kb.ArrowRight), chromedp.KeyEvent(kb.ArrowRight))
	if tab := eval[string](b, `document.querySelector("[role=tab][aria-selected=true]").textContent`); tab != "Prometheus, remote write 1.0" {
		t.Errorf("with the arrow keys %q is chosen", tab)
	}
	b.write("#fill input[name=edge]", "ship-9")
	if text := eval[string](b, `document.querySelector("#to-prometheus code").textContent`); !strings.Contains(text, "X-Relay-Edge: ship-9") {
		t.Errorf("the name is not in the configuration:\n%s", text)
	}
	fill := func(name, value string) {
		eval[chromedp.Void](b, fmt.Sprintf(`((e) => { e.value = %q; e.dispatchEvent(new Event("input", { bubbles: true })); })(document.querySelector("#fill input[name=%s]"))`, value, name))
	}
	code := func(id string) string {
		return eval[string](b, `document.querySelector("#to-`+id+` code").textContent`)
	}
	fill("edge", "no") // which is a boolean in YAML
	fill("ttl", "2m")
	for id, want := range map[string]string{"prometheus": "X-Relay-Edge: \"no\"", "otel": "X-Relay-TTL: 2m\n", "vmagent": "'X-Relay-Edge:no^^X-Relay-TTL:2m'", "curl": "#!set stale_timeout = 2m\n"} {
		if text := code(id); !strings.Contains(text, want) {
			t.Errorf("%s lacks %s:\n%s", id, want, text)
		}
	}
	for name, value := range map[string]string{"edge": "-no", "ttl": "0s"} { // the relay refuses both
		fill(name, value)
		if text := code("prometheus"); strings.Contains(text, value) {
			t.Errorf("%q is in the configuration:\n%s", value, text)
		}
	}
	fill("edge", "ship-9")
	fill("ttl", "")
	eval[chromedp.Void](b, `globalThis.sameDocument = true; document.querySelector("#to-prometheus .copy").click()`)
	b.until("what the copy button says", `/Copied|Selected/.test(document.querySelector("#to-prometheus .copy").textContent)`)

	target, _ := startTarget(t)
	agent := start(t, tool(t, "prometheus"), "--agent", "--config.file="+file(t, "agent.yml", fmt.Sprintf(`
global: {scrape_interval: 1s, external_labels: {shop: "17"}}
scrape_configs:
  - job_name: shop
    static_configs: [{targets: ['%s']}]
remote_write:
  - url: %s/api/v1/write
    headers: {X-Relay-Edge: shop-17, X-Relay-TTL: %s}
    queue_config: {batch_send_deadline: 500ms}
`, target, base, ttl)), "--storage.agent.path="+t.TempDir(), "--web.listen-address="+freeAddress(t))
	b.until("the edge, live", pageRow("shop-17")+`?.dataset.state === "live"`)
	b.until("its series and rate", `Number(`+pageRow("shop-17")+`?.querySelector(".of-series").textContent) > 10 && !/^0/.test(`+pageRow("shop-17")+`.querySelector(".of-rate").textContent)`)
	b.picture("live")
	before := eval[string](b, "getComputedStyle("+pageRow("shop-17")+`.querySelector(".badge")).color`)

	agent.Signal(syscall.SIGKILL)
	died := time.Now()
	b.until("the edge, silent", pageRow("shop-17")+`?.dataset.state === "silent"`)
	if took := time.Since(died); took > ttl+30*time.Second {
		t.Errorf("silent on the page %s after the edge died, with a TTL of %s", took, ttl)
	}
	var red, green, blue int
	color := eval[string](b, "getComputedStyle("+pageRow("shop-17")+`.querySelector(".badge")).color`)
	if _, err := fmt.Sscanf(color, "rgb(%d, %d, %d)", &red, &green, &blue); err != nil || red < 2*green || red < 2*blue {
		t.Errorf("a silent edge is not red: %s, before %s", color, before)
	}
	if word := eval[string](b, pageRow("shop-17")+`.querySelector(".badge").innerText`); strings.TrimSpace(word) != "silent" {
		t.Errorf("beside the colour it says %q", word)
	}
	b.picture("silent")
	if !eval[bool](b, "globalThis.sameDocument === true") {
		t.Error("the page was loaded again")
	}
}

// An edge of which nothing was ever taken turns the page to life, too, and says why. Two
// that write the same series are named.
func pageRefused(t *testing.T) {
	base := startBinary(t)
	b := openBrowser(t)
	b.size(1280, 800)
	b.open(base + "/")
	b.until("the notice that it waits", `document.querySelector("#waiting").offsetHeight > 0`)
	if code := pushLabels(t, base, "shop-17", "5m", time.Now().Add(time.Hour), map[string]string{"__name__": "up"}); code != 400 {
		t.Fatalf("answered %d", code)
	}
	b.until("the edge, refused", pageRow("shop-17")+`?.dataset.state === "refused"`)
	if text := eval[string](b, pageRow("shop-17")+`.querySelector(".of-trouble").innerText`); !strings.Contains(text, "1 refused: too_far_in_future") || !strings.Contains(text, "up") {
		t.Errorf("its trouble is %q", text)
	}
	for i := range 4 { // each newer than the one before, however fast they follow
		at := time.Now().Add(time.Duration(i) * time.Second)
		pushLabels(t, base, "shop-"+strconv.Itoa(18+i%2), "5m", at, map[string]string{"__name__": "same"})
	}
	eval[chromedp.Void](b, `location.hash = "#relay"`)
	b.until("who writes the same series", `/shop-18 and shop-19: same|shop-19 and shop-18: same/.test(document.querySelector(".contested:not([hidden])")?.innerText)`)
	b.picture("contested")
}

// pushLabels pushes one sample of each series, a map of labels each, as an edge, and
// returns the answer's code.
func pushLabels(t *testing.T, base, edge, ttl string, at time.Time, list ...map[string]string) int {
	t.Helper()
	var w prompb.WriteRequest
	for _, labels := range list {
		ts := prompb.TimeSeries{Samples: []prompb.Sample{{Value: 42.5, Timestamp: at.UnixMilli()}}}
		for name, value := range labels {
			ts.Labels = append(ts.Labels, prompb.Label{Name: name, Value: value})
		}
		w.Timeseries = append(w.Timeseries, ts)
	}
	raw, err := w.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequest(http.MethodPost, base+"/api/v1/write", bytes.NewReader(snappy.Encode(nil, raw)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Relay-Edge", edge)
	req.Header.Set("X-Relay-TTL", ttl)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	return res.StatusCode
}

// A selector that is typed shows its series, and what is left of their lives runs
// down; what is not there is explained.
func pageSeries(t *testing.T) {
	base := startBinary(t)
	b := openBrowser(t)
	b.size(1280, 800)
	b.open(base + "/#series")
	now := time.Now()
	pushLabels(t, base, "shop-17", "90s", now, map[string]string{"__name__": "node_load1", "job": "node", "instance": "a:9100"}, map[string]string{"__name__": "up", "job": "other"})
	pushLabels(t, base, "shop-18", "15s", now, map[string]string{"__name__": "node_load1", "job": "node", "instance": "b:9100"})
	pushLabels(t, base, "shop-19", "inf", now, map[string]string{"__name__": "node_load1", "job": "node", "instance": "c:9100"})
	b.write(".selector", `{job="node"}`+"\n")
	rows := func(part string) string {
		return fmt.Sprintf(`[...document.querySelectorAll("table.series tbody")].find((r) => r.textContent.includes(%q))`, part)
	}
	b.until("its series", `document.querySelectorAll("table.series tbody").length === 3`)
	left := func(instance string) string { return rows(instance) + `.querySelector(".left").innerText.trim()` }
	if got := eval[string](b, left("c:9100")); got != "for ever" {
		t.Errorf("left of a series that does not end: %q", got)
	}
	if text := eval[string](b, rows("a:9100")+".innerText"); !strings.Contains(text, `node_load1{instance="a:9100", job="node"}`) || !strings.Contains(text, "42.5") || !strings.Contains(text, "shop-17") {
		t.Errorf("a row says %q", text)
	}
	seconds := func() int {
		var m, s int
		text := eval[string](b, left("a:9100"))
		if _, err := fmt.Sscanf(text, "%d m %d s", &m, &s); err != nil {
			m = 0
			if _, err := fmt.Sscanf(text, "%d s", &s); err != nil {
				t.Fatalf("left: %q", text)
			}
		}
		return m*60 + s
	}
	first, begun := seconds(), time.Now()
	if first > 90 || first < 50 {
		t.Errorf("%d s are left of 90", first)
	}
	b.picture("list")
	// Without an answer, too: from here on there are none until it is loaded again.
	eval[chromedp.Void](b, "globalThis.fetch = () => new Promise(() => {})")
	waitFor(t, "the TTL running down", func() bool { return seconds() <= first-3 })
	if took := time.Since(begun); took < 1500*time.Millisecond {
		t.Errorf("three seconds of TTL were gone in %s", took)
	}
	b.do(chromedp.Reload())
	b.until("the series that does not end", rows("c:9100"))
	b.until("the series that ends, gone or said to be", `!(`+rows("b:9100")+`) || /expired/.test(`+rows("b:9100")+`.innerText)`)

	// It is there no more: named in full, it is explained.
	b.write(".selector", `node_load1{instance="b:9100",job="node"}`+"\n")
	b.until("why it is not here", `/expired/.test(document.querySelector("#view-series > .story:not([hidden])")?.innerText)`)
	b.picture("expired")
	b.write(".selector", `node_load1{instance="z:9100",job="node"}`+"\n")
	b.until("what is near to it", `/does not know/.test(document.querySelector("#view-series > .story:not([hidden])")?.innerText)`)
	b.picture("unknown")

	// What cannot be read is said beside it.
	b.fault = "status of 400" // a browser notes each answer of 400
	b.write(".selector", `{job=`+"\n")
	b.until("what is wrong with a selector", `/parse error/.test(document.querySelector(".failed:not([hidden])")?.innerText)`)
	b.picture("fault")
}

// Text from an edge that would be markup is shown as it is.
func pageHostile(t *testing.T) {
	base := startBinary(t)
	evil := `<img src=x onerror="document.title='owned'"></td><script>document.title='owned'</script>`
	now := time.Now()
	if code := pushLabels(t, base, "shop-17", "5m", now, map[string]string{"__name__": "evil", "job": evil, "text": "a\u202eb\u200bc\nd"}); code != 204 {
		t.Fatalf("answered %d", code)
	}
	// Refused, so that its labels are in the account of the last refusal.
	if code := pushLabels(t, base, "shop-17", "5m", now.Add(time.Hour), map[string]string{"__name__": "evil_future", "job": evil}); code != 400 {
		t.Fatalf("answered %d", code)
	}
	b := openBrowser(t)
	b.size(1280, 800)
	clean := func(where string) {
		t.Helper()
		if n := eval[int](b, `document.images.length + document.querySelectorAll("main script, main iframe, main [onerror]").length`); n != 0 {
			t.Errorf("%s: %d elements were made of text", where, n)
		}
		if title := eval[string](b, "document.title"); title != "relay" {
			t.Errorf("%s: the title is %q", where, title)
		}
	}
	b.open(base + "/#edges")
	b.until("the edge", pageRow("shop-17"))
	eval[chromedp.Void](b, pageRow("shop-17")+`.querySelector(".opener").click()`)
	b.until("the culprit, as text", pageRow("shop-17")+`.querySelector(".details").textContent.includes("<img src=x onerror=")`)
	b.until("the reason", pageRow("shop-17")+`.querySelector(".of-trouble").textContent.includes("refused")`)
	clean("edges")
	b.picture("edges")
	b.open(base + "/#series?match=evil")
	b.until("the value, as text", `document.querySelector("table.series")?.innerText.includes("<img src=x onerror=")`)
	if text := eval[string](b, `document.querySelector("table.series .full").textContent`); !strings.Contains(text, `a\u202eb\u200bc\nd`) {
		t.Errorf("what turns text around is shown as it came: %q", text)
	}
	eval[chromedp.Void](b, `document.querySelector("table.series .opener").click()`)
	b.until("its story", `document.querySelector("table.series .story .verdict")`)
	clean("series")
	b.picture("series")
}

// While nobody can see the page it asks for nothing; then it asks at once.
func pageHidden(t *testing.T) {
	base := startBinary(t)
	pushOne(t, base, "up", 1)
	b := openBrowser(t)
	b.open(base + "/#series?match=up")
	asked := func() int {
		return eval[int](b, `performance.getEntriesByType("resource").filter((r) => r.name.includes("/api/")).length`)
	}
	at := asked()
	waitFor(t, "the next answer", func() bool { return asked() > at })
	hide := `Object.defineProperty(document, "hidden", { configurable: true, get: () => %v }); document.dispatchEvent(new Event("visibilitychange"))`
	eval[chromedp.Void](b, fmt.Sprintf(hide, true))
	time.Sleep(2 * time.Second) // what was asked before is answered
	at = asked()
	time.Sleep(12 * time.Second) // two polls and more
	if n := asked() - at; n != 0 {
		t.Errorf("a page that is hidden has asked %d times", n)
	}
	eval[chromedp.Void](b, fmt.Sprintf(hide, false))
	waitFor(t, "an answer when it is seen again", func() bool { return asked() > at })
}

// A relay that is gone is said to be, with what was there before; when it is back the
// page goes on by itself.
func pageRestart(t *testing.T) {
	address, dir := freeAddress(t), t.TempDir()
	base := "http://" + address
	flags := []string{"--web.listen-address=" + address, "--journal.path=" + dir}
	first := start(t, relayBinary(t), flags...)
	waitFor(t, "the relay", func() bool { return status(base+"/-/ready") == 200 })
	pushLabels(t, base, "shop-17", "5m", time.Now(), map[string]string{"__name__": "up"})
	b := openBrowser(t)
	b.fault = "net::ERR_CONNECTION_REFUSED"
	b.size(1280, 800)
	b.open(base + "/")
	b.until("the edge", pageRow("shop-17"))
	first.Signal(syscall.SIGKILL)
	first.wait(t)
	b.until("that the relay does not answer", `/does not answer/.test(document.querySelector("#banner:not([hidden])")?.innerText)`)
	if !eval[bool](b, "Boolean("+pageRow("shop-17")+")") {
		t.Error("what was there before is gone")
	}
	b.picture("gone")
	start(t, relayBinary(t), flags...)
	b.until("that it answers", `document.querySelector("#banner[hidden]") && document.querySelector("#pulse:not(.lost)") && `+pageRow("shop-17")+`?.dataset.state === "live"`)
}

// Ten thousand edges are a hundred rows at a time, found by name and by state.
func pageMany(t *testing.T) {
	const edges = 10_000
	base := startBinary(t, "--journal=off")
	pushEdges(t, base, edges, edges)
	pushLabels(t, base, "edge-00042", "5m", time.Now().Add(time.Hour), map[string]string{"__name__": "up"})
	b := openBrowser(t)
	b.size(1280, 800)
	b.open(base + "/")
	b.until("the edges", `document.querySelectorAll("table.edges tbody").length > 0`)
	if n := eval[int](b, `document.querySelectorAll("table.edges tbody").length`); n != 100 {
		t.Errorf("%d rows", n)
	}
	if first := eval[string](b, `document.querySelector("table.edges tbody .opener").textContent`); first != "edge-00042" {
		t.Errorf("the one that is refused is not the first, but %s", first)
	}
	b.until("how many there are", `document.querySelector(".pager").innerText.includes("1 to 100 of 10,000")`)
	eval[chromedp.Void](b, `[...document.querySelectorAll(".pager button")].at(-1).click()`)
	b.until("the next page", `document.querySelector(".pager").innerText.includes("101 to 200 of 10,000")`)
	b.write(".find input", "-0999")
	b.until("ten rows", `document.querySelectorAll("table.edges tbody").length === 10`)
	b.picture("filtered")
	if hash := eval[string](b, "location.hash"); hash != "#edges?q=-0999" {
		t.Errorf("the address does not say what is shown: %s", hash)
	}
	b.open(base + "/#edges?state=refused")
	b.do(chromedp.Reload())
	b.until("those that are refused", `document.querySelectorAll("table.edges tbody").length === 1`)
	eval[chromedp.Void](b, `document.querySelector(".tile[aria-pressed=true]").click()`)
	eval[chromedp.Void](b, `[...document.querySelectorAll("table.edges th button")].find((b) => b.textContent === "Edge").click()`)
	eval[chromedp.Void](b, `[...document.querySelectorAll("table.edges th button")].find((b) => b.textContent === "Edge").click()`)
	b.until("the last name first", `document.querySelector("table.edges tbody .opener").textContent === "edge-10000"`)
}

// pushEdges loads a relay with so many series of so many edges, by relaybench.
func pushEdges(t *testing.T, base string, edges, series int) {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "relaybench")
	if out, err := exec.Command("go", "build", "-o", bin, "relay/cmd/relaybench").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	out, err := exec.Command(bin, "--write-url="+base+"/api/v1/write", "--scrape-url=", fmt.Sprint("--series=", series), fmt.Sprint("--edges=", edges), "--rounds=1", "--header=X-Relay-TTL=1h").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// TestPageAtSize measures the page over many edges and a million series: when it is
// painted, how long its scripts keep the browser, and what its asking costs the relay.
func TestPageAtSize(t *testing.T) {
	edges, err := strconv.Atoi(os.Getenv("RELAY_PAGE_EDGES"))
	if err != nil {
		t.Skip("set RELAY_PAGE_EDGES=5000 to measure the page over so many edges and a million series")
	}
	address := freeAddress(t)
	base := "http://" + address
	p := start(t, relayBinary(t), "--web.listen-address="+address, "--journal.path="+t.TempDir())
	waitFor(t, "the relay ready", func() bool { return status(base+"/-/ready") == 200 })
	pushEdges(t, base, edges, 1_000_000)
	cpu := func() time.Duration {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
		user, _ := strconv.Atoi(string(f[11]))
		system, _ := strconv.Atoi(string(f[12]))
		return time.Duration(user+system) * 10 * time.Millisecond // USER_HZ
	}
	const while = 30 * time.Second
	spent := func() float64 {
		before := cpu()
		time.Sleep(while)
		return float64(cpu()-before) / float64(while)
	}
	time.Sleep(10 * time.Second) // what the load has left behind is swept
	idle := spent()

	b := openBrowser(t)
	b.size(1280, 800)
	b.do(chromedp.Navigate("about:blank"))
	b.everywhere(`
		globalThis.longest = 0;
		new PerformanceObserver((l) => { for (const e of l.getEntries()) longest = Math.max(longest, e.duration); }).observe({ type: "longtask", buffered: true });
		new MutationObserver((_, o) => { if (document.querySelector("table.edges tbody")) { o.disconnect(); requestAnimationFrame(() => setTimeout(() => globalThis.rowsAt ??= performance.now())); } }).observe(document, { childList: true, subtree: true });`)
	for n := range 5 {
		b.open(base + fmt.Sprintf("/?%d", n)) // a document of its own
		b.until("rows", "globalThis.rowsAt")
		t.Logf("first paint after %.0f ms, the edges after %.0f ms", eval[float64](b, `performance.getEntriesByName("first-contentful-paint")[0].startTime`), eval[float64](b, "rowsAt"))
	}
	for _, view := range []string{"#edges", "#relay", "#connect"} {
		eval[chromedp.Void](b, fmt.Sprintf("longest = 0; location.hash = %q", view))
		time.Sleep(2 * time.Second)
		open := spent()
		t.Logf("%s open: %.2f %% of a processor, %.2f %% without it; the longest task in the browser %.0f ms", view, 100*open, 100*idle, eval[float64](b, "longest"))
	}
}

var pageViews = []string{"#edges", "#series?match=up", "#relay", "#connect"}

// A phone's width is enough for every view, and the dark scheme is dark.
func pagePhone(t *testing.T) {
	base := startBinary(t)
	now := time.Now()
	long := strings.Repeat("averyverylongname", 8)
	pushLabels(t, base, "shop-17", "90s", now, map[string]string{"__name__": "up", "job": "node"}, map[string]string{"__name__": "up", "job": long, "instance": strings.Repeat("x.", 200)})
	pushLabels(t, base, long, "90s", now.Add(time.Hour), map[string]string{"__name__": "up", "job": long})
	b := openBrowser(t)
	for _, scheme := range []string{"light", "dark"} {
		b.scheme(scheme)
		for _, width := range []int64{360, 768, 1280} {
			b.size(width, 800)
			for _, view := range pageViews {
				b.do(chromedp.Navigate(base + "/" + view))
				b.do(chromedp.Reload())
				b.until("an answer of the relay", `document.querySelector("#pulse:not([hidden]):not(.lost)")`)
				eval[chromedp.Void](b, `document.querySelectorAll("main section:not([hidden]) .opener").forEach((o) => o.click())`)
				if w := eval[int64](b, "document.documentElement.scrollWidth"); w > width {
					t.Errorf("%s, %d wide: the page is %d wide", view, width, w)
				}
				if nameless := eval[[]string](b, namelessControls); len(nameless) > 0 {
					t.Errorf("%s: what a screen reader has no name for:\n%s", view, strings.Join(nameless, "\n"))
				}
				if width == 360 || width == 1280 {
					b.picture(fmt.Sprintf("%s-%s-%d", strings.Split(view, "?")[0], scheme, width))
				}
			}
		}
		var red, green, blue int
		color := eval[string](b, "getComputedStyle(document.body).backgroundColor")
		if _, err := fmt.Sscanf(color, "rgb(%d, %d, %d)", &red, &green, &blue); err != nil || (red+green+blue < 3*60) != (scheme == "dark") {
			t.Errorf("the ground of the %s scheme is %s", scheme, color)
		}
		faint := eval[[]string](b, faintTexts)
		if len(faint) > 0 {
			t.Errorf("%s: too little contrast:\n%s", scheme, strings.Join(faint, "\n"))
		}
	}
}

// namelessControls are what can be operated or read and has no name, and elements that
// have another's id.
const namelessControls = `(() => {
  const name = (e) => e.getAttribute("aria-label") || (e.getAttribute("aria-labelledby") && document.getElementById(e.getAttribute("aria-labelledby"))?.textContent) || [...(e.labels ?? [])].map((l) => l.textContent).join("") || e.innerText || e.caption?.textContent;
  const bad = [...document.querySelectorAll("button, a, input, select, table, nav, section, [role]:not([role=alert], [role=status], [role=search])")].filter((e) => e.offsetParent !== null && !name(e)?.trim()).map((e) => e.outerHTML.slice(0, 120));
  const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
  return bad.concat(ids.filter((id, i) => ids.indexOf(id) !== i));
})()`

// faintTexts are the texts of the page with a contrast under 4.5, the least that WCAG
// wants at level AA.
const faintTexts = `(() => {
  const parse = (c) => (c.match(/[\d.]+/g) ?? []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4).reduce((a, v, i) => a + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c.length === 3 || c[3] === 1) return c; } return [255, 255, 255]; };
  const faint = new Set();
  for (const e of document.querySelectorAll("body *")) {
    if (e.offsetParent === null || e.closest(":disabled, .unseen, .gone, svg") || ![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())) continue;
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(ground(e))].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    if (contrast < 4.5) faint.add(e.tagName + "." + e.className + " " + contrast.toFixed(2) + ": " + e.textContent.slice(0, 40));
  }
  return [...faint];
})()`

// Under a prefix, and behind a proxy that takes it away, the page finds its parts.
func pagePrefix(t *testing.T) {
	base := startBinary(t, "--web.external-url=http://ops.shop.test/relay/", "--web.route-prefix=/")
	proxy := startStrippingProxy(t, base, "/relay")
	address := freeAddress(t)
	start(t, relayBinary(t), "--web.listen-address="+address, "--journal.path="+t.TempDir(), "--web.route-prefix=/inside/relay")
	waitFor(t, "the relay with a prefix", func() bool { return status("http://"+address+"/inside/relay/-/ready") == 200 })
	b := openBrowser(t)
	b.size(1280, 800)
	for page, push := range map[string]string{
		base + "/": "http://ops.shop.test/relay/api/v1/write", proxy + "/relay/": "http://ops.shop.test/relay/api/v1/write",
		"http://" + address + "/inside/relay/": "http://" + address + "/inside/relay/api/v1/write", "http://" + address + "/": "http://" + address + "/inside/relay/api/v1/write",
	} {
		b.open(page)
		b.until("the notice that it waits", `document.querySelector("#waiting").offsetHeight > 0`)
		if text := eval[string](b, `document.querySelector("#to-prometheus code").textContent`); !strings.Contains(text, "url: "+push+"\n") {
			t.Errorf("%s lacks %s:\n%s", page, push, text)
		}
	}
}

// Without scripts the page still says how to connect, and what there is.
func pageWithoutScripts(t *testing.T) {
	base := startBinary(t)
	pushOne(t, base, "up", 1)
	b := openBrowser(t)
	b.size(1280, 800)
	if _, err := chromedp.Call(b.ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true}); err != nil {
		t.Fatal(err)
	}
	b.do(chromedp.Navigate(base + "/"))
	text, err := chromedp.Run(b.ctx, chromedp.Text(chromedp.CSS("body")))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Live series: 1, of edges: 1.", "url: " + base + "/api/v1/write", "remoteWrite.url=" + base, "honor_labels: true"} {
		if !strings.Contains(text, want) {
			t.Errorf("without scripts the page lacks %q", want)
		}
	}
	b.picture("page")
}

// startStrippingProxy is a proxy as nginx with proxy_pass http://relay/: it takes a
// prefix off the path.
func startStrippingProxy(t *testing.T, base, prefix string) string {
	t.Helper()
	to, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(http.StripPrefix(prefix, httputil.NewSingleHostReverseProxy(to)))
	t.Cleanup(srv.Close)
	return srv.URL
}

// TestProcessSnippets runs what the page says to run, as it says it.
func TestProcessSnippets(t *testing.T) {
	if os.Getenv("RELAY_E2E") == "" {
		t.Skip("set RELAY_E2E=1, with the programs that CONTRIBUTING.md names in $RELAY_TOOLS")
	}
	base := startBinary(t)
	text := getPage(t, base+"/")
	snippets := map[string]string{}
	for _, m := range regexp.MustCompile(`(?s)id="to-([a-z0-9-]+)".*?<code>(.*?)</code>`).FindAllStringSubmatch(text, -1) {
		snippets[m[1]] = html.UnescapeString(m[2])
	}
	for _, id := range []string{"prometheus", "prometheus-1", "centre", "centre-up", "centre-shards"} {
		if out, err := exec.Command(tool(t, "promtool"), "check", "config", "--syntax-only", file(t, "prometheus.yml", snippets[id])).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", id, err, out)
		}
	}
	for id, program := range map[string]string{"curl": "/bin/sh", "client": "/usr/bin/python3"} {
		out, err := exec.Command(program, file(t, id, snippets[id])).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", id, err, out)
		}
		answer := getPage(t, base+"/api/v1/series?match[]=disk_free_bytes")
		if !strings.Contains(answer, `"value":"12884901888"`) && !strings.Contains(answer, `"value":"1.2884901888e+10"`) || !strings.Contains(answer, `"ttlSeconds":90,`) || !strings.Contains(answer, `"instance":"shop-17"`) {
			t.Errorf("after %s: %s", id, answer)
		}
		req, err := http.NewRequest(http.MethodDelete, base+"/metrics/job/backup/instance/shop-17", nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
	}
}
