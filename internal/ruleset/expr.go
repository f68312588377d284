package ruleset

// Expr is one expression of a rule, as the kernel's virtual machine has it. The
// implementations are the types of this file.
//
// Registers are given as offsets in bytes into the machine's 64 bytes of data
// (NFT_REG32_00 is 0, NFT_REG_2 is 16); NoRegister where there is none.
type Expr interface{ expr() }

// NoRegister stands where an expression has no such register.
const NoRegister = -1

// The headers that Payload counts from (enum nft_payload_bases).
const (
	LinkHeader      = 0
	NetworkHeader   = 1
	TransportHeader = 2
)

// Comparisons (enum nft_cmp_ops).
const (
	Equal = iota
	NotEqual
	Less
	LessOrEqual
	Greater
	GreaterOrEqual
)

// Keys of Meta (enum nft_meta_keys).
const (
	MetaLen          = 0
	MetaProtocol     = 1
	MetaPriority     = 2
	MetaMark         = 3
	MetaIIF          = 4
	MetaOIF          = 5
	MetaIIFName      = 6
	MetaOIFName      = 7
	MetaIIFType      = 8
	MetaOIFType      = 9
	MetaSkUID        = 10
	MetaSkGID        = 11
	MetaTrace        = 12
	MetaNFProto      = 15
	MetaL4Proto      = 16
	MetaBridgeIn     = 17
	MetaBridgeOut    = 18
	MetaPacketType   = 19
	MetaIIFGroup     = 21
	MetaOIFGroup     = 22
	MetaIIFKind      = 26
	MetaOIFKind      = 27
	MetaSecondIIF    = 33
	MetaSecondIIName = 34
)

// Keys of Ct (enum nft_ct_keys).
const (
	CtState     = 0
	CtDirection = 1
	CtStatus    = 2
	CtMark      = 3
	CtHelper    = 6
	CtL3Proto   = 7
	CtSource    = 8
	CtTarget    = 9
	CtProtocol  = 10
	CtPortFrom  = 11
	CtPortTo    = 12
	CtZone      = 17
	CtSource4   = 19
	CtTarget4   = 20
	CtSource6   = 21
	CtTarget6   = 22
)

// Bits of Fib.Flags (enum nft_fib_flags) and its results (enum nft_fib_result).
const (
	FibSource  = 1
	FibTarget  = 2
	FibMark    = 4
	FibIIF     = 8
	FibOIF     = 16
	FibPresent = 32

	FibResultIndex = 1
	FibResultName  = 2
	FibResultType  = 3
)

type (
	// Payload loads bytes of a header.
	Payload struct{ Base, Offset, Len, Dst int }
	// PayloadSet writes bytes of a header.
	PayloadSet struct{ Base, Offset, Len, Src int }
	// Meta loads what the kernel knows about a packet beside its bytes.
	Meta struct {
		Key uint32
		Dst int
	}
	// MetaSet changes it.
	MetaSet struct {
		Key uint32
		Src int
	}
	// Ct loads what connection tracking knows. Direction is 0 (original) or 1
	// (reply), -1 if not given.
	Ct struct {
		Key       uint32
		Direction int
		Dst       int
	}
	// CtSet changes it.
	CtSet struct {
		Key uint32
		Src int
	}
	// Cmp ends the rule unless a register compares so with constant bytes.
	Cmp struct {
		Op   uint32
		Src  int
		Data []byte
	}
	// Range ends the rule unless a register is (or with Invert, is not) within.
	Range struct {
		Invert   bool
		Src      int
		From, To []byte
	}
	// Bitwise is dst = src & mask ^ xor, or a shift, or src op Src2.
	Bitwise struct {
		Op             uint32 // 0 mask and xor, 1 left, 2 right shift, 3 and, 4 or, 5 xor
		Src, Src2, Dst int
		Len            int
		Mask, Xor      []byte
		Shift          uint32
	}
	// Byteorder swaps bytes in units of Size.
	Byteorder struct{ Src, Dst, Len, Size int }
	// Immediate loads constant bytes.
	Immediate struct {
		Dst  int
		Data []byte
	}
	// Decide is a verdict.
	Decide struct{ Verdict Verdict }
	// Lookup looks a register up in a set; Dst takes what a map yields.
	Lookup struct {
		Set      *Set
		Name     string
		Src, Dst int
		Invert   bool
	}
	// Dynset puts a register into a set, perhaps with statements.
	Dynset struct {
		Name    string
		Src     int
		Invert  bool
		Limited bool
	}
	// Fib asks the routing tables.
	Fib struct {
		Result, Flags uint32
		Dst           int
	}
	// NAT translates. Kind is "snat", "dnat", "masquerade" or "redirect".
	NAT struct {
		Kind   string
		Family string // ip or ip6; "" for masquerade and redirect
		// Registers; NoRegister where not given.
		AddrMin, AddrMax, PortMin, PortMax int
		Flags                              uint32
	}
	// Reject answers and drops. Type is 0 icmp unreachable, 1 tcp reset, 2 icmpx.
	Reject struct{ Type, Code uint32 }
	// Counter counts.
	Counter struct{ Packets, Bytes uint64 }
	// Log writes to the log.
	Log struct {
		Prefix string
		Group  int // -1 for the kernel's log
	}
	// Limit ends the rule once (or with Over, until) more than Rate packets or
	// bytes in Seconds came.
	Limit struct {
		Rate, Seconds uint64
		Burst         uint32
		Bytes, Over   bool
	}
	// Notrack leaves the packet untracked.
	Notrack struct{}
	// QueueTo gives the packet to a program.
	QueueTo struct {
		Number, Total uint16
		Bypass        bool
	}
	// Match is an extension of iptables; Info its parameters as the kernel has them.
	Match struct {
		Name     string
		Revision uint32
		Info     []byte
	}
	// Target is an extension of iptables that acts.
	Target struct {
		Name     string
		Revision uint32
		Info     []byte
	}
	// Object refers to a named counter, quota, limit, helper … Type is the kernel's
	// number (NFT_OBJECT_*).
	Object struct {
		Type uint32
		Name string
	}
	// Harmless does nothing to the packet's way: a duplicate, a flow offload, "last".
	Harmless struct{ Name string }
	// Other is an expression that loads something which is not known here (Dst), or
	// decides by it (Dst is NoRegister).
	Other struct {
		Name string
		Dst  int
		Len  int
	}
)

func (Payload) expr()    {}
func (PayloadSet) expr() {}
func (Meta) expr()       {}
func (MetaSet) expr()    {}
func (Ct) expr()         {}
func (CtSet) expr()      {}
func (Cmp) expr()        {}
func (Range) expr()      {}
func (Bitwise) expr()    {}
func (Byteorder) expr()  {}
func (Immediate) expr()  {}
func (Decide) expr()     {}
func (Lookup) expr()     {}
func (Dynset) expr()     {}
func (Fib) expr()        {}
func (NAT) expr()        {}
func (Reject) expr()     {}
func (Counter) expr()    {}
func (Log) expr()        {}
func (Limit) expr()      {}
func (Notrack) expr()    {}
func (QueueTo) expr()    {}
func (Match) expr()      {}
func (Target) expr()     {}
func (Object) expr()     {}
func (Harmless) expr()   {}
func (Other) expr()      {}
