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
