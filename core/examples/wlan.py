#!/usr/bin/env python3
"""Four nodes on one wireless LAN with mgen traffic, watched by PCapper.

Run it as root with CORE's Python (>= 9.0):
    /opt/core/venv/bin/python wlan.py
It is wlan.xml as a script: agents on n1 to n4, the collector with its page on
n4, reached from the host at http://172.16.0.4:7080/.
"""

import os
import pathlib
import subprocess

from core.emulator.coreemu import CoreEmu
from core.emulator.data import InterfaceData
from core.emulator.enumerations import EventTypes
from core.location.mobility import BasicRangeModel
from core.nodes.base import CoreNode, Position
from core.nodes.network import WlanNode

SERVICES = "/usr/local/share/pcapper/pcapper_core"  # as make install-core says
AGENT = {"mode": "none", "ipfix": "4739"}
COLLECTOR = {"flows": "1=M101 2=M102 3=M201", "http": "0.0.0.0:7080", "lines": "lines.txt"}
PLACES = [(200, 150), (500, 150), (500, 400), (200, 400)]


def services_of(node):
    """The node's services by name: since 9.1 there is one kind."""
    return node.services if isinstance(node.services, dict) else node.config_services


def add_node(session, number, names):
    options = CoreNode.create_options()
    options.model = None  # no default services
    if hasattr(options, "config_services"):  # CORE 9.0
        options.config_services = names
    else:
        options.services = names
    x, y = PLACES[number - 1]
    return session.add_node(CoreNode, _id=number, name="n%d" % number, position=Position(x=x, y=y), options=options)


def main():
    # custom_services_dir is read from core.conf by core-daemon only.
    core = CoreEmu()
    core.service_manager.load(pathlib.Path(SERVICES))
    session = core.create_session()
    session.set_state(EventTypes.CONFIGURATION_STATE)
    session.options.set("controlnet", "172.16.0.0/24")
    wlan = session.add_node(WlanNode, _id=5, name="wlan", position=Position(x=350, y=275))
    session.mobility.set_model_config(wlan.id, BasicRangeModel.name, {
        "range": "1000", "bandwidth": "11000000", "jitter": "0", "delay": "5000", "error": "2.0",
    })
    for number in range(1, 5):
        names = ["PCapper"] + (["PCapperCollector"] if number == 4 else [])
        node = add_node(session, number, names)
        services_of(node)["PCapper"].set_config(AGENT)
        if number == 4:
            services_of(node)["PCapperCollector"].set_config(COLLECTOR)
        iface = InterfaceData(id=0, ip4="10.0.0.%d" % number, ip4_mask=24, ip6="2001::%d" % number, ip6_mask=64)
        session.add_link(node.id, wlan.id, iface)
    session.instantiate()
    try:
        here = os.path.dirname(os.path.abspath(__file__))
        subprocess.run(["sh", os.path.join(here, "traffic.sh"), str(session.directory)], check=True)
        print("the page: http://172.16.0.4:7080/   lines: %s/n4.conf/lines.txt" % session.directory)
        input("press enter to end ")
    finally:
        session.shutdown()


if __name__ == "__main__":
    main()
