// Command paymentserver takes payments over HTTP and posts them to a ledger.
package main

func main() {}
