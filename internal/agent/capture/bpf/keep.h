// Code generated from keep.go of package decode by "go generate"; DO NOT EDIT.

#define KEEP_PLAIN 64
#define KEEP_HEADERS 112
#define KEEP_MOST 256

// enough says how many bytes of an Ethernet frame a decoder can need, given the first 48.
INLINE u32 enough(const u8 *d, u32 gso_size)
{
	if (gso_size != 0x0)
		return KEEP_MOST;
	if (get16(d + 12) != 0x800)
		return KEEP_MOST;
	if (d[14] != 0x45)
		return KEEP_MOST;
	if (d[23] != 0x11)
		return KEEP_MOST;
	if ((get16(d + 20) & 0x3fff) != 0x0)
		return KEEP_MOST;
	if (inside != 0x0 && get16(d + 36) == 0xc60a)
		return KEEP_MOST;
	if (inside != 0x0 && get16(d + 36) == 0x12b5)
		return KEEP_MOST;
	if (inside != 0x0 && get16(d + 36) == 0x2118)
		return KEEP_MOST;
	if (inside != 0x0 && get16(d + 36) == 0x17c1)
		return KEEP_MOST;
	if (inside != 0x0 && get16(d + 36) == 0x19eb)
		return KEEP_MOST;
	if (get16(d + 38) < 0x24)
		return KEEP_PLAIN;
	if (d[44] != 0x2 && d[44] != 0x4)
		return KEEP_PLAIN;
	if (get16(d + 42) + 8 != get16(d + 38))
		return KEEP_PLAIN;
	if ((d[45] & 0xe0) != 0x0)
		return KEEP_PLAIN;
	if ((d[45] & 0x4) != 0x0)
		return KEEP_MOST;
	return KEEP_HEADERS;
}

// enough6 says it of a frame of which enough() said KEEP_MOST, given the first KEEP_HEADERS.
INLINE u32 enough6(const u8 *d, u32 gso_size)
{
	if (gso_size != 0x0)
		return KEEP_MOST;
	if (get16(d + 12) != 0x86dd)
		return KEEP_MOST;
	if (d[20] != 0x11)
		return KEEP_MOST;
	if (inside != 0x0 && get16(d + 56) == 0xc60a)
		return KEEP_MOST;
	if (inside != 0x0 && get16(d + 56) == 0x12b5)
		return KEEP_MOST;
	if (inside != 0x0 && get16(d + 56) == 0x2118)
		return KEEP_MOST;
	if (inside != 0x0 && get16(d + 56) == 0x17c1)
		return KEEP_MOST;
	if (inside != 0x0 && get16(d + 56) == 0x19eb)
		return KEEP_MOST;
	if ((d[65] & 0x4) != 0x0)
		return KEEP_MOST;
	return KEEP_HEADERS;
}

// parsed says why a plain UDP datagram is not MGEN's, given its frame's first 48 bytes; 0 if it may be, or the frame is another.
INLINE u32 parsed(const u8 *d, u32 gso_size)
{
	if (gso_size != 0x0)
		return 0;
	if (get16(d + 12) != 0x800)
		return 0;
	if (d[14] != 0x45)
		return 0;
	if (d[23] != 0x11)
		return 0;
	if ((get16(d + 20) & 0x3fff) != 0x0)
		return 0;
	if (get16(d + 38) < 0x8)
		return 0;
	if (get16(d + 16) < get16(d + 38) + 20)
		return 0;
	if (inside != 0x0 && get16(d + 36) == 0xc60a)
		return 0;
	if (inside != 0x0 && get16(d + 36) == 0x12b5)
		return 0;
	if (inside != 0x0 && get16(d + 36) == 0x2118)
		return 0;
	if (inside != 0x0 && get16(d + 36) == 0x17c1)
		return 0;
	if (inside != 0x0 && get16(d + 36) == 0x19eb)
		return 0;
	if (get16(d + 38) < 0x24)
		return 1;
	if (d[44] != 0x2 && d[44] != 0x4)
		return 3;
	if (get16(d + 42) + 8 != get16(d + 38))
		return 4;
	if ((d[45] & 0xe0) != 0x0)
		return 5;
	return 0;
}
