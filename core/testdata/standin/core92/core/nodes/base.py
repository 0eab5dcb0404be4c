import types

import emulation


class CoreNode(emulation.Node):
    pass


class Position(types.SimpleNamespace):
    pass
