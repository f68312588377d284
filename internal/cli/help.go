package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
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

// flagError says what is wrong with a flag in words of ours: the library gives away
// which function of Go's refused it.
func flagError(c *cobra.Command, err error) error {
	if none, ok := errors.AsType[*pflag.NotExistError](err); ok && none.GetSpecifiedShortnames() == "" {
		flags := &cobra.Command{SuggestionsMinimumDistance: 2} // it compares names of commands only
		c.Flags().VisitAll(func(f *pflag.Flag) {
			flags.AddCommand(&cobra.Command{Use: f.Name, Hidden: f.Hidden, Run: func(*cobra.Command, []string) {}})
		})
		if near := flags.SuggestionsFor(none.GetSpecifiedName()); len(near) > 0 {
			return fmt.Errorf("there is no flag --%s; is it --%s?", none.GetSpecifiedName(), strings.Join(near, " or --"))
		}
		return fmt.Errorf("there is no flag --%s", none.GetSpecifiedName())
	}
	if bad, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		what := map[string]string{"int": "a whole number", "duration": "a time with its unit, such as 90s, 30m or 2h", "bool": "true or false"}[bad.GetFlag().Value.Type()]
		if what != "" {
			return fmt.Errorf("--%s %s: this is not %s", bad.GetFlag().Name, bad.GetValue(), what)
		}
	}
	return err
}

// helpHint is where to read on after a command line that makes no sense.
func helpHint(c *cobra.Command) string {
	if c == nil || !c.HasParent() {
		return "see drawbridge --help"
	}
	return fmt.Sprintf("see %s --help", c.CommandPath())
}
