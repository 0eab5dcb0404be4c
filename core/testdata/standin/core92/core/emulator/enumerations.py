import enum


class ConfigDataTypes(enum.Enum):
    UINT16 = 0x02
    UINT32 = 0x03
    STRING = 0x0A
    BOOL = 0x0B


class EventTypes(enum.Enum):
    CONFIGURATION_STATE = 2
