package hostconf

import (
	"context"

	"drawbridge/internal/host"
)

type ifupdown struct{}

func (ifupdown) name() string                                                    { return IfUpDown }
func (ifupdown) describe(context.Context, tree, *Description) (bool, error)      { return false, nil }
func (ifupdown) runtime(tree, host.Profile, Description) ([]file, error)         { return nil, nil }
func (ifupdown) permanent(tree, host.Profile, Description) ([]file, error)       { return nil, nil }
func (ifupdown) release(context.Context, tree, host.Profile, Description) error  { return nil }
func (ifupdown) hold(context.Context, tree, host.Profile, Description) error     { return nil }
func (ifupdown) takeOver(context.Context, tree, host.Profile, Description) error { return nil }
func (ifupdown) giveBack(context.Context, tree, host.Profile, Description) error { return nil }
func (ifupdown) verify(context.Context, tree, host.Profile, Description) error   { return nil }
