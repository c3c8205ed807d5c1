package statuspage

import (
	"embed"
	"io/fs"
	"strings"

	senderfiles "relay/docs/edges"
)

//go:embed snippets
var snippetFiles embed.FS

// A Snippet is what one program has to be told of the relay.
type Snippet struct {
	ID    string // of the page's element
	Title string
	Where string // where it goes
	Text  string
}

// A source is a snippet as the file that it is made of.
type source struct {
	id, title, where string
	files            fs.FS
	name             string
}

// senders are the kinds of edges, in the order in which they are shown.
var senders = []source{
	{"prometheus", "Prometheus", "prometheus.yml", senderfiles.Files, "prometheus.yml"},
	{"prometheus-1", "Prometheus, remote write 1.0", "prometheus.yml", senderfiles.Files, "prometheus-remote-write-1.yml"},
	{"prometheus-242", "Prometheus 2.42", "prometheus.yml", senderfiles.Files, "prometheus-2.42.yml"},
	{"alloy", "Alloy", "config.alloy", senderfiles.Files, "config.alloy"},
	{"agent-static", "Grafana Agent, static", "agent.yml", senderfiles.Files, "grafana-agent-static.yml"},
	{"agent-flow", "Grafana Agent, flow", "config.river", senderfiles.Files, "grafana-agent-flow.river"},
	{"vmagent", "vmagent", "a shell", senderfiles.Files, "vmagent.sh"},
	{"otel", "OpenTelemetry Collector", "config.yaml", senderfiles.Files, "otel-collector.yml"},
	{"telegraf", "Telegraf", "telegraf.conf", senderfiles.Files, "telegraf.conf"},
	{"curl", "curl, scripts", "a shell", snippetFiles, "snippets/push.sh"},
	{"client", "Pushgateway clients", "a program", snippetFiles, "snippets/push.py"},
}

// centres are the ways to collect what the relay shows.
var centres = []source{
	{"centre", "One page", "prometheus.yml", snippetFiles, "snippets/centre.yml"},
	{"centre-up", "up of each edge", "prometheus.yml", snippetFiles, "snippets/centre-up.yml"},
	{"centre-shards", "In parts", "prometheus.yml", snippetFiles, "snippets/centre-shards.yml"},
}

// The relay's address in the files.
const exampleHost = "relay.example.com:10091"

// filled are the snippets of one relay: the files, with its address in place of the
// example's.
func filled(sources []source, at Address) []Snippet {
	// The longest first: a Replacer takes the first that fits.
	replace := strings.NewReplacer(
		"http://"+exampleHost+"/api/v1/sd", at.Scheme+"://"+at.Host+at.Prefix+"/api/v1/sd",
		"http://"+exampleHost, at.Push,
		exampleHost, at.Host,
		"scheme: http\n", "scheme: "+at.Scheme+"\n",
		"metrics_path: /metrics\n", "metrics_path: "+at.Prefix+"/metrics\n",
	)
	list := make([]Snippet, 0, len(sources))
	for _, s := range sources {
		text, err := fs.ReadFile(s.files, s.name)
		if err != nil {
			panic(err) // it is in the binary, or it was not built
		}
		list = append(list, Snippet{s.id, s.title, s.where, replace.Replace(string(text))})
	}
	return list
}
