// Package settlement pays out what a payment server has collected: an amount is held
// in the ledger, a bank pays it, and the hold is captured; or the bank says no, and
// the hold is released. It is a saga, since the bank takes no part in anybody's
// transaction, answers late, and sometimes not at all.
//
// The ledger's part is done in the transaction of the saga's checkpoint. The bank is
// given the same key at every attempt; after a lost answer it is asked before it is
// told again.
package settlement
