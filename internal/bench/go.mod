module github.com/safetill/safetill/internal/bench

go 1.26.0

require github.com/safetill/safetill v0.0.0

replace github.com/safetill/safetill => ../../
