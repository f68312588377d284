package hostconf

import "strings"

// takeOutSettings returns before with what others changed from ours to edited, setting
// by setting (nm-settings-keyfile(5)): what they set is set, what they removed is
// removed. What they changed of the bridge itself goes with it. Comments and the
// order are those of before.
func takeOutSettings(before, ours, edited []byte) []byte {
	was, is := settingsOf(ours), settingsOf(edited)
	out := lines(before)
	for _, at := range is.order {
		if old, had := was.values[at]; !aboutBridge(at) && (!had || old != is.values[at]) {
			out = setSetting(out, at, is.values[at])
		}
	}
	for _, at := range was.order {
		if _, has := is.values[at]; !has && !aboutBridge(at) {
			out = dropSetting(out, at)
		}
	}
	return []byte(strings.Join(out, ""))
}

// place is where a setting stands.
type place struct{ section, key string }

type settingList struct {
	order  []place
	values map[place]string
}

func settingsOf(text []byte) settingList {
	l := settingList{values: map[place]string{}}
	settings(parseSections(string(text)), func(section, key, value string) {
		at := place{section, key}
		if _, twice := l.values[at]; !twice {
			l.order = append(l.order, at)
		}
		l.values[at] = value
	})
	return l
}

// aboutBridge says whether a setting makes a connection a bridge's.
func aboutBridge(at place) bool {
	return at.section == "bridge" || at.section == "connection" && (at.key == "type" || at.key == "interface-name" || at.key == "autoconnect-slaves" || at.key == "autoconnect-ports")
}

// find returns the line of a setting, and the line behind its section's last; -1
// for what is not there.
func find(text []string, at place) (line, end int) {
	line, end = -1, -1
	section := ""
	for i, l := range text {
		trimmed := strings.TrimSpace(l)
		if strings.HasPrefix(trimmed, "[") && strings.HasSuffix(trimmed, "]") {
			section = trimmed[1 : len(trimmed)-1]
		}
		if section != at.section {
			continue
		}
		if trimmed != "" {
			end = i + 1
		}
		if key, _, ok := setting(l); ok && key == at.key {
			line = i
		}
	}
	return line, end
}

func setSetting(text []string, at place, value string) []string {
	fresh := at.key + "=" + value + "\n"
	line, end := find(text, at)
	switch {
	case line >= 0:
		text[line] = fresh
		return text
	case end < 0:
		text, end = append(text, "\n", "["+at.section+"]\n"), len(text)+2
	}
	if last := &text[end-1]; !strings.HasSuffix(*last, "\n") {
		*last += "\n"
	}
	return append(text[:end:end], append([]string{fresh}, text[end:]...)...)
}

func dropSetting(text []string, at place) []string {
	line, _ := find(text, at)
	if line < 0 {
		return text
	}
	return append(text[:line:line], text[line+1:]...)
}
