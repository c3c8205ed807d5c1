package edges

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"golang.org/x/crypto/bcrypt"

	"relay/series"
)

// A File is an edges file that was read: who may push, and as whom. It is
// immutable.
type File struct {
	entries []*Entry

	byUser  map[string]*Entry
	byToken map[[sha256.Size]byte]*Entry
	bySAN   map[string]*Entry

	cost int           // of the dearest bcrypt hash; 0: there is none
	took time.Duration // to read it
}

// A reading is an edges file and the files with secrets that it names, as they were
// read.
type reading struct {
	path    string
	secrets []string // their paths
	sum     [sha256.Size]byte
}

// add takes a file into the sum. That is of what is in them: a time of change is too
// coarse to tell apart what is written while it is read, and one hash from another has
// the same size.
func (r *reading) add(content []byte, err error) {
	if err != nil {
		content = []byte("unreadable: " + err.Error())
	}
	of := sha256.Sum256(content)
	r.sum = sha256.Sum256(append(r.sum[:], of[:]...))
}

// again is what the files are now.
func (r *reading) again() [sha256.Size]byte {
	now := reading{}
	now.add(os.ReadFile(r.path))
	for _, p := range r.secrets {
		now.add(readSecret(p))
	}
	return now.sum
}

// An Entry is what the file says of one edge. It is immutable.
type Entry struct {
	// Name is the edge's: its series are this edge's, and so is its target. In a
	// pair it is the group's. Login is the name of the entry, unique in the file.
	Name, Login string
	Group       bool // Name is a pair's; Login is then its replica
	Enabled     bool

	Terms  series.Terms // what holds for its series
	Labels [][2]string  // forced, by name
	TTL    series.TTL   // where its requests do not ask for one; 0: the relay's default

	line     int
	basic    *basicAuth
	token    *[sha256.Size]byte
	san      string
	username string
	rates    rates
	meter    *meter
}

// basicAuth is a password: hashed by bcrypt, or the digest of one from a file.
type basicAuth struct {
	hash   []byte
	digest *[sha256.Size]byte
}

// rates are limits in time; 0: none.
type rates struct {
	requests     float64 // a second
	samples      float64 // a second
	samplesBurst int
}

// The form of the file. README.md describes it.
type fileYAML struct {
	IdentityLabel string      `yaml:"identity_label"`
	Edges         []entryYAML `yaml:"edges"`
}

type entryYAML struct {
	Name      string `yaml:"name"`
	Enabled   *bool  `yaml:"enabled"`
	BasicAuth *struct {
		Username     string `yaml:"username"`
		PasswordHash string `yaml:"password_hash"`
		PasswordFile string `yaml:"password_file"`
	} `yaml:"basic_auth"`
	Authorization *struct {
		CredentialsSHA256 string `yaml:"credentials_sha256"`
		CredentialsFile   string `yaml:"credentials_file"`
	} `yaml:"authorization"`
	ClientCertificate *struct {
		SAN string `yaml:"san"`
	} `yaml:"client_certificate"`
	Labels map[string]string `yaml:"labels"`
	TTL    string            `yaml:"ttl"`
	TTLMax string            `yaml:"ttl_max"`
	Limits struct {
		Series            int     `yaml:"series"`
		Labels            int     `yaml:"labels"`
		SamplesPerSecond  float64 `yaml:"samples_per_second"`
		SamplesBurst      int     `yaml:"samples_burst"`
		RequestsPerSecond float64 `yaml:"requests_per_second"`
	} `yaml:"limits"`
	HA *struct {
		Group string `yaml:"group"`
	} `yaml:"ha"`
}

// LoadFile reads an edges file and the files with secrets that it names; their
// paths are relative to its own. The error has all that is wrong, a line each, and
// never a secret.
func LoadFile(path string) (*File, error) {
	f, _, err := load(path)
	return f, err
}

// load is LoadFile, and says what was read, also if that is no good.
func load(path string) (*File, *reading, error) {
	begun := time.Now()
	read := &reading{path: path}
	content, err := os.ReadFile(path)
	read.add(content, err)
	if err != nil {
		return nil, read, err
	}
	f, err := parseFile(content, read)
	if err != nil {
		return nil, read, prefixed(path, err)
	}
	f.took = time.Since(begun)
	return f, read, nil
}

// A lineError is what is wrong at a line of the file.
type lineError struct {
	line int
	text string
}

func (e *lineError) Error() string { return e.text }

// prefixed puts path:line: before each error.
func prefixed(path string, err error) error {
	var out []error
	list := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		list = joined.Unwrap()
	}
	for _, err := range list {
		var at *lineError
		if errors.As(err, &at) {
			out = append(out, fmt.Errorf("%s:%d: %w", path, at.line, err))
		} else {
			out = append(out, fmt.Errorf("%s: %w", path, err))
		}
	}
	return errors.Join(out...)
}

// goType is what the parser says of a field that there is not: its place in this
// program, which tells who wrote the file nothing.
var goType = regexp.MustCompile(` in type .*`)

