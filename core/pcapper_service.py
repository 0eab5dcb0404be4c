"""PCapper's services for CORE >= 6.1: an agent on a node, and a collector.

CORE >= 9.1 has one kind of service; 6.1 to 9.0.3 call the same kind "config
services". They generate short scripts that run pcapper-core(1).
"""

import logging
import shlex

from core.config import Configuration

try:
    from core.emulator.enumerations import ConfigDataTypes
except ImportError:
    from core.config import ConfigDataTypes

try:  # CORE >= 9.1
    from core.services import base as _base

    _Service = getattr(_base, "CoreService", None) or _base.Service
    _Mode = _base.ServiceMode
except (ImportError, AttributeError):  # CORE 6.1 to 9.0.3
    from core.configservice.base import ConfigService as _Service
    from core.configservice.base import ConfigServiceMode as _Mode

_log = logging.getLogger(__name__)

# Mako renders templates. This one leaves the text unchanged, even if it contains
# special characters of a shell or of Mako.
_TEMPLATE = "${text(config)}"

_AGENT = {
    "interfaces": "",
    "port": "7073",
    "mode": "src",
    "filter": "",
    "ipfix": "0",
    "log": "pcapper-%i.log",
    "arguments": "",
}

_COLLECTOR = {
    "flows": "",
    "http": "0.0.0.0:7080",
    "lines": "",
    "via": "auto",
    "arguments": "",
}


def _settings(defaults, config):
    """Return all settings; a user's configuration may lack some keys."""
    found = dict(defaults)
    for key, value in (config or {}).items():
        if key in found and value is not None:
            found[key] = str(value).strip()
    return found


def _number(settings, key, most):
    """Return a setting as a number."""
    text = settings[key] or "0"
    if not text.isdigit() or int(text) > most:
        raise ValueError("PCapper: %s %r: want a number from 0 to %d" % (key, text, most))
    return int(text)


def _words(settings, key):
    """Return a setting as words for a shell; only the quoting is checked."""
    try:
        return [shlex.quote(word) for word in shlex.split(settings[key])]
    except ValueError as e:
        raise ValueError("PCapper: %s %r: %s" % (key, settings[key], e))


def _interfaces(node, control=False):
    """Return a node's data interfaces, or those on control networks."""
    if hasattr(node, "get_ifaces"):
        every = node.get_ifaces()
    else:  # CORE 6
        every = node.netifs()
    return [i for i in every if bool(getattr(i, "control", False)) == control]


def _addresses(iface):
    """Return an interface's addresses, IPv4 first, without their masks."""
    found = []
    for name in ("ip4s", "ip6s"):  # CORE >= 7
        found += [str(a) for a in getattr(iface, name, [])]
    found += [str(a) for a in getattr(iface, "addrlist", [])]  # CORE 6
    found = [a.split("/")[0] for a in found]
    return sorted(found, key=lambda a: ":" in a)


def _script(what, settings):
    """Return a script that runs pcapper-core with settings."""
    lines = [
        "#!/bin/sh",
        "# Made by CORE's service; pcapper-core -h explains the settings.",
    ]
    for name, value in settings:
        lines.append("export %s=%s" % (name, shlex.quote(value)))
    lines.append('exec pcapper-core %s "$1"' % what)
    return "\n".join(lines) + "\n"


def _agent_interfaces(node, settings):
    names = settings["interfaces"].replace(",", " ").split()
    return names or [i.name for i in _interfaces(node)]


def _agent_script(node, config):
    s = _settings(_AGENT, config)
    return _script(
        "agent",
        [
            ("PCAPPER_INTERFACES", " ".join(_agent_interfaces(node, s))),
            ("PCAPPER_PORT", str(_number(s, "port", 65535) or 7073)),
            ("PCAPPER_IPFIX_PORT", str(_number(s, "ipfix", 65535))),
            ("PCAPPER_MODE", s["filter"] or s["mode"] or "src"),
            ("PCAPPER_LOG", s["log"] or "/dev/null"),
            ("PCAPPER_ARGS", " ".join(_words(s, "arguments"))),
        ],
    )


def _agent_of(node):
    """Return the PCapper service of a node, or None."""
    for name in ("services", "config_services"):
        services = getattr(node, name, None)
        if isinstance(services, dict) and "PCapper" in services:
            return services["PCapper"]
    return None


def _reach(here, node, iface, via):
    """Return the address at which a collector on node here reaches another node's agent.

    On the control network this is the network's address plus the node's number,
    because other nodes may not have been assigned theirs yet.
    """
    if via != "data":
        for control in _interfaces(here, control=True):
            for a in _addresses(control):
                if ":" not in a:
                    return "%s.%d" % (a.rsplit(".", 1)[0], node.id)
        if via == "control":
            raise ValueError("PCapper: %s is on no control network: set controlnet in the session's options" % here.name)
    found = _addresses(iface)
    return found[0] if found else None


