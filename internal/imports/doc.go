// Package imports holds no code: its test keeps the rules of which package may import what.
//
//   - A core (the seven packages at the root) needs the standard library and decimal, recon also bits-and-blooms. So does a suite
//     for backends, a package named *test.
//   - Nothing in one room imports another room. They meet in examples, which nothing imports.
//   - A driver is below a sub-package named after it: pgx below pg…, go-redis below redis…
//   - Package testing is not linked into users' programs.
//   - The root's go.mod has no dependency of the examples' or the benchmarks' own.
//
// What a package needs is what it imports itself and through packages of this module: ratelimit importing internal/pg would bring pgx
// to its users all the same.
package imports
