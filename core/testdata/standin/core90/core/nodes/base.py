import types

import emulation


emulation.Node.kind = "config_services"


class CoreNode(emulation.Node):
    pass


class Position(types.SimpleNamespace):
    pass
