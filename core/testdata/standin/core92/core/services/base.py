import enum

import rendering


class ServiceMode(enum.Enum):
    BLOCKING = 0
    NON_BLOCKING = 1
    TIMER = 2


class CoreService(rendering.Rendering):
    name = None
    group = None
    directories = []
    files = []
    default_configs = []
    executables = []
    dependencies = []
    startup = []
    validate = []
    shutdown = []
    validation_mode = ServiceMode.BLOCKING
    modes = {}
    validation_period = 0.5
    validation_timer = 5
