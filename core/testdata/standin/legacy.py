"""The services of CORE before config services."""

import enum


class ServiceMode(enum.Enum):
    BLOCKING = 0
    NON_BLOCKING = 1
    TIMER = 2


class CoreService(object):
    name = None
    group = None
    executables = ()
    dependencies = ()
    dirs = ()
    configs = ()
    startup = ()
    validate = ()
    shutdown = ()
    validation_mode = ServiceMode.NON_BLOCKING
    validation_timer = 5
    validation_period = 0.5

    @classmethod
    def generate_config(cls, node, filename):
        raise NotImplementedError
