package linux

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// captureBuffer holds a tenth of a second of 10 Gbit/s while the reader is away.
const captureBuffer = 64 << 20

// OpenCapture opens a packet socket (packet(7)) that receives nothing until it is
// bound to the index returned, which takes no privileges.
func OpenCapture(link string) (f *os.File, index int, err error) {
	if index, err = linkIndex(link); err != nil {
		return nil, 0, fmt.Errorf("capture on %s: %w", link, err)
	}
	f, err = openSocket("capture on "+link, unix.AF_PACKET, unix.SOCK_RAW, 0,
		// Beyond net.core.rmem_max, which the process that reads may not go itself.
		intOption(unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureBuffer))
	return f, index, err
}
