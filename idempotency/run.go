package idempotency

// Run is one run of the work under a key, as [Do] hands it to the work. It belongs to that call of the work alone.
type Run struct {
	claim Claim
}

// Key returns the key that the work runs under.
func (r *Run) Key() Key { return r.claim.Key }

// Token returns the fencing number of this run: higher than that of every earlier run of the key. A resource that
// remembers the highest token it has seen refuses a late owner's write:
//
//	UPDATE orders SET state = 'paid', fence = $1 WHERE id = $2 AND fence < $1
func (r *Run) Token() Token { return r.claim.Token }
