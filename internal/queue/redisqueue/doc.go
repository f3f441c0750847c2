// Package redisqueue is a queue.Queue on a Redis list.
//
// A push is one RPUSH. A claim is one script that moves messages from the head of the list into a hash of the worker and
// sets the worker's lease, at once or not at all: a worker killed while the reply is on the way to it loses nothing, which a
// BLPOP would. An acknowledgement is one HDEL.
//
// Redis 6.2 or later, one server, Sentinel or Cluster: all keys of a queue share one hash tag, {name}, thus one slot.
//
//	queue:{name}:ready          list    bodies never claimed, in push order
//	queue:{name}:back           zset    "id:attempts:body" scored by id: returned or reaped, claimed before ready
//	queue:{name}:held:<worker>  hash    "id:attempts" → body
//	queue:{name}:leases         zset    worker scored by the end of its lease, ms of Redis TIME
//	queue:{name}:seq            string  the last id
//
// # Guaranteed
//
// What package queue promises, as durably as Redis keeps its data:
//
//   - appendonly no (Redis's default): a restart of Redis loses what came after the last snapshot, perhaps everything.
//   - appendonly yes, appendfsync everysec: a loss of power, or a SIGKILL of Redis while the disk is busy (it then delays its
//     writes), loses up to about two seconds of pushes and acknowledgements.
//   - appendonly yes, appendfsync always: a push that returned survives both.
//   - A failover to a replica loses what had not been replicated.
//
// Acknowledgements that Redis forgets make messages come back; that is harmless to a handler that can be repeated.
// maxmemory-policy must be noeviction. A server at its maxmemory refuses pushes, but goes on serving claims and
// acknowledgements, so that the queue drains.
//
// # Not guaranteed
//
// That a push whose error is a lost connection did not happen. go-redis repeats a push whose reply it lost (Options.MaxRetries
// of the client), so a body may be in the queue twice. Claims are never repeated by themselves.
//
// # When Redis is down
//
// Every call returns the client's error, after the client's own timeouts.
package redisqueue
