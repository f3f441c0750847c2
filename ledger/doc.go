// Package ledger is a double-entry ledger: accounts, transactions of one or
// more postings, balances, and a proof that they agree.
//
// A posting names the account to debit, the account to credit and one amount,
// so a transaction is balanced by construction: it moves money and can neither
// make nor destroy any.
//
// # What is guaranteed
//
//   - A transaction is posted whole or not at all, and once: its id, chosen by
//     the client, is remembered for ever with what was decided of it. A repeat
//     gets that first answer again, a refusal too; the same id with other
//     content is refused as [Conflict].
//   - Each transaction of a batch gets a [Verdict] of its own. A bad one never
//     fails its neighbours, and a later one sees what an earlier one moved.
//   - What is available never passes an account's floor, however many post at
//     once. What a hold reserves is not available.
//   - A hold is captured or released once, and a transaction is reversed once.
//   - A chain of linked transactions is done as a whole, or none of it is.
//   - An account's version counts its entries without a gap, and its balance is
//     their sum: [Ledger.Verify] proves both.
//
// [Ledger.Seal] adds a hash chain, apart from posting: whoever keeps a seal's hash
// elsewhere can tell whether a transaction before it was changed.
//
// Verdicts that depend on the ledger's state are permanent. A transaction that
// is malformed in itself (no postings, an amount of 0, too many decimals) gets
// its verdict without being recorded, since it would get the same one again, and
// its Fault names the field. Nor is one recorded that fails only with its chain.
//
// # What is not
//
// Within one transaction the floor holds at its end, not between its postings;
// within a chain, at the end of each of its transactions. A hold cannot be
// captured in the chain that made it. An expired hold cannot be captured either,
// but reserves its amount until [Ledger.ExpireHolds] or a release frees it.
// Transactions of different batches are ordered as the store commits them.
//
// # When the store is down
//
// [Ledger.Post] returns the store's error and no verdicts. Whether the batch
// was committed may then be unknown; posting it again answers that safely.
//
// # Many callers
//
// A batch costs little more than a single transaction. Where each caller has one
// at a time, [Group] joins them: one commit for all that come together, and no
// wait for a caller that comes alone.
//
// # Backends
//
// [NewMemory] keeps all in memory; package pgledger keeps it in PostgreSQL, in
// the caller's own transaction where one is given. Package ledgertest is the
// test of a backend.
package ledger