// parseFile reads the content of an edges file, and the secrets that it names into
// read, which knows its path.
func parseFile(content []byte, read *reading) (*File, error) {
	var in fileYAML
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	decoder.KnownFields(true)
	if err := decoder.Decode(&in); err != nil && !errors.Is(err, io.EOF) {
		return nil, errors.New(goType.ReplaceAllString(err.Error(), ""))
	}
	// The same again, only to know the lines.
	var lines struct {
		Edges []yaml.Node `yaml:"edges"`
	}
	if err := yaml.Unmarshal(content, &lines); err != nil {
		return nil, err
	}
	if in.IdentityLabel == "" {
		in.IdentityLabel = "edge"
	}
	if !series.IsLegacyName([]byte(in.IdentityLabel)) || strings.ContainsAny(in.IdentityLabel, ":") || strings.HasPrefix(in.IdentityLabel, "__") {
		return nil, fmt.Errorf("identity_label %.40q: want a label name of [a-zA-Z_][a-zA-Z0-9_]* that does not begin with __", in.IdentityLabel)
	}
	if in.Edges == nil { // empty, say, in the middle of being written
		return nil, errors.New("there is no list edges; one without any, so that nobody may push, is edges: []")
	}
	f := &File{byUser: map[string]*Entry{}, byToken: map[[sha256.Size]byte]*Entry{}, bySAN: map[string]*Entry{}}
	var wrong []error
	names := map[string]*Entry{}
	for i := range in.Edges {
		line := lines.Edges[i].Line
		e, problems := f.entry(&in.Edges[i], in.IdentityLabel, read)
		e.line = line
		problems = append(problems, f.unique(e, names)...)
		for _, p := range problems {
			wrong = append(wrong, &lineError{line, fmt.Sprintf("edge %.60q: %s", in.Edges[i].Name, p)})
		}
		f.entries = append(f.entries, e)
	}
	if len(wrong) > 0 {
		return nil, errors.Join(wrong...)
	}
	slices.SortFunc(f.entries, func(a, b *Entry) int { return strings.Compare(a.Login, b.Login) })
	return f, nil
}

// entry reads one edge, and says all that is wrong with it.
func (f *File) entry(in *entryYAML, identity string, read *reading) (e *Entry, problems []string) {
	problem := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	e = &Entry{Name: in.Name, Login: in.Name, Enabled: in.Enabled == nil || *in.Enabled}
	if !ValidName(in.Name) {
		problem("%s", NameRule)
	}
	if in.HA != nil {
		e.Name, e.Group = in.HA.Group, true
		if !ValidName(e.Name) || e.Name == in.Name {
			problem("ha.group %.60q: %s, and it differs from the names of its edges", e.Name, NameRule)
		}
	}
	if a := in.BasicAuth; a != nil {
		e.basic, e.username = &basicAuth{hash: []byte(a.PasswordHash)}, a.Username
		if e.username == "" {
			e.username = in.Name
		}
		switch {
		case strings.Contains(e.username, ":"):
			problem("basic_auth.username must not contain a colon")
		case (a.PasswordHash == "") == (a.PasswordFile == ""):
			problem("basic_auth wants either password_hash (bcrypt) or password_file")
		case a.PasswordFile != "":
			digest, err := read.secret(a.PasswordFile)
			if err != nil {
				problem("basic_auth.password_file: %v", err)
			}
			e.basic = &basicAuth{digest: &digest}
		default:
			cost, err := bcrypt.Cost(e.basic.hash)
			if err != nil || cost > maxCost {
				problem("basic_auth.password_hash is not a bcrypt hash of a cost of at most %d", maxCost)
			}
			f.cost = max(f.cost, cost)
		}
	}
	if a := in.Authorization; a != nil {
		switch {
		case (a.CredentialsSHA256 == "") == (a.CredentialsFile == ""):
			problem("authorization wants either credentials_sha256 (of a bearer token, in hex) or credentials_file")
		case a.CredentialsFile != "":
			digest, err := read.secret(a.CredentialsFile)
			if err != nil {
				problem("authorization.credentials_file: %v", err)
			}
			e.token = &digest
		default:
			raw, err := hex.DecodeString(a.CredentialsSHA256)
			if err != nil || len(raw) != sha256.Size {
				problem("authorization.credentials_sha256 is not 64 hexadecimal digits")
				break
			}
			e.token = (*[sha256.Size]byte)(raw)
		}
	}
	if c := in.ClientCertificate; c != nil {
		if e.san = c.SAN; e.san == "" {
			problem("client_certificate wants san, the URI or DNS name in the certificate")
		}
	}
	if e.basic == nil && e.token == nil && in.ClientCertificate == nil && e.Enabled {
		problem("nothing to prove it by: basic_auth, authorization or client_certificate")
	}
	readTTL := func(field, s string) series.TTL {
		if s == "" {
			return 0
		}
		ttl, err := series.ParseTTL(s)
		if err != nil {
			problem("%s: %v", field, err)
		}
		return ttl
	}
	e.TTL, e.Terms.MaxTTL = readTTL("ttl", in.TTL), readTTL("ttl_max", in.TTLMax)
	if e.TTL > 0 && e.Terms.MaxTTL > 0 && e.TTL > e.Terms.MaxTTL {
		problem("ttl %s is over ttl_max %s", in.TTL, in.TTLMax)
	}
	l := in.Limits
	if l.Series < 0 || l.Labels < 0 || l.SamplesBurst < 0 || !(l.SamplesPerSecond >= 0) || !(l.RequestsPerSecond >= 0) {
		problem("limits must not be negative; 0 is none")
	}
	if l.SamplesBurst > 0 && l.SamplesPerSecond == 0 {
		problem("limits.samples_burst wants limits.samples_per_second")
	}
	e.Terms.MaxSeries, e.Terms.MaxLabels = l.Series, l.Labels
	e.rates = rates{requests: l.RequestsPerSecond, samples: l.SamplesPerSecond, samplesBurst: l.SamplesBurst}
	if e.rates.samplesBurst == 0 {
		e.rates.samplesBurst = int(min(20*e.rates.samples, 1<<30)) // as Mimir: 10,000 a second, 200,000 at once
	}
	if e.Group {
		e.Terms.Dropped = "__replica__"
	}
	e.Labels = append(e.Labels, [2]string{identity, e.Name})
	for name, value := range in.Labels {
		switch {
		case name == identity:
			problem("label %q is forced by identity_label, with the edge's name", name)
		case !series.IsLegacyName([]byte(name)) || strings.Contains(name, ":") || strings.HasPrefix(name, "__"):
			problem("label name %.40q: want [a-zA-Z_][a-zA-Z0-9_]* that does not begin with __", name)
		case value == "":
			problem("label %q is empty", name)
		}
		e.Labels = append(e.Labels, [2]string{name, value})
	}
	slices.SortFunc(e.Labels, func(a, b [2]string) int { return strings.Compare(a[0], b[0]) })
	for _, l := range e.Labels {
		e.Terms.Forced = series.AppendPair(e.Terms.Forced, l[0], l[1])
	}
	return e, problems
}

