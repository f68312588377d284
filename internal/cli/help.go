package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// sections are the groups of commands in the help of the program itself, in the order in
// which a newcomer needs them. What stands in none comes last.
var sections = []struct{ id, title, commands string }{
	{"look", "See what is there, and what is wrong:", "status topology doctor why advise monitor log capture"},
	{"networks", "Networks:", "network up down export plan apply mode"},
	{"guests", "Guests:", "qemu port guest lease reservation forward"},
	{"changes", "Changes:", "change undo"},
	{"page", "The web page and the API:", "web session token"},
}

func (a *app) inSections(root *cobra.Command) {
	for _, s := range sections {
		root.AddGroup(&cobra.Group{ID: s.id, Title: s.title})
		for _, name := range strings.Fields(s.commands) {
			for _, c := range root.Commands() {
				if c.Name() == name {
					c.GroupID = s.id
				}
			}
		}
	}
}

// unknown says that there is no such command, and which may be meant.
func unknown(c *cobra.Command, name string) error {
	full := strings.TrimSpace(path(c) + " " + name)
	c.SuggestionsMinimumDistance = 2 // letters
	var near []string
	for _, s := range c.SuggestionsFor(name) {
		near = append(near, strings.TrimSpace(path(c)+" "+s))
	}
	if len(near) > 0 {
		return usage("there is no command %q; is it %s?", full, strings.Join(near, " or "))
	}
	return usage("there is no command %q; there are %s", full, strings.Join(names(c), ", "))
}

// helpHint is where to read on after a command line that makes no sense.
func helpHint(c *cobra.Command) string {
	if c == nil || !c.HasParent() {
		return "see drawbridge --help"
	}
	return fmt.Sprintf("see %s --help", c.CommandPath())
}
