"""Sessions as a script sees them: what it does is written to $STANDIN_LOG, and what
$STANDIN_FAIL names raises an exception, or, if it is "controlnet", does nothing.
"""

import os
import tempfile
import types


def note(what):
    with open(os.environ["STANDIN_LOG"], "a") as f:
        f.write(what + "\n")
    if os.environ.get("STANDIN_FAIL") == what:
        raise RuntimeError("%s fails" % what)


class Service:
    def set_config(self, config):
        self.config = config


class Node:
    kind = "services"

    @classmethod
    def create_options(cls):
        return types.SimpleNamespace(**{"model": "PC", cls.kind: []})

    def __init__(self, number, name, options):
        self.id, self.name, self.ifaces = number, name, []
        made = {name: Service() for name in getattr(options, self.kind)} if options else {}
        # Before 9.1 services were a list of classes of the older kind.
        self.services = made if self.kind == "services" else []
        self.config_services = made

    def get_ifaces(self):
        return self.ifaces


class Options(dict):
    def set(self, name, value):
        self[name] = value


class Session:
    def __init__(self):
        self.options, self.nodes = Options(), {}
        self.directory = tempfile.mkdtemp()
        self.mobility = types.SimpleNamespace(set_model_config=lambda *_: note("mobility"))

    def set_state(self, state):
        note("state")

    def add_node(self, cls, _id, name, position, options=None):
        note("add_node")
        self.nodes[_id] = Node(_id, name, options)
        return self.nodes[_id]

    def add_link(self, node1, node2, iface):
        note("add_link")
        self.nodes[node1].ifaces.append(types.SimpleNamespace(control=False))

    def control(self):
        return self.options.get("controlnet")

    def instantiate(self):
        note("instantiate")
        if self.control() and os.environ.get("STANDIN_FAIL") != "controlnet":
            for node in self.nodes.values():
                node.ifaces.append(types.SimpleNamespace(control=True))

    def shutdown(self):
        note("shutdown")
        os.rmdir(self.directory)


class SessionThatIsTold(Session):
    """As of 9.2: options count when parse_options is called."""

    parsed = None

    def parse_options(self):
        note("parse_options")
        self.parsed = dict(self.options)

    def control(self):
        return (self.parsed or {}).get("controlnet")


class CoreEmu:
    session = Session

    def __init__(self):
        self.service_manager = types.SimpleNamespace(load=lambda path: note("load"))

    def create_session(self):
        return self.session()
