//go:build unix

// Package pgtest starts PostgreSQL for tests, with the programs that are installed. It
// needs only the standard library, so that every module of this repository can use it.
package pgtest

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// TB has the methods of a test or a benchmark that this package needs.
type TB interface {
	Helper()
	Cleanup(func())
	Fatal(...any)
	Skip(...any)
}

// Server is a PostgreSQL server that belongs to one test.
type Server struct {
	URL  string
	dir  string
	port string

	process *os.Process
	ended   chan struct{} // closed when the process has ended
}

// shared is a server for all tests that do not kill it.
var shared struct {
	once   sync.Once
	server *Server
	err    error
	number int
	mu     sync.Mutex
}

// Main runs the tests, then stops the shared server, and then checks for leaks. It
// returns the status to exit with.
//
//	os.Exit(pgtest.Main(m, func() error { return goleak.Find() }))
func Main(m interface{ Run() int }, leaks func() error) int {
	code := m.Run()
	if s := shared.server; s != nil {
		s.Kill()
		_ = os.RemoveAll(s.dir)
	}
	if code != 0 {
		return code
	}
	if err := leaks(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// Database returns the URL of a new database, which is dropped after the test. The
// database is in the server that FANOUT_TEST_POSTGRES names. Without that variable, one
// server is started for all tests. If that is not possible, the test is skipped; with CI
// set, it fails.
func Database(tb TB) string {
	tb.Helper()
	base := os.Getenv("FANOUT_TEST_POSTGRES")
	if base == "" {
		shared.once.Do(func() { shared.server, shared.err = start() })
		if shared.err != nil {
			Missing(tb, shared.err)
		}
		base = shared.server.URL
	}
	created, err := createDatabase(tb, base)
	if err != nil {
		tb.Fatal(err)
	}
	return created
}

// Missing skips a test and says why. With CI set, the test fails instead.
func Missing(tb TB, err error) {
	tb.Helper()
	if os.Getenv("CI") != "" {
		tb.Fatal("PostgreSQL: ", err)
	}
	tb.Skip("SKIPPED, no PostgreSQL: ", err)
}

func createDatabase(tb TB, base string) (string, error) {
	shared.mu.Lock()
	shared.number++
	name := fmt.Sprintf("fanout_test_%d_%d", os.Getpid(), shared.number)
	shared.mu.Unlock()
	its, err := url.Parse(base)
	if err != nil {
		return "", err
	}
	if err := administer("createdb", "--maintenance-db="+base, name); err != nil {
		return "", err
	}
	tb.Cleanup(func() { _ = administer("dropdb", "--force", "--maintenance-db="+base, name) })
	its.Path = "/" + name
	return its.String(), nil
}

func administer(program string, args ...string) error {
	path, err := find(program)
	if err != nil {
		return err
	}
	if out, err := exec.Command(path, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", program, err, out)
	}
	return nil
}

// New starts a server for one test, which may kill and restart it.
func New(tb TB) *Server {
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

// Start starts the server, also after it was killed.
func (s *Server) Start() error {
	postgres, err := find("postgres")
	if err != nil {
		return err
	}
	ready, err := find("pg_isready")
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if s.hasEnded() { // it ends at once while processes of the killed server are still running
			if err := s.run(postgres); err != nil {
				return err
			}
		}
		if exec.Command(ready, "-q", "-t", "1", "-d", s.URL).Run() == nil {
			return nil
		}
	}
	return errors.New("does not start")
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

// Kill kills the server and all its processes, as a crash would.
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

// account returns the user that runs PostgreSQL if we are root, because PostgreSQL
// refuses to run as root.
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
