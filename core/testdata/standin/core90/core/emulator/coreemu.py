from emulation import CoreEmu  # noqa: F401