def _agent_lines(here, node, service, via):
    s = _settings(_AGENT, service.render_config())
    port, ipfix = _number(s, "port", 65535) or 7073, _number(s, "ipfix", 65535)
    by_name = {i.name: i for i in _interfaces(node)}
    names = _agent_interfaces(node, s)
    for k, name in enumerate(names):
        label = node.name if len(names) == 1 else "%s.%s" % (node.name, name)
        at = _reach(here, node, by_name.get(name), via)
        if at is None:
            continue
        if ":" in at:
            at = "[%s]" % at
        if ipfix:
            yield "%s:ipfix://%s:%d" % (label, at, ipfix + k)
        else:
            yield "%s:%s:%d" % (label, at, port + k)


def _collector_conf(here, config):
    s = _settings(_COLLECTOR, config)
    lines = ["# Made by CORE's service from the session's nodes."]
    if s["via"] == "auto" and not _interfaces(here, control=True):
        problem = "%s is on no control network: agents are reached by the network that is watched" % here.name
        _log.warning("PCapper: %s; set controlnet in the session's options, or via to data", problem)
        lines.append("# " + problem)
    lines += [flow.strip() for flow in s["flows"].replace(",", " ").split()]
    nodes = here.session.nodes
    for number in sorted(nodes):
        service = _agent_of(nodes[number])
        if service is not None:
            lines += _agent_lines(here, nodes[number], service, s["via"])
    return "\n".join(lines) + "\n"


def _collector_script(config):
    s = _settings(_COLLECTOR, config)
    return _script(
        "collector",
        [
            ("RECOLLECT_CONF", "collector.conf"),
            ("RECOLLECT_HTTP", s["http"]),
            ("RECOLLECT_LINES", s["lines"]),
            ("RECOLLECT_VIA", s["via"]),
            ("RECOLLECT_ARGS", " ".join(_words(s, "arguments"))),
        ],
    )


class PCapper(_Service):
    """An agent for each watched interface of the node."""

    name = "PCapper"
    group = "PCapper"
    directories = []
    files = ["pcapper.sh"]
    executables = ["pcapper", "pcapper-core"]
    dependencies = []
    startup = ["sh pcapper.sh start"]
    validate = ["sh pcapper.sh check"]
    shutdown = ["sh pcapper.sh stop"]
    validation_mode = _Mode.NON_BLOCKING
    validation_timer = 10
    validation_period = 0.5
    default_configs = [
        Configuration("interfaces", ConfigDataTypes.STRING, "Interfaces (empty: all)", _AGENT["interfaces"]),
        Configuration("port", ConfigDataTypes.UINT16, "TCP port (+1 per interface)", _AGENT["port"]),
        Configuration("mode", ConfigDataTypes.STRING, "Packets", _AGENT["mode"], ["src", "dst", "spoof", "none"]),
        Configuration("filter", ConfigDataTypes.STRING, "or pcap filter", _AGENT["filter"]),
        Configuration("ipfix", ConfigDataTypes.UINT16, "IPFIX port (0: none)", _AGENT["ipfix"]),
        Configuration("log", ConfigDataTypes.STRING, "Log file (%i interface, %n node)", _AGENT["log"]),
        Configuration("arguments", ConfigDataTypes.STRING, "More arguments", _AGENT["arguments"]),
    ]
    modes = {
        "sourced traffic": dict(_AGENT),
        "received traffic": dict(_AGENT, mode="dst"),
        "relayed echoes": dict(_AGENT, mode="spoof"),
        "all traffic, for the dashboard": dict(_AGENT, mode="none", ipfix="4739"),
        "first interface only": dict(_AGENT, interfaces="eth0"),
    }

    def data(self):
        return {"text": lambda config: _agent_script(self.node, config)}

    def get_text_template(self, name):
        return _TEMPLATE


class PCapperCollector(_Service):
    """recollect on a node, for all of the session's nodes with PCapper."""

    name = "PCapperCollector"
    group = "PCapper"
    directories = []
    files = ["collector.conf", "recollect.sh"]
    executables = ["recollect", "pcapper-core"]
    dependencies = []
    startup = ["sh recollect.sh start"]
    validate = ["sh recollect.sh check"]
    shutdown = ["sh recollect.sh stop"]
    validation_mode = _Mode.NON_BLOCKING
    validation_timer = 10
    validation_period = 0.5
    default_configs = [
        Configuration("flows", ConfigDataTypes.STRING, "Flows (1=5001 2=M100-199)", _COLLECTOR["flows"]),
        Configuration("http", ConfigDataTypes.STRING, "Web page at (empty: none)", _COLLECTOR["http"]),
        Configuration("lines", ConfigDataTypes.STRING, "File for grapher lines", _COLLECTOR["lines"]),
        Configuration("via", ConfigDataTypes.STRING, "Agents by network", _COLLECTOR["via"], ["auto", "control", "data"]),
        Configuration("arguments", ConfigDataTypes.STRING, "More arguments", _COLLECTOR["arguments"]),
    ]
    modes = {}

    def data(self):
        return {
            "conf": lambda config: _collector_conf(self.node, config),
            "script": lambda config: _collector_script(config),
        }

    def get_text_template(self, name):
        return "${conf(config)}" if name == "collector.conf" else "${script(config)}"
