// Package pgtest starts PostgreSQL for tests, from the programs that are installed.
package pgtest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/goleak"
)

// Server is a PostgreSQL of a test's own.
type Server struct {
	URL  string
	dir  string
	port string

	process *os.Process
	ended   chan struct{} // closed when it has
}

// shared is one for all tests that do not harm it.
var shared struct {
	once   sync.Once
	server *Server
	err    error
	number int
	mu     sync.Mutex
}

// Main runs the tests, stops the shared server after them, and looks for goroutines
// that are left.
func Main(m *testing.M) int {
	code := m.Run()
	if s := shared.server; s != nil {
		s.Kill()
		_ = os.RemoveAll(s.dir)
	}
	if code != 0 {
		return code
	}
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// Pool returns a pool on a database of its own, in the server that FANOUT_TEST_POSTGRES
// names or else in one that it starts, and its URL. Without either the test is skipped,
// but in CI, where it fails.
func Pool(tb testing.TB) (*pgxpool.Pool, string) {
	tb.Helper()
	base := os.Getenv("FANOUT_TEST_POSTGRES")
	if base == "" {
		shared.once.Do(func() { shared.server, shared.err = start() })
		if shared.err != nil {
			Missing(tb, shared.err)
		}
		base = shared.server.URL
	}
	url := createDatabase(tb, base)
	return Connect(tb, url), url
}

// Missing skips a test aloud; in CI it fails.
func Missing(tb testing.TB, err error) {
	tb.Helper()
	if os.Getenv("CI") != "" {
		tb.Fatal("PostgreSQL: ", err)
	}
	tb.Skip("SKIPPED, no PostgreSQL: ", err)
}

// Connect opens a pool, which is closed after the test.
func Connect(tb testing.TB, url string) *pgxpool.Pool {
	tb.Helper()
	pool, err := pgxpool.New(context.Background(), url)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(pool.Close)
	return pool
}

func createDatabase(tb testing.TB, base string) string {
	tb.Helper()
	shared.mu.Lock()
	shared.number++
	name := fmt.Sprintf("fanout_test_%d_%d", os.Getpid(), shared.number)
	shared.mu.Unlock()
	ctx := context.Background()
	admin, err := pgx.Connect(ctx, base)
	if err != nil {
		tb.Fatal(err)
	}
	defer admin.Close(ctx)
	if _, err := admin.Exec(ctx, "CREATE DATABASE "+name); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { drop(base, name) })
	config, err := pgx.ParseConfig(base)
	if err != nil {
		tb.Fatal(err)
	}
	return strings.Replace(base, "/"+config.Database+"?", "/"+name+"?", 1)
}

func drop(base, name string) {
	ctx := context.Background()
	if admin, err := pgx.Connect(ctx, base); err == nil {
		_, _ = admin.Exec(ctx, "DROP DATABASE "+name+" WITH (FORCE)")
		_ = admin.Close(ctx)
	}
}

// New starts a server for one test, which may kill and restart it.
func New(tb testing.TB) *Server {
	tb.Helper()
	s, err := start()
	if err != nil {
		Missing(tb, err)
	}
	tb.Cleanup(func() {
		s.Kill()
		_ = os.RemoveAll(s.dir)
	})
	return s
}

func start() (*Server, error) {
	initdb, err := find("initdb")
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "fanout-postgres-")
	if err != nil {
		return nil, err
	}
	if err := give(dir); err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	port := strconv.Itoa(listener.Addr().(*net.TCPAddr).Port)
	_ = listener.Close()
	init := as(initdb, "-D", dir, "-U", "postgres", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C")
	if out, err := init.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w: %s", err, out)
	}
	s := &Server{dir: dir, port: port, URL: "postgres://postgres@127.0.0.1:" + port + "/postgres?sslmode=disable"}
	return s, s.Start()
}

// Start starts it, again if it was killed.
func (s *Server) Start() error {
	postgres, err := find("postgres")
	if err != nil {
		return err
	}
	deadline := time.Now().Add(30 * time.Second)
	for {
		if s.hasEnded() { // as it does if processes of the last one are still there
			if err := s.run(postgres); err != nil {
				return err
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		conn, err := pgx.Connect(ctx, s.URL)
		cancel()
		if err == nil {
			return conn.Close(context.Background())
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("does not start: %w", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (s *Server) run(postgres string) error {
	cmd := as(postgres, "-D", s.dir, "-p", s.port, "-k", s.dir, "-c", "listen_addresses=127.0.0.1", "-c", "max_connections=200")
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	s.process, s.ended = cmd.Process, ended
	go func() {
		defer close(ended)
		_ = cmd.Wait()
	}()
	return nil
}

func (s *Server) hasEnded() bool {
	if s.ended == nil {
		return true
	}
	select {
	case <-s.ended:
		return true
	default:
		return false
	}
}

// Kill kills it and all its processes, as a crash would.
func (s *Server) Kill() {
	_ = syscall.Kill(-s.process.Pid, syscall.SIGKILL)
	<-s.ended
	_ = os.Remove(filepath.Join(s.dir, "postmaster.pid"))
}

func find(program string) (string, error) {
	if path, err := exec.LookPath(program); err == nil {
		return path, nil
	}
	installed, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + program)
	if len(installed) == 0 {
		return "", fmt.Errorf("%s is not installed", program)
	}
	return installed[len(installed)-1], nil
}

// account is whose PostgreSQL it is if we are root, which it refuses.
func account() (uid, gid uint32, ok bool) {
	if os.Getuid() != 0 {
		return 0, 0, false
	}
	for _, name := range []string{"postgres", "nobody"} {
		if u, err := user.Lookup(name); err == nil {
			uid, _ := strconv.ParseUint(u.Uid, 10, 32)
			gid, _ := strconv.ParseUint(u.Gid, 10, 32)
			return uint32(uid), uint32(gid), true
		}
	}
	return 0, 0, false
}

func give(dir string) error {
	if uid, gid, ok := account(); ok {
		return os.Chown(dir, int(uid), int(gid))
	}
	return nil
}

func as(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(program, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if uid, gid, ok := account(); ok {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uid, Gid: gid}
	}
	cmd.Dir = "/"
	return cmd
}
