#!/usr/bin/env python3
"""Four nodes on one wireless LAN with mgen traffic, watched by PCapper.

Run it as root with CORE's Python (>= 9.0):
    /opt/core/venv/bin/python wlan.py
It is wlan.xml as a script: agents on n1 to n4, the collector with its page on
n4, reached from the host at http://172.16.0.4:7080/. Enter, Ctrl-C or SIGTERM
end it, and the session with it.
"""

import os
import pathlib
import signal
import subprocess
import sys

from core.emulator.coreemu import CoreEmu
from core.emulator.data import InterfaceData
from core.emulator.enumerations import EventTypes
from core.location.mobility import BasicRangeModel
from core.nodes.base import CoreNode, Position
from core.nodes.network import WlanNode

SERVICES = "/usr/local/share/pcapper/pcapper_core"  # as make install-core says
CONTROL = "172.16.0.0/24"
AGENT = {"mode": "none", "ipfix": "4739"}
# By the control network or not at all: the wireless one is what is measured.
COLLECTOR = {"flows": "1=M101 2=M102 3=M201", "http": "0.0.0.0:7080", "lines": "lines.txt", "via": "control"}
PLACES = [(200, 150), (500, 150), (500, 400), (200, 400)]


def services_of(node):
    """The node's services by name: since 9.1 there is one kind."""
    return node.services if isinstance(node.services, dict) else node.config_services


def set_control_network(session):
    session.options.set("controlnet", CONTROL)
    if hasattr(session, "parse_options"):  # CORE >= 9.2 reads them only when told
        session.parse_options()


def add_node(session, number, names):
    options = CoreNode.create_options()
    options.model = None  # no default services
    if hasattr(options, "config_services"):  # CORE 9.0
        options.config_services = names
    else:
        options.services = names
    x, y = PLACES[number - 1]
    return session.add_node(CoreNode, _id=number, name="n%d" % number, position=Position(x=x, y=y), options=options)


def build(session):
    session.set_state(EventTypes.CONFIGURATION_STATE)
    set_control_network(session)
    wlan = session.add_node(WlanNode, _id=5, name="wlan", position=Position(x=350, y=275))
    session.mobility.set_model_config(wlan.id, BasicRangeModel.name, {
        "range": "1000", "bandwidth": "11000000", "jitter": "0", "delay": "5000", "error": "2.0",
    })
    nodes = []
    for number in range(1, 5):
        names = ["PCapper"] + (["PCapperCollector"] if number == 4 else [])
        node = add_node(session, number, names)
        nodes.append(node)
        services_of(node)["PCapper"].set_config(AGENT)
        if number == 4:
            services_of(node)["PCapperCollector"].set_config(COLLECTOR)
        iface = InterfaceData(id=0, ip4="10.0.0.%d" % number, ip4_mask=24, ip6="2001::%d" % number, ip6_mask=64)
        session.add_link(node.id, wlan.id, iface)
    session.instantiate()
    for node in nodes:
        if not any(getattr(i, "control", False) for i in node.get_ifaces()):
            raise RuntimeError("%s is on no control network although controlnet is %s: is another session using it?" % (node.name, CONTROL))


def wait():
    """Waits for the user, or for a signal if nobody can press enter."""
    try:
        input("press enter to end ")
    except EOFError:
        signal.pause()


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    # custom_services_dir is read from core.conf by core-daemon only.
    core = CoreEmu()
    core.service_manager.load(pathlib.Path(SERVICES))
    session = core.create_session()
    try:
        build(session)
        here = os.path.dirname(os.path.abspath(__file__))
        subprocess.run(["sh", os.path.join(here, "traffic.sh"), str(session.directory)], check=True)
        print("the page: http://172.16.0.4:7080/   lines: %s/n4.conf/lines.txt" % session.directory, flush=True)
        wait()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    finally:
        session.shutdown()


if __name__ == "__main__":
    main()
