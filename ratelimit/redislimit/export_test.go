package redislimit

// SetClock makes the script go by a clock in place of the server's. What is written then lives an hour longer, since it expires by the server's.
func (s *Store) SetClock(now func() int64) { s.clock = now }

// Source is the script, and Digest how Redis knows it.
var Source, Digest = source, digest
