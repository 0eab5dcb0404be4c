import abc
import enum

import rendering


class ConfigServiceMode(enum.Enum):
    BLOCKING = 0
    NON_BLOCKING = 1
    TIMER = 2


def _required():
    return abc.abstractproperty(lambda self: None)


class ConfigService(rendering.Rendering, abc.ABC):
    validation_period = 0.5
    validation_timer = 5
    name = _required()
    group = _required()
    directories = _required()
    files = _required()
    default_configs = _required()
    modes = _required()
    executables = _required()
    dependencies = _required()
    startup = _required()
    validate = _required()
    shutdown = _required()
    validation_mode = _required()
