// A server and a client of net/http over crypto/tls, as the tests of plaintext within TLS need them. Both check every byte, and
// end with an error if one is wrong. Built by tests/observe_tls_go.rs.
//
//	serve ADDRESS CERTIFICATE KEY LOG [http2|wrapped|hidden|everywhere]
//	ask|ask-http2 ADDRESS CONNECTIONS REQUESTS [METHOD PATH [STATUS]]...   a round whenever its input says so
package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
)

// Unless it is asked for, neither side may choose HTTP/2.
var noHTTP2 = map[string]func(string, *tls.Conn) http.RoundTripper{}

// A text that looks like a request wherever it is cut.
func pattern(length int) []byte {
	return bytes.Repeat([]byte("GET / HTTP/1.1\r\n\r\n"), length/18+1)[:length]
}

// Uses up stack, so that it has to grow (and be moved) again and again.
//
//go:noinline
func deep(depth int, then func()) byte {
	var frame [512]byte
	frame[depth%512] = byte(depth)
	if depth == 0 {
		then()
	} else {
		frame[0] += deep(depth-1, then)
	}
	return frame[depth%512]
}

type answer struct {
	log *os.File
	mu  sync.Mutex
}

func (a *answer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	status, reply := http.StatusOK, []byte("an answer\n")
	switch {
	case r.URL.Path == "/missing":
		status = http.StatusNotFound
	case r.URL.Path == "/large":
		reply = pattern(360_000)
	case r.Method == "POST":
		if !bytes.Equal(body, pattern(len(body))) {
			status = http.StatusInternalServerError
		}
		reply = body
	}
	deep(50, func() {
		// The line is there before the answer leaves.
		a.mu.Lock()
		fmt.Fprintf(a.log, "%s %s %d\n", r.Method, r.URL.Path, status)
		a.mu.Unlock()
		w.WriteHeader(status)
		w.Write(reply)
	})
}

// A connection that adds nothing to the one that it has as its first field.
type wrapped struct {
	net.Conn
	name string
}

// A connection that has the other where nobody looks for it.
type hidden struct {
	name string
	net.Conn
}

type listener struct {
	net.Listener
	wrap func(net.Conn) net.Conn
}

func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.wrap(c), nil
}

func serve(address, certificate, key, file string, how string) error {
	log, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if _, port, err := net.SplitHostPort(address); err == nil && how == "everywhere" {
		address = ":" + port
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: &answer{log: log}}
	if how != "http2" {
		server.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){}
	}
	switch how {
	case "wrapped":
		l = listener{l, func(c net.Conn) net.Conn { return &wrapped{c, "wrapped"} }}
	case "hidden":
		l = listener{l, func(c net.Conn) net.Conn { return &hidden{"hidden", c} }}
	}
	return server.ServeTLS(l, certificate, key)
}

type request struct {
	method, path string
	status       int
}

func one(client *http.Client, address string, r request, number int) error {
	var body []byte
	if r.method == "POST" {
		body = pattern(number % 9000)
	}
	req, err := http.NewRequest(r.method, "https://"+address+r.path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	// A connection for this one alone.
	req.Close = r.path == "/close"
	response, err := client.Do(req)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	reply, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != r.status {
		return fmt.Errorf("%s %s: %s", r.method, r.path, response.Status)
	}
	if r.path == "/large" && !bytes.Equal(reply, pattern(360_000)) {
		return fmt.Errorf("%s: %d bytes are not what was sent", r.path, len(reply))
	}
	if r.path == "/echo" && !bytes.Equal(reply, body) {
		return fmt.Errorf("%s: %d bytes came back of %d", r.path, len(reply), len(body))
	}
	return nil
}

// Clients with a connection each, which lasts.
func clients(number int, http2 bool) []*http.Client {
	var made []*http.Client
	for i := 0; i < number; i++ {
		transport := &http.Transport{
			TLSClientConfig:   &tls.Config{InsecureSkipVerify: true},
			MaxConnsPerHost:   1,
			ForceAttemptHTTP2: http2,
		}
		if !http2 {
			transport.TLSNextProto = noHTTP2
		}
		made = append(made, &http.Client{Transport: transport})
	}
	return made
}

func ask(address string, clients []*http.Client, requests int, kinds []request) error {
	failures := make(chan error, len(clients))
	for i := range clients {
		client := clients[i]
		go func() {
			for n := 0; n < requests; n++ {
				var err error
				deep(n%200, func() { err = one(client, address, kinds[n%len(kinds)], n) })
				if err != nil {
					failures <- err
					return
				}
			}
			failures <- nil
		}()
	}
	for range clients {
		if err := <-failures; err != nil {
			return err
		}
	}
	return nil
}

func number(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil {
		log.Fatal(err)
	}
	return n
}

func main() {
	// Stacks are made smaller, and so moved, when rubbish is collected: often.
	debug.SetGCPercent(10)
	args := os.Args[1:]
	switch args[0] {
	case "serve":
		log.Fatal(serve(args[1], args[2], args[3], args[4], strings.Join(args[5:], "")))
	case "ask", "ask-http2":
		var kinds []request
		for _, word := range args[4:] {
			if n, err := strconv.Atoi(word); err == nil {
				kinds[len(kinds)-1].status = n
			} else if method, path, cut := strings.Cut(word, " "); cut {
				kinds = append(kinds, request{method, path, 200})
			} else {
				log.Fatalf("%q is neither a status nor METHOD PATH", word)
			}
		}
		asking := clients(number(args[2]), args[0] == "ask-http2")
		// One line of input, one round.
		for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
			if err := ask(args[1], asking, number(args[3]), kinds); err != nil {
				log.Fatal(err)
			}
			fmt.Println("done")
		}
	}
}