// maxCost bounds the work of one password: at 14 it is a second.
const maxCost = 14

// unique notes an entry under all that tells it apart, and says what another one
// has too.
func (f *File) unique(e *Entry, names map[string]*Entry) (problems []string) {
	note := func(what string, other *Entry) {
		problems = append(problems, fmt.Sprintf("%s is also that of the edge in line %d", what, other.line))
	}
	if other := names[e.Login]; other != nil {
		note("its name", other)
	} else {
		names[e.Login] = e
	}
	if e.Group {
		if other := names[e.Name]; other != nil && !(other.Group && other.Name == e.Name && other.Login != e.Name) {
			note("its group's name", other)
		} else {
			names[e.Name] = e
		}
	}
	if e.basic != nil {
		if other := f.byUser[e.username]; other != nil {
			note("basic_auth.username", other)
		}
		f.byUser[e.username] = e
	}
	if e.token != nil {
		if other := f.byToken[*e.token]; other != nil {
			note("its token", other)
		}
		f.byToken[*e.token] = e
	}
	if e.san != "" {
		san := normalSAN(e.san)
		if other := f.bySAN[san]; other != nil {
			note("client_certificate.san", other)
		}
		f.bySAN[san] = e
	}
	return problems
}

// secret returns the digest of a secret in a file of its own, the newline at its
// end left out.
func (r *reading) secret(path string) (digest [sha256.Size]byte, err error) {
	if !filepath.IsAbs(path) {
		path = filepath.Join(filepath.Dir(r.path), path)
	}
	content, err := readSecret(path)
	r.secrets = append(r.secrets, path)
	r.add(content, err)
	if err != nil {
		return digest, err
	}
	content = bytes.TrimRight(content, "\r\n")
	if len(content) == 0 || len(content) > maxSecret {
		return digest, fmt.Errorf("%s holds no secret of 1 to %d bytes", path, maxSecret)
	}
	return sha256.Sum256(content), nil
}

const maxSecret = 4096

// readSecret reads one byte more than a secret may have, at most.
func readSecret(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, maxSecret+1))
}

// ValidName reports whether an edge can have that name.
func ValidName(name string) bool {
	if len(name) == 0 || len(name) > maxNameBytes {
		return false
	}
	for i := 0; i < len(name); i++ {
		c := name[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case i > 0 && strings.IndexByte("._:@-", c) >= 0:
		default:
			return false
		}
	}
	return true
}

const maxNameBytes = 128

// NameRule says what ValidName wants.
const NameRule = "an edge's name has at most 128 of the characters A-Z a-z 0-9 . _ : @ -, the first a letter or digit"

// NeedsAuthorization reports whether an edge proves itself by the Authorization
// header, so that nobody else may ask for one on the same listener.
func (f *File) NeedsAuthorization() bool { return len(f.byUser)+len(f.byToken) > 0 }
