"""Loads service files as CORE does and makes the services of some nodes.

drive.py STANDIN DIRECTORY reads a session from standard input,
  [{"id": 1, "name": "n1", "ifaces": [{"name": "eth0", "addrs": ["10.0.0.1/24"], "control": false}],
    "services": {"PCapper": {"mode": "dst"}}}]
and prints what there is of services, and for each node's services what CORE
would write and run.
"""

import importlib
import inspect
import json
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


class Iface(object):
    def __init__(self, spec, old):
        self.name, self.control = spec["name"], spec.get("control", False)
        if old:
            self.addrlist = spec["addrs"]
            if not self.control:
                del self.control  # CORE sets it on control interfaces only
        else:
            self.ip4s = [a for a in spec["addrs"] if ":" not in a]
            self.ip6s = [a for a in spec["addrs"] if ":" in a]


class Node(object):
    def __init__(self, spec, session, kind):
        self.id, self.name, self.session, self.spec = spec["id"], spec["name"], session, spec
        self._ifaces = [Iface(i, kind in ("core61", "core52")) for i in spec["ifaces"]]
        self.services = [] if kind != "core92" else {}
        if kind in ("core90", "core61"):
            self.config_services = {}


class NewNode(Node):
    def get_ifaces(self, control=True):
        return [i for i in self._ifaces if control or not i.control]


class OldNode(Node):
    def netifs(self, sort=False):
        return self._ifaces


class Session(object):
    def __init__(self):
        self.nodes = {}


def load(directory, base):
    """Every class of a directory's modules, as CORE finds them."""
    sys.path.append(os.path.dirname(directory))
    found = {}
    for file in sorted(os.listdir(directory)):
        if not file.endswith(".py") or file.startswith("_"):
            continue
        name = "%s.%s" % (os.path.basename(directory), file[:-3])
        module = importlib.import_module(name)
        for _, c in inspect.getmembers(module, inspect.isclass):
            if c.__module__ == name and issubclass(c, base):
                assert c.name not in found, c.name
                found[c.name] = c
    return found


def base_of(kind, legacy):
    if kind == "core92":
        return importlib.import_module("core.services.base").CoreService
    if kind == "core52":
        return importlib.import_module("core.service").CoreService
    if legacy:
        return importlib.import_module("core.services.coreservices").CoreService
    return importlib.import_module("core.configservice.base").ConfigService


def make(node, cls, legacy, config):
    if legacy:
        files = {name: cls.generate_config(node, name) for name in cls.configs}
        for commands in (cls.startup, cls.validate, cls.shutdown):
            assert isinstance(commands, tuple)
        return files
    files = {name: node.made[cls.name].rendered(name) for name in cls.files}
    for commands in (cls.startup, cls.validate, cls.shutdown):
        assert isinstance(commands, list)
    return files


def main():
    kind, directory, legacy = sys.argv[1], sys.argv[2], sys.argv[3:] == ["legacy"]
    legacy = legacy or kind == "core52"
    sys.path[:0] = [os.path.join(HERE, "standin", kind), os.path.join(HERE, "standin")]
    services = load(directory, base_of(kind, legacy))
    session = Session()
    for spec in json.load(sys.stdin):
        node = (OldNode if kind in ("core61", "core52") else NewNode)(spec, session, kind)
        node.made = {}
        session.nodes[node.id] = node
        for name, config in (spec.get("services") or {}).items():
            if legacy:
                node.services.append(services[name])
                continue
            service = node.made[name] = services[name](node)
            service.set_config(config)
            (node.services if kind == "core92" else node.config_services)[name] = service
    answer = {"services": {}, "nodes": {}}
    for name, c in services.items():
        assert c.validation_mode.name == "NON_BLOCKING" and len(c.validate) == 1
        answer["services"][name] = {
            "executables": list(c.executables),
            "modes": getattr(c, "modes", {}),
            "configs": {d.id: d.default for d in getattr(c, "default_configs", [])},
        }
    for node in session.nodes.values():
        made = answer["nodes"][node.name] = {}
        for name, config in (node.spec.get("services") or {}).items():
            c = services[name]
            made[name] = {
                "files": make(node, c, legacy, config),
                "startup": list(c.startup), "validate": list(c.validate), "shutdown": list(c.shutdown),
            }
    json.dump(answer, sys.stdout)


main()
