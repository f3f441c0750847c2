// Package race tells tests that do one thing many times, on one goroutine or a few,
// that the race detector makes them ten times slower. They do it fewer times there;
// make test runs their packages without it too.
package race
