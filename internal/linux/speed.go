package linux

import (
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
	data *ethtoolCmd
	_    [16]byte
}

// speeds asks drivers how fast their links are, in Mbit/s; what is not known is
// missing. Taps and bridges are not asked: they have no speed of their own.
func speeds(links []link) map[string]int {
	out := map[string]int{}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return out // it is only to be looked at
	}
	defer unix.Close(fd)
	for _, l := range links {
		if l.Type == "tun" || l.Type == "bridge" || !l.carrier {
			continue
		}
		cmd := &ethtoolCmd{cmd: unix.ETHTOOL_GSET}
		req := ethtoolRequest{data: cmd}
		copy(req.name[:unix.IFNAMSIZ-1], l.Name)
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req)))
		runtime.KeepAlive(cmd)
		// -1 is SPEED_UNKNOWN.
		if speed := int32(uint32(cmd.speedHigh)<<16 | uint32(cmd.speed)); errno == 0 && speed > 0 && cmd.speed != 0xffff {
			out[l.Name] = int(speed)
		}
	}
	return out
}
