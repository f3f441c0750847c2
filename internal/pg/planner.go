package pg

import (
	"fmt"
	"strings"
)

// Planner is settings of PostgreSQL's planner for statements of ours, which hold until
// the end of the transaction. Each field is a list of expressions for a SELECT, one for
// each setting.
type Planner struct {
	Set     string
	Keep    string // what they were before, for Restore
	Restore string
}

// PlannerFor returns settings that are given as name, value, name, value. Where
// transactions of several packages may be one within the other, who keeps them apart.
func PlannerFor(who string, settings ...string) Planner {
	var set, keep, restore []string
	for i := 0; i < len(settings); i += 2 {
		name, kept := settings[i], "safetill."+who+"_"+settings[i]
		set = append(set, fmt.Sprintf("set_config('%s', '%s', true)", name, settings[i+1]))
		keep = append(keep, fmt.Sprintf("set_config('%s', current_setting('%s'), true)", kept, name))
		restore = append(restore, fmt.Sprintf("set_config('%s', current_setting('%s'), true)", name, kept))
	}
	return Planner{strings.Join(set, ", "), strings.Join(keep, ", "), strings.Join(restore, ", ")}
}
