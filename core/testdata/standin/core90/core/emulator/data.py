import types


class InterfaceData(types.SimpleNamespace):
    pass
