package linux

import (
	"iter"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ethtoolCmd is struct ethtool_cmd of linux/ethtool.h; every driver answers to it,
// those of newer forms by way of the kernel (ethtool_get_settings in
// net/ethtool/ioctl.c).
type ethtoolCmd struct {
	cmd, supported, advertising uint32
	speed                       uint16
	duplex, port, phy, xcvr     uint8
	autoneg, mdio               uint8
	maxTx, maxRx                uint32
	speedHigh                   uint16
	mdix, mdixCtrl              uint8
	lpAdvertising               uint32
	_                           [2]uint32
}

// ethtoolRequest is struct ifreq with ifr_data.
type ethtoolRequest struct {
	name [unix.IFNAMSIZ]byte
	data unsafe.Pointer
	_    [16]byte
}

// askEthtool sends an ethtool command about a link.
func askEthtool(fd int, name string, data unsafe.Pointer) error {
	req := ethtoolRequest{data: data}
	copy(req.name[:unix.IFNAMSIZ-1], name)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req)))
	runtime.KeepAlive(data)
	if errno != 0 {
		return errno
	}
	return nil
}

// speeds asks drivers how fast their links are, in Mbit/s; what is not known is
// missing. Taps and bridges are not asked: they have no speed of their own.
func speeds(links iter.Seq[link]) map[string]int {
	out := map[string]int{}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return out // it is only to be looked at
	}
	defer unix.Close(fd)
	for l := range links {
		if l.Type == "tun" || l.Type == "bridge" || !l.carrier {
			continue
		}
		cmd := &ethtoolCmd{cmd: unix.ETHTOOL_GSET}
		err := askEthtool(fd, l.Name, unsafe.Pointer(cmd))
		// -1 is SPEED_UNKNOWN.
		if speed := int32(uint32(cmd.speedHigh)<<16 | uint32(cmd.speed)); err == nil && speed > 0 && cmd.speed != 0xffff {
			out[l.Name] = int(speed)
		}
	}
	return out
}

// carrier asks a driver whether a link that is up has a carrier; known is false
// if it does not say.
func carrier(fd int, name string) (is, known bool) {
	value := &struct{ cmd, data uint32 }{cmd: unix.ETHTOOL_GLINK} // struct ethtool_value
	err := askEthtool(fd, name, unsafe.Pointer(value))
	return value.data != 0, err == nil
}
