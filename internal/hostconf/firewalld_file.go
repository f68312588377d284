package hostconf

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"drawbridge/internal/host"
)

// What firewalld reads when it starts and reloads: zones that come with programs, and
// the administrator's, which go before them. Only a bridge that is named there is in
// its zone from the first packet on: over D-Bus it comes some 100 ms after the rules,
// as firewalld answers nobody before it has made its objects of all its services.
const (
	zoneThatComes  = "/usr/lib/firewalld/zones/" + host.OurZone + ".xml"
	ownZones       = "/etc/firewalld/zones"
	zoneFile       = ownZones + "/" + host.OurZone + ".xml"
	firewalldConf  = "/etc/firewalld/firewalld.conf"
	zoneFileOrigin = "<!-- Written by drawbridge from " + zoneThatComes + ", and taken away when its networks stop. -->"
)

// zoneFiles is what firewalld's files say about bridges.
type zoneFiles struct {
	// ours are in our zone. stale: the file is ours and not as we would write it today.
	ours  []string
	stale bool
	// elsewhere are links that the administrator put into other zones: named twice,
	// firewalld would not start.
	elsewhere []string
}

// stands says whether a bridge is in our zone's file as it should be.
func (z zoneFiles) stands(bridge string) bool {
	return slices.Contains(z.elsewhere, bridge) || slices.Contains(z.ours, bridge) && !z.stale
}

// hasZones says whether firewalld is installed, with our zone, and its administrator's
// folder is one that can be written to.
func (t tree) hasZones() bool {
	return unix.Access(t.path(ownZones), unix.W_OK) == nil && t.exists(zoneThatComes)
}

// readZones reads the files of all zones. A file that is no XML is as firewalld takes
// it: as one that says nothing.
func (t tree) readZones() (z zoneFiles, err error) {
	all := slices.Concat(t.glob(path.Dir(zoneThatComes)+"/*.xml"), t.glob(ownZones+"/*.xml"), t.glob(ownZones+"/*/*.xml"))
	for _, name := range all {
		content, err := t.read(name)
		if err != nil {
			return z, err
		}
		if name != zoneFile {
			z.elsewhere = append(z.elsewhere, linksOfZone(content)...)
			continue
		}
		z.ours = linksOfZone(content)
		if bytes.Contains(content, []byte(zoneFileOrigin)) {
			want, err := t.zoneWith(z.ours)
			if err != nil {
				return z, err
			}
			z.stale = !bytes.Equal(content, want)
		}
	}
	return z, nil
}

func linksOfZone(content []byte) (links []string) {
	if !bytes.Contains(content, []byte("<interface")) {
		return nil
	}
	var zone struct {
		Interfaces []struct {
			Name string `xml:"name,attr"`
		} `xml:"interface"`
	}
	_ = xml.Unmarshal(content, &zone)
	for _, i := range zone.Interfaces {
		links = append(links, i.Name)
	}
	return links
}

// zoneWith is the zone that comes with drawbridge, with bridges in it.
func (t tree) zoneWith(bridges []string) ([]byte, error) {
	content, err := t.read(zoneThatComes)
	if err != nil {
		return nil, err
	}
	head, body, ok := bytes.Cut(content, []byte("<zone>\n"))
	if !ok {
		return nil, fmt.Errorf("%s: it is no zone", zoneThatComes)
	}
	content = slices.Concat(head, []byte(zoneFileOrigin+"\n<zone>\n"), body)
	for _, b := range slices.Sorted(slices.Values(bridges)) {
		content = withLink(content, b)
	}
	return content, nil
}

func withLink(zone []byte, link string) []byte {
	at := bytes.LastIndex(zone, []byte("</zone>"))
	if at < 0 {
		return zone
	}
	return slices.Concat(zone[:at], fmt.Appendf(nil, "  <interface name=\"%s\"/>\n", link), zone[at:])
}

func withoutLink(zone []byte, link string) []byte {
	one := regexp.MustCompile(`[ \t]*<interface name="` + regexp.QuoteMeta(link) + `"\s*(/>|></interface>)[ \t]*\n?`)
	return one.ReplaceAll(zone, nil)
}

// bind has a bridge in our zone's file, or not. A file that the administrator made
// of our zone stays his but for that line; ours goes with the last bridge.
func (t tree) bind(bridge string, in bool) error {
	z, err := t.readZones()
	if err != nil {
		return err
	}
	in = in && !slices.Contains(z.elsewhere, bridge)
	f := file{Path: zoneFile}
	if err := t.lookBefore(&f); err != nil {
		return err
	}
	bridges := slices.DeleteFunc(slices.Clone(z.ours), func(b string) bool { return b == bridge })
	if in {
		bridges = append(bridges, bridge)
	}
	switch his := f.Before != nil && !bytes.Contains(f.Before, []byte(zoneFileOrigin)); {
	case his && in && !slices.Contains(z.ours, bridge):
		f.After = withLink(f.Before, bridge)
	case his && !in:
		f.After = withoutLink(f.Before, bridge)
	case his:
		f.After = f.Before
	case len(bridges) > 0:
		if f.After, err = t.zoneWith(bridges); err != nil {
			return err
		}
	}
	return t.put([]file{f})
}

// expects says whether a firewalld that is installed would stop the guests of a
// bridge as soon as it starts, and open only by a zone: it owns its table, and its
// default zone accepts only what is named.
func (t tree) expects(bridge string) bool {
	if !t.hasZones() {
		return false
	}
	conf := map[string]string{}
	for line := range strings.Lines(t.text(firewalldConf)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(key, "#") {
			conf[key] = value
		}
	}
	z, err := t.readZones()
	if err != nil || slices.Contains(z.elsewhere, bridge) || !strings.EqualFold(conf["NftablesTableOwner"], "yes") {
		return false
	}
	for _, folder := range []string{ownZones, path.Dir(zoneThatComes)} {
		if zone := t.text(folder + "/" + conf["DefaultZone"] + ".xml"); zone != "" {
			return !strings.Contains(zone, `target="ACCEPT"`)
		}
	}
	return true
}
