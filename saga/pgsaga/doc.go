// Package pgsaga keeps sagas in PostgreSQL 15 or later.
package pgsaga
