import dataclasses


@dataclasses.dataclass
class Configuration:
    id: str
    type: object
    label: str = None
    default: str = ""
    options: list = dataclasses.field(default_factory=list)
