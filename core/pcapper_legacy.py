"""PCapper's services for CORE < 6.1, and for the classic GUI up to 9.0.3.

Services of these versions have no settings, so there is one for each variant,
and the generated script may be edited in the GUI. Also runs on Python 2.7.
"""

try:  # CORE 5.3.0 to 9.0.3
    from core.services.coreservices import CoreService, ServiceMode
except ImportError:  # CORE <= 5.2.2
    from core.service import CoreService, ServiceMode


def _interfaces(node):
    """Return the names of a node's interfaces, except those on control networks."""
    every = node.get_ifaces() if hasattr(node, "get_ifaces") else node.netifs()
    return [i.name for i in every if not getattr(i, "control", False)]


def _script(node, mode, only_first):
    names = _interfaces(node)
    if only_first:
        names = names[:1]
    return """#!/bin/sh
# Made by CORE's service; pcapper-core -h explains the settings.
export PCAPPER_INTERFACES='%s'
export PCAPPER_PORT=7073
export PCAPPER_MODE=%s
export PCAPPER_LOG=pcapper-%%i.log
export PCAPPER_ARGS=''
exec pcapper-core agent "$1"
""" % (" ".join(names), mode)


class PCapperLegacy(CoreService):
    """What the node sends, on all its interfaces."""

    name = "PCapper"
    group = "PCapper"
    executables = ("pcapper", "pcapper-core")
    dependencies = ()
    dirs = ()
    configs = ("pcapper.sh",)
    startup = ("sh pcapper.sh start",)
    validate = ("sh pcapper.sh check",)
    shutdown = ("sh pcapper.sh stop",)
    validation_mode = ServiceMode.NON_BLOCKING
    validation_timer = 10

    mode = "src"
    only_first = False

    @classmethod
    def generate_config(cls, node, filename):
        return _script(node, cls.mode, cls.only_first)


class PCapperReceivedLegacy(PCapperLegacy):
    """What the node receives, on all its interfaces."""

    name = "PCapperReceived"
    mode = "dst"


class PCapperAllLegacy(PCapperLegacy):
    """All traffic of all interfaces."""

    name = "PCapperAll"
    mode = "none"


class PCapperFirstLegacy(PCapperLegacy):
    """What the node sends on its first interface."""

    name = "PCapperFirst"
    only_first = True
